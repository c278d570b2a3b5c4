//! Log entries as they come, one JSON object a line.

use aegis_api::logs::LogEntry;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::Incoming;

use crate::ClientError;
use crate::transport::Connection;

/// Longest line, bytes: a record of the log in base64, with room to spare.
const MAX_LINE: usize = 2 << 20;

/// The lines of a log.
#[derive(Debug)]
pub struct LogLines {
    body: Incoming,
    buffer: BytesMut,
    /// The connection ends when this does.
    _connection: Connection,
}

impl LogLines {
    pub(crate) fn new(reply: Response<Incoming>, connection: Connection) -> LogLines {
        LogLines { body: reply.into_body(), buffer: BytesMut::new(), _connection: connection }
    }

    /// The next line, without its end; `None` at the end of the log.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn next_line(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let mut line = self.buffer.split_to(end + 1);
                line.truncate(end);
                return Ok(Some(line.freeze()));
            }
            if self.buffer.len() > MAX_LINE {
                return Err(ClientError::Protocol("a line of the log is too long".to_owned()));
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

    /// The next entry; `None` at the end of the log.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn next_entry(&mut self) -> Result<Option<LogEntry>, ClientError> {
        match self.next_line().await? {
            Some(line) => Ok(Some(serde_json::from_slice(&line)?)),
            None => Ok(None),
        }
    }
}
