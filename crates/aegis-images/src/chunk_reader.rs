//! A reader of chunks that another thread or task sends, for whoever blocks while it reads.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc::Receiver;

/// Pieces from another thread or task, as a reader. Its end is that of the senders; an error is passed on.
#[derive(Debug)]
pub struct ChunkReader {
    received: Receiver<io::Result<Bytes>>,
    left: Bytes,
}

impl ChunkReader {
    /// Those that are sent to `received`.
    #[must_use]
    pub fn new(received: Receiver<io::Result<Bytes>>) -> ChunkReader {
        ChunkReader { received, left: Bytes::new() }
    }
}

impl Read for ChunkReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.left.is_empty() {
            match self.received.blocking_recv() {
                Some(piece) => self.left = piece?,
                None => return Ok(0),
            }
        }
        let count = buf.len().min(self.left.len());
        self.left.copy_to_slice(buf.get_mut(..count).unwrap_or_default());
        Ok(count)
    }
}
