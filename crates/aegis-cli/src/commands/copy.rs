//! `aegis cp`.

use std::ffi::OsStr;
use std::io::{BufReader, BufWriter};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use aegis_api::error::{ApiError, ErrorCode};
use aegis_api::instance::ExecRequest;
use aegis_api::stream::Frame;
use aegis_client::{ProcessReader, ProcessWriter};
use aegis_copy::{ABSENT, CopyError, Limits, PARTIAL, Packed, Target, VANISHED, VOLATILE};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_util::io::SyncIoBridge;

use crate::Context;
use crate::arguments::process::Copy;
use crate::commands::run::words as words_for_api;
use crate::failure::Failure;
use crate::output::say;
use crate::session::Interrupts;

/// The harness, which every guest has; its own image may have no program for this.
const TOOL: &str = "/proc/1/exe";
/// How much is on its way between the connection and the files, bytes.
const ON_THE_WAY: usize = 1 << 20;
/// Size of the pieces that are sent, bytes.
const PIECE: usize = 256 << 10;
/// Size of the buffers for heads of files and small files, bytes. What is larger passes them by.
const BUFFER: usize = 16 << 10;
/// Most of the guest's words that are kept, bytes.
const MOST_WORDS: usize = 64 << 10;

/// How long what is half done may take to be cleared away when the copy is interrupted.
const PATIENCE: Duration = Duration::from_secs(5);
/// What an older guest's end says to a stream of this version.
const OLDER_WORDS: &str = "it does not greet";

/// One end of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Place<'a> {
    Host(&'a Path),
    Guest { instance: &'a str, path: &'a OsStr },
}

/// `INSTANCE:PATH` is in a guest; what has a `/` before its first colon, or none, is on the host.
fn place(text: &OsStr) -> Place<'_> {
    let mut parts = text.as_bytes().splitn(2, |byte| *byte == b':');
    let (instance, path) = (parts.next().unwrap_or_default(), parts.next());
    match (str::from_utf8(instance), path) {
        (Ok(instance), Some(path)) if !instance.is_empty() && !instance.contains('/') => {
            Place::Guest { instance, path: OsStr::from_bytes(path) }
        }
        _ => Place::Host(Path::new(text)),
    }
}

/// Copies files and trees between the host and an instance. Returns the exit code: 0, or that of a copy without what went
/// meanwhile or cannot be read.
///
/// # Errors
/// If they cannot be read or written on either end; what was written before stays.
pub async fn copy(context: &Context, arguments: &Copy) -> Result<i32, Failure> {
    let mut interrupts = Interrupts::listen()?;
    if [&arguments.source, &arguments.destination].iter().any(|end| *end == "-") {
        let hint = "pack and unpack it there: aegis exec INSTANCE -- tar -c PATH, aegis exec -i INSTANCE -- tar -x; \
                    a file of that name is ./-";
        let failure = Failure::new("- stands for standard input and output elsewhere, and for nothing here");
        return Err(Failure { exit_code: 2, hint: Some(hint.to_owned()), ..failure });
    }
    match (place(&arguments.source), place(&arguments.destination)) {
        (Place::Host(from), Place::Guest { instance, path }) => {
            let copying = into_guest(context, from, instance, path);
            tokio::select! {
                done = copying => done.map_err(|failure| older(failure, instance)),
                // The guest's end clears away when the connection has gone.
                number = interrupts.next() => Err(interrupted(number)),
            }
        }
        (Place::Guest { instance, path }, Place::Host(to)) => {
            let done = out_of_guest(context, (instance, path), to, &mut interrupts).await;
            done.map_err(|failure| older(failure, instance))
        }
        _ => {
            let text = "one of source and destination is INSTANCE:PATH, and the other a path of this host";
            Err(Failure { exit_code: 2, ..Failure::new(text) })
        }
    }
}

fn interrupted(signal: u8) -> Failure {
    Failure { exit_code: 128 + i32::from(signal), ..Failure::new("interrupted: the copy is not complete") }
}

/// A guest that went on from where an older daemon had it has an older end.
fn older(failure: Failure, instance: &str) -> Failure {
    let message = failure.message.as_str();
    if !message.contains(OLDER_WORDS) && message != CopyError::OtherVersion.to_string() {
        return failure;
    }
    Failure {
        hint: Some(format!("restart it: aegis instance restart {instance}")),
        ..Failure::new(
            "the guest was started by another version of Aegis, whose end of a copy is another one",
        )
    }
}

