//! Writing: data to standard output, talk to standard error.

use std::io::{self, Write};

use aegis_client::ClientError;

use crate::failure::{FAILED, Failure};
use crate::text;

/// Exit code of a program whose reader has gone: 128 + SIGPIPE.
pub const READER_GONE: i32 = 141;

fn written(result: io::Result<()>) -> Result<i32, Failure> {
    match result {
        Ok(()) => Ok(0),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(READER_GONE),
        Err(error) => Err(Failure::new(format!("cannot write to standard output: {error}"))),
    }
}

/// Prints bytes as they are.
///
/// # Errors
/// If standard output cannot be written.
pub fn bytes(bytes: &[u8]) -> Result<i32, Failure> {
    let mut stdout = io::stdout().lock();
    written(stdout.write_all(bytes).and_then(|()| stdout.flush()))
}

/// Prints a line, or several. Values in them that are not ours have to be made fields of one line before.
///
/// # Errors
/// If standard output cannot be written.
pub fn line(text: impl AsRef<str>) -> Result<i32, Failure> {
    bytes(format!("{}\n", text::lines(text.as_ref())).as_bytes())
}

/// Prints a value as JSON.
///
/// # Errors
/// If standard output cannot be written.
pub fn json(value: &impl serde::Serialize) -> Result<i32, Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::new(error.to_string()))?;
    line(text::json(&text))
}

/// Prints a value as JSON on a line of its own.
///
/// # Errors
/// If standard output cannot be written.
pub fn json_line(value: &impl serde::Serialize) -> Result<i32, Failure> {
    let text = serde_json::to_string(value).map_err(|error| Failure::new(error.to_string()))?;
    line(text::json(&text))
}

/// Says something to the user.
pub fn say(text: &str) {
    // Nobody is left to tell if this fails.
    let _mute = writeln!(io::stderr(), "aegis: {}", text::message(text));
}

/// Says what failed and what to do.
pub fn complain(failure: &Failure) {
    say(&failure.message);
    if let Some(hint) = &failure.hint {
        let _mute = writeln!(io::stderr(), "  hint: {}", text::message(hint));
    }
}

/// Does something for each of several names, and prints what comes of it. All are tried.
///
/// # Errors
/// If standard output cannot be written.
pub async fn each(
    names: &[String],
    mut act: impl AsyncFnMut(&str) -> Result<String, ClientError>,
) -> Result<i32, Failure> {
    let mut code = 0;
    for name in names {
        match act(name).await {
            Ok(text) => code = code.max(line(text)?),
            Err(error) => {
                complain(&Failure::from(error).about(name));
                code = FAILED;
            }
        }
    }
    Ok(code)
}

/// Writes a process's output to one of our descriptors. Returns false if its reader has gone.
///
/// # Errors
/// If it cannot be written for another reason.
pub fn pass_on(mut to: impl Write, bytes: &[u8]) -> Result<bool, Failure> {
    match to.write_all(bytes).and_then(|()| to.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::new(format!("cannot write the output: {error}"))),
    }
}
