//! Replies that come as JSON objects, one a line, for as long as they come.

use std::marker::PhantomData;

use aegis_api::logs::LogEntry;
use aegis_api::network::NetworkEntry;
use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::client::Client;
use crate::error::ClientError;
use crate::lines::Lines;
use crate::query::LogQuery;
use crate::url_path::{escape, instance_path};

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

impl Client {
    /// An instance's log.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn logs(&self, name: &str, query: &LogQuery) -> Result<LogLines, ClientError> {
        let mut path = instance_path(name, &format!("/logs?follow={}", query.follow));
        if let Some(tail) = query.tail {
            path = format!("{path}&tail={tail}");
        }
        if let Some(since) = &query.since {
            path = format!("{path}&since={}", escape(since));
        }
        Ok(LogLines::new(self.lines(&path).await?))
    }
}
