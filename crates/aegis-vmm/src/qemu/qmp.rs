//! The few words of QEMU's monitor protocol (QMP) that are needed, one connection for each command.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::VmmError;

/// Longest line taken from the monitor, bytes. Its replies to our commands are far shorter.
const LONGEST_LINE: u64 = 64 << 10;
/// How long the monitor may take for one command.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What one line from the monitor means for a command that waits.
#[derive(Debug, PartialEq)]
enum Reply {
    Greeting,
    Return(Value),
    Error(String),
    /// An event, or something newer than this code.
    Other,
}

fn parse(line: &[u8]) -> Option<Reply> {
    let mut value: Value = serde_json::from_slice(line).ok()?;
    let object = value.as_object_mut()?;
    if let Some(result) = object.remove("return") {
        return Some(Reply::Return(result));
    }
    if let Some(error) = object.get("error") {
        let text = error.get("desc").and_then(Value::as_str).unwrap_or("unknown error");
        return Some(Reply::Error(text.chars().take(500).collect()));
    }
    Some(if object.contains_key("QMP") { Reply::Greeting } else { Reply::Other })
}

/// A command and its arguments.
pub(super) type Command<'a> = (&'a str, Value);

/// Connects, executes commands one after the other until one fails, and returns the result of the last.
pub(super) async fn execute(
    socket: &Path,
    action: &'static str,
    commands: &[Command<'_>],
) -> Result<Value, VmmError> {
    let conversation = converse(socket, action, commands);
    match tokio::time::timeout(TIMEOUT, conversation).await {
        Ok(result) => result,
        Err(_) => Err(VmmError::Io { action, source: std::io::ErrorKind::TimedOut.into() }),
    }
}

async fn converse(socket: &Path, action: &'static str, commands: &[Command<'_>]) -> Result<Value, VmmError> {
    let io = VmmError::io(action);
    let stream = UnixStream::connect(socket).await.map_err(&io)?;
    let (reading, mut writing) = stream.into_split();
    let mut reading = BufReader::new(reading);
    next(&mut reading, action, |reply| matches!(reply, Reply::Greeting)).await?;
    let mut result = Value::Null;
    for (command, arguments) in std::iter::once(&("qmp_capabilities", json!({}))).chain(commands) {
        let request = json!({ "execute": command, "arguments": arguments });
        writing.write_all(format!("{request}\n").as_bytes()).await.map_err(&io)?;
        let reply =
            next(&mut reading, action, |reply| matches!(reply, Reply::Return(_) | Reply::Error(_))).await?;
        match reply {
            Reply::Error(message) => return Err(VmmError::Refused { action, message }),
            Reply::Return(value) => result = value,
            Reply::Greeting | Reply::Other => {}
        }
    }
    Ok(result)
}

async fn next(
    reading: &mut (impl AsyncBufReadExt + Unpin),
    action: &'static str,
    wanted: impl Fn(&Reply) -> bool,
) -> Result<Reply, VmmError> {
    loop {
        let mut line = Vec::new();
        let count = (&mut *reading)
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut line)
            .await
            .map_err(VmmError::io(action))?;
        if count == 0 || !line.ends_with(b"\n") {
            return Err(VmmError::Io { action, source: std::io::ErrorKind::UnexpectedEof.into() });
        }
        match parse(&line) {
            Some(reply) if wanted(&reply) => return Ok(reply),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn replies_are_told_apart() {
        assert_eq!(parse(b"{\"QMP\": {}}"), Some(Reply::Greeting));
        assert_eq!(parse(b"{\"return\": {\"a\": 1}}"), Some(Reply::Return(json!({"a": 1}))));
        assert_eq!(parse(b"{\"error\": {\"desc\": \"no\"}}"), Some(Reply::Error("no".into())));
        assert_eq!(parse(b"{\"event\": \"STOP\"}"), Some(Reply::Other));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(parse(&bytes));
        }
    }
}
