//! Both directions of a connection.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::backend::{Io, Visit};

/// What an idle direction reads into, bytes.
const SMALL: usize = 4 << 10;
/// What a busy one reads into, bytes.
const LARGE: usize = 256 << 10;

/// Carries bytes both ways until both directions have ended. An end of one passes, and leaves the other open.
///
/// # Errors
/// If either side is reset or fails; the other is to be reset then.
pub(crate) async fn splice(client: &mut impl Io, guest: &mut impl Io, visit: &dyn Visit) -> io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_guest, mut to_guest) = tokio::io::split(guest);
    tokio::try_join!(
        inwards(&mut from_client, &mut to_guest, visit),
        outwards(&mut from_guest, &mut to_client, visit),
    )
    .map(drop)
}

/// To the guest. One that was paused with the connection open is woken by the next byte.
async fn inwards(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    visit: &dyn Visit,
) -> io::Result<()> {
    let mut buffer = Buffer::new();
    loop {
        let bytes = buffer.fill(from).await?;
        rouse(visit).await?;
        if bytes.is_empty() {
            to.shutdown().await?;
            // A pause that began meanwhile may have come before the guest saw it.
            return rouse(visit).await;
        }
        to.write_all(bytes).await?;
        to.flush().await?;
        visit.passed(bytes.len() as u64, 0);
        rouse(visit).await?;
    }
}

async fn rouse(visit: &dyn Visit) -> io::Result<()> {
    if visit.is_awake() {
        return Ok(());
    }
    visit.wake().await.map_err(io::Error::other)
}

async fn outwards(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    visit: &dyn Visit,
) -> io::Result<()> {
    let mut buffer = Buffer::new();
    loop {
        let bytes = buffer.fill(from).await?;
        if bytes.is_empty() {
            return to.shutdown().await;
        }
        to.write_all(bytes).await?;
        visit.passed(0, bytes.len() as u64);
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
