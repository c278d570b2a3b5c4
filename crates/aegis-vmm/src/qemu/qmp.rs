//! The few words of QEMU's monitor protocol (QMP) that are needed, one connection for each command.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Interest};
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

/// A command.
#[derive(Debug)]
pub(super) struct Command<'a> {
    name: &'a str,
    arguments: Value,
    /// Goes along with it.
    descriptor: Option<BorrowedFd<'a>>,
}

impl<'a> Command<'a> {
    /// A command and its arguments.
    pub(super) fn new(name: &'a str, arguments: Value) -> Command<'a> {
        Command { name, arguments, descriptor: None }
    }

    /// The one that passes a descriptor, which opens as `/dev/fdset/NUMBER` from then on.
    pub(super) fn pass(number: u32, descriptor: BorrowedFd<'a>) -> Command<'a> {
        Command { name: "add-fd", arguments: json!({ "fdset-id": number }), descriptor: Some(descriptor) }
    }
}

/// Writes a line, and with its first byte a descriptor.
async fn write(stream: &UnixStream, line: &[u8], descriptor: Option<BorrowedFd<'_>>) -> std::io::Result<()> {
    let (mut rest, mut descriptor) = (line, descriptor);
    while !rest.is_empty() {
        let sent = stream.async_io(Interest::WRITABLE, || {
            let fds = descriptor.map(|fd| [fd]);
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if let Some(fds) = &fds {
                // There is room for it.
                let _fits = control.push(SendAncillaryMessage::ScmRights(fds));
            }
            Ok(sendmsg(stream, &[IoSlice::new(rest)], &mut control, SendFlags::NOSIGNAL)?)
        });
        let count = sent.await?;
        descriptor = None;
        rest = rest.get(count..).unwrap_or_default();
    }
    Ok(())
}

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
    let mut reading = BufReader::new(stream);
    next(&mut reading, action, |reply| matches!(reply, Reply::Greeting)).await?;
    let mut result = Value::Null;
    let greeting = Command::new("qmp_capabilities", json!({}));
    for command in std::iter::once(&greeting).chain(commands) {
        let request = json!({ "execute": command.name, "arguments": command.arguments });
        let line = format!("{request}\n");
        write(reading.get_ref(), line.as_bytes(), command.descriptor).await.map_err(&io)?;
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

/// Lines of a monitor that a guest has taken over, as [`crate::fuzz`] has them.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        if let Some(Reply::Error(text)) = parse(line) {
            assert!(text.chars().count() <= 500);
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
