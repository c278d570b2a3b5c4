//! A reply that comes line by line, for as long as it comes.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::Incoming;

use crate::error::ClientError;
use crate::transport::Connection;

/// Longest line, bytes: a record of a log in base64, with room to spare.
const MAX_LINE: usize = 2 << 20;

/// The lines of a reply.
#[derive(Debug)]
pub(crate) struct Lines {
    body: Incoming,
    buffer: BytesMut,
    /// The connection ends when this does.
    _connection: Connection,
}

impl Lines {
    pub(crate) fn new(reply: Response<Incoming>, connection: Connection) -> Lines {
        Lines { body: reply.into_body(), buffer: BytesMut::new(), _connection: connection }
    }

    /// The next line, without its end; `None` at the end of the reply.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let mut line = self.buffer.split_to(end + 1);
                line.truncate(end);
                return Ok(Some(line.freeze()));
            }
            if self.buffer.len() > MAX_LINE {
                return Err(ClientError::Protocol("a line is too long".to_owned()));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}
