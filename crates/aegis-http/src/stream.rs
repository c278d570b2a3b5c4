//! One upgraded connection: frames in, frames out.

use std::io::IoSlice;

use aegis_api::stream::Frame;
use bytes::BytesMut;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

type Connection = TokioIo<Upgraded>;

/// Reads the client's frames.
#[derive(Debug)]
pub(crate) struct Incoming {
    connection: ReadHalf<Connection>,
    buffer: BytesMut,
}

/// Writes frames to the client.
#[derive(Debug)]
pub(crate) struct Outgoing {
    connection: WriteHalf<Connection>,
}

/// Both directions of a connection.
pub(crate) fn split(upgraded: Upgraded) -> (Incoming, Outgoing) {
    let (reading, writing) = tokio::io::split(TokioIo::new(upgraded));
    (Incoming { connection: reading, buffer: BytesMut::new() }, Outgoing { connection: writing })
}

impl Incoming {
    /// The next frame; `None` if the client has gone or talks nonsense.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            match Frame::decode(&mut self.buffer) {
                Ok(Some(frame)) => return Some(frame),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "client dropped");
                    return None;
                }
            }
            self.buffer.reserve(64 << 10);
            if !matches!(self.connection.read_buf(&mut self.buffer).await, Ok(1..)) {
                return None;
            }
        }
    }
}

impl Outgoing {
    /// Sends a frame; waits while the client does not take it.
    pub(crate) async fn send(&mut self, frame: &Frame) -> std::io::Result<()> {
        let (header, payload) = frame.encode();
        let written =
            self.connection.write_vectored(&[IoSlice::new(&header), IoSlice::new(&payload)]).await?;
        match written.checked_sub(header.len()) {
            None => {
                self.connection.write_all(header.get(written..).unwrap_or_default()).await?;
                self.connection.write_all(&payload).await
            }
            Some(sent) => self.connection.write_all(payload.get(sent..).unwrap_or_default()).await,
        }
    }

    /// Sends the last frame and closes the connection.
    pub(crate) async fn finish(mut self, frame: &Frame) -> std::io::Result<()> {
        self.send(frame).await?;
        self.connection.shutdown().await
    }
}
