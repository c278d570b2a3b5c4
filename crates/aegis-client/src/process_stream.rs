//! The standard streams of a process, as frames both ways.

use std::io::IoSlice;

use aegis_api::stream::Frame;
use bytes::BytesMut;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use crate::error::ClientError;

/// How much is read at once, bytes.
const READ_CHUNK: usize = 256 << 10;

/// What a process says.
#[derive(Debug)]
pub struct ProcessReader {
    connection: ReadHalf<TokioIo<Upgraded>>,
    buffer: BytesMut,
}

/// What is said to a process.
#[derive(Debug)]
pub struct ProcessWriter {
    connection: WriteHalf<TokioIo<Upgraded>>,
}

pub(crate) fn split(upgraded: Upgraded) -> (ProcessReader, ProcessWriter) {
    let (reading, writing) = tokio::io::split(TokioIo::new(upgraded));
    (ProcessReader { connection: reading, buffer: BytesMut::new() }, ProcessWriter { connection: writing })
}

impl ProcessReader {
    /// The next frame; `None` if the connection ended, which without a last frame means that the daemon has gone.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn next(&mut self) -> Result<Option<Frame>, ClientError> {
        loop {
            let frame = Frame::decode(&mut self.buffer);
            if let Some(frame) = frame.map_err(|error| ClientError::Protocol(error.to_string()))? {
                return Ok(Some(frame));
            }
            self.buffer.reserve(READ_CHUNK);
            match self.connection.read_buf(&mut self.buffer).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Ok(None),
            }
        }
    }
}

impl ProcessWriter {
    /// Sends a frame; waits while the daemon does not take it.
    ///
    /// # Errors
    /// [`ClientError::Io`].
    pub async fn send(&mut self, frame: &Frame) -> Result<(), ClientError> {
        let (header, payload) = frame.encode();
        let written =
            self.connection.write_vectored(&[IoSlice::new(&header), IoSlice::new(&payload)]).await?;
        match written.checked_sub(header.len()) {
            None => {
                self.connection.write_all(header.get(written..).unwrap_or_default()).await?;
                self.connection.write_all(&payload).await?;
            }
            Some(sent) => self.connection.write_all(payload.get(sent..).unwrap_or_default()).await?,
        }
        Ok(())
    }
}
