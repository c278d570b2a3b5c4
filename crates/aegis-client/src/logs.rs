//! Replies that come as JSON objects, one a line, for as long as they come.

use std::marker::PhantomData;

use aegis_api::logs::LogEntry;
use aegis_api::network::NetworkEntry;
use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::ClientError;
use crate::lines::Lines;

/// The lines of a log.
pub type LogLines = JsonLines<LogEntry>;
/// The decisions of an instance's network.
pub type NetworkLines = JsonLines<NetworkEntry>;

/// Lines that are each a `T`.
#[derive(Debug)]
pub struct JsonLines<T> {
    lines: Lines,
    each: PhantomData<T>,
}

impl<T: DeserializeOwned> JsonLines<T> {
    pub(crate) fn new(lines: Lines) -> JsonLines<T> {
        JsonLines { lines, each: PhantomData }
    }

    /// The next line, without its end; `None` at the end.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn next_line(&mut self) -> Result<Option<Bytes>, ClientError> {
        self.lines.next().await
    }

    /// The next entry; `None` at the end.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn next_entry(&mut self) -> Result<Option<T>, ClientError> {
        match self.next_line().await? {
            Some(line) => Ok(Some(serde_json::from_slice(&line)?)),
            None => Ok(None),
        }
    }
}