fn request(command: &[&OsStr], stdin: bool) -> ExecRequest {
    let words = std::iter::once(OsStr::new(TOOL)).chain(command.iter().copied());
    let (command, command_base64) = words_for_api(&words.map(OsStr::to_owned).collect::<Vec<_>>());
    ExecRequest {
        command,
        command_base64,
        user: Some("root".to_owned()),
        stdin,
        unlogged: true,
        at_rest: true,
        ..ExecRequest::default()
    }
}

/// A path in the guest, where an empty one is the working directory.
fn guest_path(path: &OsStr) -> &OsStr {
    if path.is_empty() { OsStr::new(".") } else { path }
}

/// Names of files may be a guest's choice, and may be meant for the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

fn failed(error: &CopyError) -> Failure {
    Failure::new(printable(&error.to_string()))
}

fn broken<E>(_: E) -> Failure {
    Failure::new("the copy was broken off")
}

async fn into_guest(context: &Context, from: &Path, instance: &str, path: &OsStr) -> Result<i32, Failure> {
    let mut client = context.client();
    let user = client.describe(instance).await?.user;
    // Better told before anything is made of it there.
    std::fs::symlink_metadata(from)
        .map_err(|error| Failure::new(printable(&format!("{}: {error}", from.display()))))?;
    let name = aegis_copy::name_of(from.as_os_str()).unwrap_or_default();
    let unpack = request(&[OsStr::new("unpack"), guest_path(path), name, OsStr::new(&user)], true);
    let (mut reader, writer) = client.exec(instance, &unpack).await?;
    let (theirs, ours) = tokio::io::duplex(ON_THE_WAY);
    let source = from.to_owned();
    let packing = tokio::task::spawn_blocking(move || {
        let mut to = SyncIoBridge::new(theirs);
        aegis_copy::pack(&source, BufWriter::with_capacity(BUFFER, &mut to))
    });
    let done = {
        let (feeding, telling) = (feed(ours, writer), listen(&mut reader, None));
        tokio::pin!(feeding, telling);
        tokio::select! {
            done = &mut telling => done,
            () = &mut feeding => telling.await,
        }
    };
    let packed = packing.await.map_err(broken)?;
    let there = done.and_then(Done::check);
    let Packed { left_out, .. } = match (packed, there) {
        // Of both ends the one that failed first knows why; the other only sees that it broke off.
        (Err(CopyError::Stream(_)) | Ok(_), Err(failure)) => return Err(failure),
        (Err(error), _) => return Err(failed(&error)),
        (Ok(packed), Ok(_)) => packed,
    };
    left_out.lines().iter().for_each(|line| say(&printable(line)));
    Ok(left_out.exit_code().into())
}

async fn out_of_guest(
    context: &Context,
    (instance, path): (&str, &OsStr),
    to: &Path,
    interrupts: &mut Interrupts,
) -> Result<i32, Failure> {
    // Opened once, before anything is asked of the guest: whatever it does to names from now on, this is the place.
    let target = Target::open(to, aegis_copy::name_of(path)).map_err(|error| failed(&error))?;
    let pack = request(&[OsStr::new("pack"), guest_path(path)], false);
    let client = context.client();
    let (mut reader, _writer) = tokio::select! {
        opened = client.exec(instance, &pack) => opened?,
        number = interrupts.next() => return Err(interrupted(number)),
    };
    let (ours, theirs) = tokio::io::duplex(ON_THE_WAY);
    let mut unpacking = tokio::task::spawn_blocking(move || {
        let from = BufReader::with_capacity(BUFFER, SyncIoBridge::new(theirs));
        aegis_copy::unpack(target, from, None, Limits::default())
    });
    let done = tokio::select! {
        done = listen(&mut reader, Some(ours)) => done,
        number = interrupts.next() => {
            // Its stream has ended now: what is half written goes.
            let _cleared = tokio::time::timeout(PATIENCE, &mut unpacking).await;
            return Err(interrupted(number));
        }
    };
    let unpacked = unpacking.await.map_err(broken)?;
    let done = match (unpacked, done) {
        (Err(CopyError::Stream(_)), Err(failure)) => return Err(failure),
        (Err(CopyError::Stream(text)), Ok(done)) => {
            // What the guest says is more than that it broke off.
            done.check()?;
            return Err(failed(&CopyError::Stream(text)));
        }
        (Err(error), _) => return Err(failed(&error)),
        (Ok(_), done) => done?,
    };
    done.words.lines().for_each(say);
    done.check()
}

