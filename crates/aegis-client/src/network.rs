//! Decisions of an instance's network as they come, one JSON object a line.

use aegis_api::network::NetworkEntry;
use bytes::Bytes;

use crate::ClientError;
use crate::lines::Lines;

/// The decisions.
#[derive(Debug)]
pub struct NetworkLines {
    lines: Lines,
}

impl NetworkLines {
    pub(crate) fn new(lines: Lines) -> NetworkLines {
        NetworkLines { lines }
    }

    /// The next line, without its end; `None` at the end.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn next_line(&mut self) -> Result<Option<Bytes>, ClientError> {
        self.lines.next().await
    }

    /// The next decision; `None` at the end.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn next_entry(&mut self) -> Result<Option<NetworkEntry>, ClientError> {
        match self.next_line().await? {
            Some(line) => Ok(Some(serde_json::from_slice(&line)?)),
            None => Ok(None),
        }
    }
}
