//! The decision log: the newest decisions about flows and names, in order.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use aegis_policy::{Action, Direction, Protocol};
use serde::{Deserialize, Serialize};

/// Most entries that are kept.
const MOST: usize = 1024;

/// What an entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// A flow is decided.
    Flow,
    /// A flow has ended; its bytes are counted.
    End,
    /// A name is asked for.
    Name,
}

/// A decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionEntry {
    /// Its number, without gaps.
    pub seq: u64,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// What it is about.
    pub what: EntryKind,
    /// Who began.
    pub direction: Direction,
    /// What is spoken.
    pub protocol: Protocol,
    /// The name that was asked for, or that the flow was decided by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The other end's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Its port; 0 for an echo.
    pub port: u16,
    /// The decision.
    pub action: Action,
    /// The rule that made it, in words.
    pub because: String,
    /// Bytes from the guest, at the end of a flow.
    #[serde(default)]
    pub bytes_out: u64,
    /// Bytes to the guest, at the end of a flow.
    #[serde(default)]
    pub bytes_in: u64,
}

/// The last decisions.
#[derive(Debug, Default)]
pub(crate) struct DecisionLog {
    entries: VecDeque<DecisionEntry>,
    next: u64,
}

impl DecisionLog {
    pub(crate) fn add(&mut self, mut entry: DecisionEntry) {
        entry.seq = self.next;
        entry.at_ms = now_ms();
        self.next += 1;
        if self.entries.len() == MOST {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
    }

    /// The number that the next entry gets.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// The first entry from this number on that is still there.
    pub(crate) fn from(&self, seq: u64) -> Option<&DecisionEntry> {
        let first = self.next - self.entries.len() as u64;
        let index = usize::try_from(seq.max(first) - first).ok()?;
        self.entries.get(index)
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
