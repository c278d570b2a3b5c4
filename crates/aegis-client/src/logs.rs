//! Log entries as they come, one JSON object a line.

use aegis_api::logs::LogEntry;
use bytes::Bytes;

use crate::ClientError;
use crate::lines::Lines;

/// The lines of a log.
#[derive(Debug)]
pub struct LogLines {
    lines: Lines,
}

impl LogLines {
    pub(crate) fn new(lines: Lines) -> LogLines {
        LogLines { lines }
    }

    /// The next line, without its end; `None` at the end of the log.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn next_line(&mut self) -> Result<Option<Bytes>, ClientError> {
        self.lines.next().await
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
