//! `aegis cp`.

use std::io::{BufReader, BufWriter};
use std::path::Path;

use aegis_api::instance::ExecRequest;
use aegis_api::stream::Frame;
use aegis_client::{ProcessReader, ProcessWriter};
use aegis_copy::{CopyError, Limits, Packed, Target};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_util::io::SyncIoBridge;

use crate::Context;
use crate::arguments::Copy;
use crate::failure::Failure;
use crate::output::say;

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

/// One end of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Place<'a> {
    Host(&'a str),
    Guest { instance: &'a str, path: &'a str },
}

/// `INSTANCE:PATH` is in a guest; what has a `/` before its first colon, or none, is on the host.
fn place(text: &str) -> Place<'_> {
    match text.split_once(':') {
        Some((instance, path)) if !instance.is_empty() && !instance.contains('/') => {
            Place::Guest { instance, path }
        }
        _ => Place::Host(text),
    }
}

/// Copies files and trees between the host and an instance.
///
/// # Errors
/// If they cannot be read or written on either end; what was written before stays.
pub async fn copy(context: &Context, arguments: &Copy) -> Result<i32, Failure> {
    let copied = match (place(&arguments.source), place(&arguments.destination)) {
        (Place::Host(from), Place::Guest { instance, path }) => {
            into_guest(context, from, instance, path).await
        }
        (Place::Guest { instance, path }, Place::Host(to)) => out_of_guest(context, instance, path, to).await,
        _ => {
            let text = "one of source and destination is INSTANCE:PATH, and the other a path of this host";
            return Err(Failure { exit_code: 2, ..Failure::new(text) });
        }
    };
    copied.map(|()| 0)
}

fn request(command: &[&str], stdin: bool) -> ExecRequest {
    let command = std::iter::once(&TOOL).chain(command).map(|word| (*word).to_owned()).collect();
    ExecRequest {
        command,
        user: Some("root".to_owned()),
        stdin,
        unlogged: true,
        at_rest: true,
        ..ExecRequest::default()
    }
}

/// A path in the guest, where an empty one is the working directory.
fn guest_path(path: &str) -> &str {
    if path.is_empty() { "." } else { path }
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

async fn into_guest(context: &Context, from: &str, instance: &str, path: &str) -> Result<(), Failure> {
    let mut client = context.client();
    let user = client.describe(instance).await?.user;
    // Better told before anything is made of it there.
    std::fs::symlink_metadata(from).map_err(|error| Failure::new(format!("{from}: {error}")))?;
    let name = aegis_copy::name_of(from).unwrap_or_default();
    let unpack = request(&["unpack", guest_path(path), name, &user], true);
    let (mut reader, writer) = client.exec(instance, &unpack).await?;
    let (theirs, ours) = tokio::io::duplex(ON_THE_WAY);
    let source = from.to_owned();
    let packing = tokio::task::spawn_blocking(move || {
        let mut to = SyncIoBridge::new(theirs);
        aegis_copy::pack(Path::new(&source), BufWriter::with_capacity(BUFFER, &mut to))
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
    let Packed { skipped, .. } = match (packed, there) {
        // Of both ends the one that failed first knows why; the other only sees that it broke off.
        (Err(CopyError::Stream(_)) | Ok(_), Err(failure)) => return Err(failure),
        (Err(error), _) => return Err(failed(&error)),
        (Ok(packed), Ok(())) => packed,
    };
    skipped.iter().for_each(|path| say(&printable(&format!("left out: {}", path.display()))));
    Ok(())
}

async fn out_of_guest(context: &Context, instance: &str, path: &str, to: &str) -> Result<(), Failure> {
    // Opened once, before anything is asked of the guest: whatever it does to names from now on, this is the place.
    let target = Target::open(Path::new(to), aegis_copy::name_of(path)).map_err(|error| failed(&error))?;
    let pack = request(&["pack", guest_path(path)], false);
    let (mut reader, _writer) = context.client().exec(instance, &pack).await?;
    let (ours, theirs) = tokio::io::duplex(ON_THE_WAY);
    let unpacking = tokio::task::spawn_blocking(move || {
        let from = BufReader::with_capacity(BUFFER, SyncIoBridge::new(theirs));
        aegis_copy::unpack(target, from, None, Limits::default())
    });
    let done = listen(&mut reader, Some(ours)).await;
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
    fn check(self) -> Result<(), Failure> {
        match (self.code, self.words.trim()) {
            (0, _) => Ok(()),
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
        assert_eq!(place("box:/etc"), Place::Guest { instance: "box", path: "/etc" });
        assert_eq!(place("box:"), Place::Guest { instance: "box", path: "" });
        for host in ["file", "/a:b", "./a:b", "a/b:c", ":x", "."] {
            assert_eq!(place(host), Place::Host(host));
        }
    }
}
