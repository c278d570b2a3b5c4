//! Forwards bytes between a process's pipes or terminal and its streams.

use std::cell::Cell;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use aegis_guest_protocol::frame::{Frame, Kind, MAX_DATA};
use bytes::Bytes;
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

use crate::async_fd::{Ended, write_all};
use crate::port_writer::{self, SessionOver};
use crate::streams::{Stream, Streams};
use crate::terminal_eof::Terminal;

/// How much is read at once of what nobody wants, bytes.
const REST: usize = 16 << 10;
/// How long a process may take to end when its session is over.
const FAREWELL: Duration = Duration::from_secs(5);

/// What one attempt to read a process's output gave.
#[derive(Debug)]
pub enum Output {
    /// Bytes.
    Bytes(Bytes),
    /// No more will come.
    End,
}

/// Reads output as it comes; after the process has ended, what is still there and no more.
pub async fn next_output(from: &AsyncFd<OwnedFd>, ended: &mut Ended, most: usize) -> Output {
    let mut buffer = vec![0; most];
    loop {
        let over = *ended.borrow();
        match rustix::io::read(from.get_ref(), &mut buffer) {
            Ok(0) => return Output::End,
            Ok(count) => {
                buffer.truncate(count);
                return Output::Bytes(buffer.into());
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if over => return Output::End,
            Err(Errno::AGAIN) => wait(from, ended).await,
            // A terminal whose other side is closed reads as an error.
            Err(_) => return Output::End,
        }
    }
}

/// Waits until the descriptor may be readable or the process has ended.
async fn wait(from: &AsyncFd<OwnedFd>, ended: &mut Ended) {
    tokio::select! {
        ready = from.readable() => if let Ok(mut ready) = ready { ready.clear_ready() },
        _ = ended.wait_for(|over| *over) => {}
    }
}

/// Sends a terminal's or pipe's output to a stream of the session, then its end.
///
/// What a process leaves behind in the background may go on writing into its pipe: that is read and dropped from then on,
/// since a write into a closed pipe would end it. The pipe of a process that is not `detached` is closed all the same if it goes
/// on after the session is over, of which it is told otherwise. A terminal is hung up, as usual.
pub async fn output(
    from: Rc<AsyncFd<OwnedFd>>,
    stream: Rc<Stream>,
    streams: Streams,
    ended: Ended,
    detached: bool,
) {
    let copied = copy_output(&from, &stream, &streams, ended.clone()).await;
    if copied.is_ok() {
        let _over = streams.outlet().send(stream.epoch(), Frame::bare(Kind::Eof, stream.id())).await;
    }
    if copied.is_ok() || detached {
        leave(from);
    } else {
        tokio::task::spawn_local(leave_unless_endless(from, ended));
    }
}

/// Lets whoever has the other end of a pipe go on writing.
pub(crate) fn leave(from: Rc<AsyncFd<OwnedFd>>) {
    if is_pipe(&from) {
        // Ends with the last process that has the pipe.
        tokio::task::spawn_local(drop_rest(from));
    }
}

/// The same, but if the process that was given the pipe goes on for long, it is closed.
async fn leave_unless_endless(from: Rc<AsyncFd<OwnedFd>>, mut ended: Ended) {
    if !is_pipe(&from) {
        return;
    }
    let has_ended = async { ended.wait_for(|over| *over).await.is_ok() };
    // Meanwhile it is read, so that last words hold nobody up.
    let left = tokio::select! {
        () = drop_rest(Rc::clone(&from)) => false,
        left = tokio::time::timeout(FAREWELL, has_ended) => left.unwrap_or(false),
    };
    if left {
        drop_rest(from).await;
    }
}

fn is_pipe(fd: &AsyncFd<OwnedFd>) -> bool {
    rustix::pipe::fcntl_getpipe_size(fd.get_ref()).is_ok()
}

async fn drop_rest(from: Rc<AsyncFd<OwnedFd>>) {
    let mut buffer = vec![0; REST];
    loop {
        match rustix::io::read(from.get_ref(), &mut buffer) {
            Ok(0) => return,
            // One that never stops is not the only one.
            Ok(_) => tokio::task::yield_now().await,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => match from.readable().await {
                Ok(mut ready) => ready.clear_ready(),
                Err(_) => return,
            },
            Err(_) => return,
        }
    }
}

async fn copy_output(
    from: &Rc<AsyncFd<OwnedFd>>,
    stream: &Stream,
    streams: &Streams,
    mut ended: Ended,
) -> Result<(), SessionOver> {
    let spliceable = Cell::new(is_pipe(from));
    loop {
        let credit = stream.credit().await.ok_or(SessionOver)?;
        let most = usize::try_from(credit).unwrap_or(MAX_DATA).min(MAX_DATA);
        let waiting = if spliceable.get() { held(from) } else { 0 };
        if waiting > 0 {
            let len = waiting.min(most);
            stream.sent(len);
            streams.outlet().splice(stream.epoch(), stream.id(), from, len).await?;
            continue;
        }
        // A small read also tells an empty pipe from a finished one.
        let next = until_reset(stream, next_output_small(from, &mut ended, most, spliceable.get())).await?;
        match next {
            Some(Output::Bytes(bytes)) => {
                stream.sent(bytes.len());
                streams.outlet().send(stream.epoch(), port_writer::data(stream.id(), bytes)).await?;
            }
            Some(Output::End) => return Ok(()),
            None => {}
        }
    }
}

/// Like [`next_output`], but for a pipe it gives up (`None`) after a wait, so that the caller looks again how much
/// the pipe holds and splices it.
async fn next_output_small(
    from: &AsyncFd<OwnedFd>,
    ended: &mut Ended,
    most: usize,
    spliceable: bool,
) -> Option<Output> {
    if !spliceable {
        return Some(next_output(from, ended, most.min(64 << 10)).await);
    }
    let over = *ended.borrow();
    let mut buffer = [0; 512];
    let room = buffer.len().min(most);
    match rustix::io::read(from.get_ref(), buffer.get_mut(..room)?) {
        Ok(0) => Some(Output::End),
        Ok(count) => Some(Output::Bytes(Bytes::copy_from_slice(buffer.get(..count)?))),
        Err(Errno::AGAIN) if over => Some(Output::End),
        Err(Errno::AGAIN) => {
            wait(from, ended).await;
            None
        }
        Err(Errno::INTR) => None,
        Err(_) => Some(Output::End),
    }
}

fn held(pipe: &AsyncFd<OwnedFd>) -> usize {
    rustix::io::ioctl_fionread(pipe.get_ref()).ok().and_then(|count| usize::try_from(count).ok()).unwrap_or(0)
}

async fn until_reset<T>(stream: &Stream, work: impl Future<Output = T>) -> Result<T, SessionOver> {
    tokio::select! {
        biased;
        () = stream.reset() => Err(SessionOver),
        done = work => Ok(done),
    }
}

/// Where a process's input goes.
#[derive(Debug)]
pub enum Input {
    /// A pipe, closed when the stream ends.
    Pipe(Rc<AsyncFd<OwnedFd>>),
    /// A terminal, told as its programs expect it.
    Terminal(Terminal),
}

/// Writes what the host sends into a process's input until either ends. Goes on taking, and dropping, what the
/// process does not want any more, so that the host's writer is not held up.
///
/// An input that `survives` waits for the next session when one is over.
pub async fn input(stream: Rc<Stream>, streams: Streams, to: Input, survives: bool) {
    let fd = match &to {
        Input::Pipe(fd) | Input::Terminal(Terminal { fd, .. }) => Rc::clone(fd),
    };
    let (mut open, mut last) = (true, None);
    loop {
        let moved = stream.moved();
        let Some(bytes) = stream.receive().await else {
            if survives && stream.is_reset() {
                moved.await;
                continue;
            }
            break;
        };
        open = open && write_all(&fd, &bytes).await.is_ok();
        last = bytes.last().copied().or(last);
        if let Some(credit) = stream.consumed(bytes.len()) {
            let _over = streams.outlet().send(stream.epoch(), credit).await;
        }
    }
    if let Input::Terminal(terminal) = to
        && open
        && !stream.is_reset()
    {
        terminal.end(last).await;
    }
}