/// What became of the guest's end.
#[derive(Debug)]
struct Done {
    code: i32,
    words: String,
}

impl Done {
    /// The exit code of a copy that is complete but for what was left out.
    fn check(self) -> Result<i32, Failure> {
        match (self.code, self.words.trim()) {
            (code, _) if [0, PARTIAL.into(), VANISHED.into()].contains(&code) => Ok(code),
            (code, words) if code == i32::from(VOLATILE) => Err(ApiError {
                hint: Some(
                    "copy it to another directory, or start the instance first and copy it then".to_owned(),
                ),
                ..ApiError::new(ErrorCode::PlaceVolatile, words)
            }
            .into()),
            (code, words) if code == i32::from(ABSENT) => Err(ApiError {
                hint: Some(
                    "make the directory again, or start the instance with another one; what is elsewhere in the \
                     instance can be copied"
                        .to_owned(),
                ),
                ..ApiError::new(ErrorCode::WorkspaceNotFound, words)
            }
            .into()),
            (code, "") => Err(Failure::new(format!("the guest's end of the copy ended with code {code}"))),
            (_, words) => Err(Failure::new(words.to_owned())),
        }
    }
}

/// Takes what the guest's end says, until it has ended, or nobody wants its output any more.
async fn listen(reader: &mut ProcessReader, mut output: Option<DuplexStream>) -> Result<Done, Failure> {
    let mut words = Vec::new();
    let code = loop {
        match reader.next().await? {
            None => return Err(Failure::new("lost aegisd")),
            Some(Frame::Stdout(bytes)) => {
                if let Some(to) = &mut output
                    && to.write_all(&bytes).await.is_err()
                {
                    // Whoever unpacks has failed, and says why.
                    return Ok(Done { code: 0, words: String::new() });
                }
            }
            Some(Frame::Stderr(bytes)) => {
                let room = MOST_WORDS.saturating_sub(words.len());
                words.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
            }
            Some(Frame::Exit(exit)) => break exit.code,
            Some(Frame::Error(error)) => return Err(error.into()),
            Some(_) => {}
        }
    };
    Ok(Done { code, words: printable(&String::from_utf8_lossy(&words)) })
}

/// Sends what is packed to the guest's end.
async fn feed(mut from: DuplexStream, mut writer: ProcessWriter) {
    let mut piece = BytesMut::new();
    loop {
        piece.reserve(PIECE);
        let ended = !matches!(from.read_buf(&mut piece).await, Ok(1..));
        let frame = if ended { Frame::StdinEnd } else { Frame::Stdin(piece.split().freeze()) };
        // The other direction tells why it broke.
        if writer.send(&frame).await.is_err() {
            return;
        }
        if ended {
            // The connection lasts until the answer has come.
            return std::future::pending().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_after_a_name_means_an_instance() {
        let guest = |instance, path: &'static [u8]| Place::Guest { instance, path: OsStr::from_bytes(path) };
        assert_eq!(place(OsStr::new("box:/etc")), guest("box", b"/etc"));
        assert_eq!(place(OsStr::new("box:")), guest("box", b""));
        assert_eq!(place(OsStr::from_bytes(b"box:a:\xff")), guest("box", b"a:\xff"));
        for host in [&b"file"[..], b"/a:b", b"./a:b", b"a/b:c", b":x", b".", b"\xff:b"] {
            assert_eq!(place(OsStr::from_bytes(host)), Place::Host(Path::new(OsStr::from_bytes(host))));
        }
    }

    #[test]
    fn a_guest_of_another_version_is_told_as_such() {
        let of = |text: &str| older(Failure::new(text), "box");
        for text in [
            "the other end broke off or sends nonsense: it does not greet",
            "the other end of the copy is of another version",
        ] {
            assert!(of(text).hint.is_some_and(|hint| hint.contains("restart box")), "{text}");
        }
        assert_eq!(of("/x: No such file").message, "/x: No such file");
    }
}
