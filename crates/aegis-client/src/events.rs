//! Events as they come: server-sent events.

use aegis_api::events::{InstanceEvent, MISSED, Missed};
use bytes::Bytes;

use crate::client::Client;
use crate::error::ClientError;
use crate::lines::Lines;
use crate::query::EventQuery;
use crate::url_path::escape;

/// What the stream of events tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventStreamItem {
    /// Something happened.
    Event(InstanceEvent),
    /// These are no longer kept.
    Missed(Missed),
}

/// The stream of events.
#[derive(Debug)]
pub struct Events {
    lines: Lines,
}

/// The lines of one server-sent event that matter here.
#[derive(Debug, Default)]
struct Block {
    missed: bool,
    data: Option<Bytes>,
}

impl Block {
    /// Takes a line. At the end of a block returns what it tells, if anything.
    fn take(&mut self, line: &Bytes) -> Result<Option<EventStreamItem>, ClientError> {
        if let Some(kind) = line.strip_prefix(b"event: ") {
            self.missed = kind == MISSED.as_bytes();
        } else if line.starts_with(b"data: ") {
            self.data = Some(line.slice(6..));
        } else if line.is_empty() {
            let Block { missed, data } = std::mem::take(self);
            let told = |data: Bytes| {
                Ok::<_, ClientError>(if missed {
                    EventStreamItem::Missed(serde_json::from_slice(&data)?)
                } else {
                    EventStreamItem::Event(serde_json::from_slice(&data)?)
                })
            };
            return data.map(told).transpose();
        }
        Ok(None)
    }
}

impl Events {
    pub(crate) fn new(lines: Lines) -> Events {
        Events { lines }
    }

    /// What is told next; `None` at the end of the stream.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn next(&mut self) -> Result<Option<EventStreamItem>, ClientError> {
        let mut block = Block::default();
        while let Some(line) = self.lines.next().await? {
            if let Some(told) = block.take(&line)? {
                return Ok(Some(told));
            }
        }
        Ok(None)
    }
}

impl Client {
    /// What happens to instances.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn events(&self, query: &EventQuery) -> Result<Events, ClientError> {
        let mut path = format!("/v1/events?follow={}", query.follow);
        if let Some(after) = query.after {
            path = format!("{path}&after={after}");
        }
        if let Some(instance) = &query.instance {
            path = format!("{path}&instance={}", escape(instance));
        }
        Ok(Events::new(self.lines(&path).await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &'static str) -> Vec<EventStreamItem> {
        let mut block = Block::default();
        let lines = text.lines().map(|line| Bytes::from_static(line.as_bytes()));
        lines.filter_map(|line| block.take(&line).unwrap()).collect()
    }

    #[test]
    fn comments_are_skipped_and_gaps_are_told() {
        let text = ":\n\nid: 7\nevent: missed\ndata: {\"from\":1,\"to\":7}\n\n\
            id: 8\nevent: stopped\ndata: {\"seq\":8,\"at\":\"t\",\"kind\":\"stopped\",\"instance_id\":\"inst-1\",\"boot\":1}\n\n";
        let told = read(text);
        assert_eq!(told[0], EventStreamItem::Missed(Missed { from: 1, to: 7 }));
        assert!(
            matches!(&told[1], EventStreamItem::Event(event) if event.seq == 8 && event.kind == "stopped")
        );
        assert_eq!(told.len(), 2);
    }

    proptest! {
        #[test]
        fn arbitrary_lines_are_told_or_refused(lines in prop::collection::vec(any::<Vec<u8>>(), 0..16)) {
            let mut block = Block::default();
            for line in lines {
                drop(block.take(&Bytes::from(line)));
                drop(block.take(&Bytes::new()));
            }
        }
    }
}
