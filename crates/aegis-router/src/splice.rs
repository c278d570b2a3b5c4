//! Both directions of a connection.

use std::io;

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::backend::{Io, Refusal, Upstream};

/// What an idle direction reads into, bytes.
const SMALL: usize = 4 << 10;
/// What a busy one reads into, bytes.
const LARGE: usize = 256 << 10;
/// Most that is taken of a client whose guest stands still, bytes.
const MOST_HELD: usize = 16 << 10;

/// Carries bytes both ways until both directions have ended. An end of one passes, and leaves the other open.
///
/// # Errors
/// If either side is reset or fails; the other is to be reset then.
pub(crate) async fn splice(
    client: &mut impl Io,
    guest: &mut impl Io,
    upstream: &dyn Upstream,
) -> io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_guest, mut to_guest) = tokio::io::split(guest);
    tokio::try_join!(
        inwards(&mut from_client, &mut to_guest, upstream),
        outwards(&mut from_guest, &mut to_client, upstream),
    )
    .map(drop)
}

/// To the guest. One that was paused with the connection open goes on for the next byte, and for the end. When the machine
/// is gone nobody is left to carry to; what it has said before may still be on its way out.
async fn inwards(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    upstream: &dyn Upstream,
) -> io::Result<()> {
    let mut buffer = Buffer::new();
    let cut = upstream.cut();
    tokio::pin!(cut);
    loop {
        let bytes = tokio::select! {
            biased;
            bytes = buffer.fill(from) => bytes?,
            () = &mut cut => return Ok(()),
        };
        let mut held = if upstream.is_awake() && !bytes.is_empty() {
            carry(bytes, to, upstream).await?;
            if upstream.is_awake() {
                continue;
            }
            // A pause that began meanwhile may have come before the guest saw them.
            Held::default()
        } else {
            Held { bytes: bytes.into(), ended: bytes.is_empty() }
        };
        if let Err(refusal) = held.pass(from, to, upstream).await? {
            let gone = matches!(refusal, Refusal::Stopped(_) | Refusal::Gone);
            // Whoever ends what is over need not be told.
            return if gone && held.bytes.is_empty() { Ok(()) } else { Err(io::Error::other(refusal)) };
        }
        if held.ended {
            return Ok(());
        }
    }
}

async fn carry(bytes: &[u8], to: &mut (impl AsyncWrite + Unpin), upstream: &dyn Upstream) -> io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await?;
    upstream.passed(bytes.len() as u64, 0);
    Ok(())
}

/// What a client has said to a guest that stands still.
#[derive(Debug, Default)]
struct Held {
    bytes: BytesMut,
    ended: bool,
}

impl Held {
    /// Passes all on, and returns when the guest has had the time to see it: it runs, or is about to end.
    async fn pass(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        upstream: &dyn Upstream,
    ) -> io::Result<Result<(), Refusal>> {
        let mut told_end = false;
        loop {
            if let Err(refusal) = self.wait(from, upstream).await? {
                return Ok(Err(refusal));
            }
            if self.bytes.is_empty() && self.ended == told_end {
                return Ok(Ok(()));
            }
            carry(&self.bytes, to, upstream).await?;
            self.bytes.clear();
            if self.ended {
                to.shutdown().await?;
                told_end = true;
            }
            if upstream.is_awake() {
                return Ok(Ok(()));
            }
        }
    }

    /// Returns when the machine runs. What the client says meanwhile asks anew: it may have come after a pause that the
    /// bytes before it were in the middle of.
    async fn wait(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        upstream: &dyn Upstream,
    ) -> io::Result<Result<(), Refusal>> {
        loop {
            let room = MOST_HELD.saturating_sub(self.bytes.len());
            let mut into = (&mut self.bytes).limit(room);
            tokio::select! {
                biased;
                awake = upstream.go_on() => return Ok(awake),
                read = from.read_buf(&mut into), if room > 0 && !self.ended => {
                    self.ended = read? == 0;
                    upstream.passed(0, 0);
                }
            }
        }
    }
}

async fn outwards(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    upstream: &dyn Upstream,
) -> io::Result<()> {
    let mut buffer = Buffer::new();
    loop {
        let bytes = buffer.fill(from).await?;
        if bytes.is_empty() {
            return to.shutdown().await;
        }
        to.write_all(bytes).await?;
        upstream.passed(0, bytes.len() as u64);
    }
}

/// Grows while it is filled to the brim, and shrinks when it is not.
struct Buffer {
    bytes: Vec<u8>,
    full: bool,
}

impl Buffer {
    fn new() -> Buffer {
        Buffer { bytes: vec![0; SMALL], full: false }
    }

    async fn fill(&mut self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<&[u8]> {
        let wanted = if self.full { LARGE } else { SMALL };
        if self.bytes.len() != wanted {
            self.bytes = vec![0; wanted];
        }
        let count = from.read(&mut self.bytes).await?;
        // Hysteresis: a large buffer is kept while more than a small one comes.
        self.full = count >= SMALL;
        Ok(self.bytes.get(..count).unwrap_or_default())
    }
}
