//! A connection to a port of the guest, as an asynchronous byte stream.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use aegis_guest_protocol::frame::{Frame, Kind, MAX_DATA};
use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::PollSender;

use crate::streams::GuestStream;

/// A connection to a port of the guest.
///
/// Shutting it down ends its writing side only. A reset by the guest reads and writes as
/// [`io::ErrorKind::ConnectionReset`], after whatever had arrived before it; dropping a connection that has not ended in
/// both directions resets it.
#[derive(Debug)]
pub struct GuestConnection {
    stream: GuestStream,
    /// Frames with data, and frames with credit: each direction waits for room on its own.
    data: PollSender<Frame>,
    credit: PollSender<Frame>,
    /// Credit that is owed to the guest.
    owed: Option<u64>,
}

impl GuestConnection {
    pub(crate) fn new(stream: GuestStream) -> GuestConnection {
        let (data, credit) = (PollSender::new(stream.frames.clone()), PollSender::new(stream.frames.clone()));
        GuestConnection { stream, data, credit, owed: None }
    }

    fn pay(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(consumed) = self.owed {
            ready!(self.credit.poll_reserve(cx)).map_err(|_| reset())?;
            self.owed = None;
            self.credit.send_item(Frame::credit(self.stream.id(), consumed)).map_err(|_| reset())?;
        }
        Poll::Ready(Ok(()))
    }

    /// The next bytes, at most as many as asked for; none at the end.
    fn next(&self, cx: &Context<'_>, most: usize) -> Poll<io::Result<Option<Bytes>>> {
        let mut state = self.stream.shared.lock();
        if let Some(mut bytes) = state.inbox.pop_front() {
            let taken = bytes.split_to(most.min(bytes.len()));
            if bytes.has_remaining() {
                state.inbox.push_front(bytes);
            }
            return Poll::Ready(Ok(Some(taken)));
        }
        if state.peer_ended {
            return Poll::Ready(Ok(None));
        }
        if state.closed {
            return Poll::Ready(Err(reset()));
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    /// How many bytes may be written now.
    fn room(&self, cx: &Context<'_>) -> Poll<io::Result<usize>> {
        let mut state = self.stream.shared.lock();
        if state.closed {
            return Poll::Ready(Err(reset()));
        }
        if state.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        match usize::try_from(state.sender.available()).unwrap_or(MAX_DATA).min(MAX_DATA) {
            0 => {
                state.writer = Some(cx.waker().clone());
                Poll::Pending
            }
            room => Poll::Ready(Ok(room)),
        }
    }
}

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

impl AsyncRead for GuestConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.pay(cx))?;
        let Some(bytes) = ready!(self.next(cx, into.remaining()))? else { return Poll::Ready(Ok(())) };
        into.put_slice(&bytes);
        let owed = self.stream.shared.lock().receiver.consumed(bytes.len() as u64);
        self.owed = owed;
        // If there is no room for it now, the bytes are not held up: the next read pays.
        let _paid = self.pay(cx);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for GuestConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let room = ready!(self.room(cx))?;
        ready!(self.data.poll_reserve(cx)).map_err(|_| reset())?;
        let part = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        self.stream.shared.lock().sender.sent(part.len() as u64);
        let frame =
            Frame { kind: Kind::Data, stream: self.stream.id(), payload: Bytes::copy_from_slice(part) };
        self.data.send_item(frame).map_err(|_| reset())?;
        Poll::Ready(Ok(part.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.stream.shared.lock().ended {
            return Poll::Ready(Ok(()));
        }
        ready!(self.data.poll_reserve(cx)).map_err(|_| reset())?;
        self.stream.shared.lock().ended = true;
        let frame = Frame::bare(Kind::Eof, self.stream.id());
        Poll::Ready(self.data.send_item(frame).map_err(|_| reset()))
    }
}
