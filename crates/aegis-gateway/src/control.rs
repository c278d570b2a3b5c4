//! What the daemon and a gateway say to each other: lines of JSON on a unix socket, each request answered by one line.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};

use mio::net::UnixStream;
use serde::{Deserialize, Serialize};

use crate::gateway::{Counters, Gateway};
use crate::journal::Entry;
use crate::settings::Settings;

/// Longest line, bytes.
pub const MOST_LINE: usize = 1 << 20;
/// How much may wait to be sent before no more entries are added.
const MOST_WAITING: usize = 64 << 10;

/// What the daemon asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Take these settings.
    Set(Box<Settings>),
    /// What was counted?
    Counters,
    /// Tell each decision that is kept; and each that is made from then on, until the connection ends.
    Entries {
        /// Go on.
        follow: bool,
    },
}

/// What a gateway answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// It is so.
    Done,
    /// The numbers.
    Counters(Box<Counters>),
    /// A decision that was made.
    Entry(Entry),
    /// The request makes no sense.
    Failed(String),
}

/// One connection of the daemon.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    line: Vec<u8>,
    unsent: VecDeque<u8>,
    follows: Option<Follow>,
}

/// Which entries are still to be told.
#[derive(Debug, Clone, Copy)]
struct Follow {
    next: u64,
    until: u64,
}

impl Client {
    pub(crate) fn new(stream: UnixStream) -> Client {
        Client { stream, line: Vec::new(), unsent: VecDeque::new(), follows: None }
    }

    /// Reads and answers requests.
    ///
    /// # Errors
    /// If the connection has ended, or says too much at once.
    pub(crate) fn read(&mut self, gateway: &mut Gateway) -> io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.take(buffer.get(..count).unwrap_or_default(), gateway)?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn take(&mut self, bytes: &[u8], gateway: &mut Gateway) -> io::Result<()> {
        self.line.extend_from_slice(bytes);
        while let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.line.drain(..=end).collect();
            let reply = match serde_json::from_slice(&line) {
                Ok(request) => self.answer(request, gateway),
                Err(error) => Some(Reply::Failed(error.to_string())),
            };
            if let Some(reply) = reply {
                self.say(&reply)?;
            }
        }
        if self.line.len() > MOST_LINE { Err(ErrorKind::InvalidData.into()) } else { Ok(()) }
    }

    fn answer(&mut self, request: Request, gateway: &mut Gateway) -> Option<Reply> {
        Some(match request {
            Request::Set(settings) => {
                gateway.set(*settings);
                Reply::Done
            }
            Request::Counters => Reply::Counters(Box::new(gateway.counters())),
            Request::Entries { follow } => {
                self.follows =
                    Some(Follow { next: 0, until: if follow { u64::MAX } else { gateway.journal.next() } });
                return None;
            }
        })
    }

    fn say(&mut self, reply: &Reply) -> io::Result<()> {
        self.unsent.extend(serde_json::to_vec(reply)?);
        self.unsent.push_back(b'\n');
        Ok(())
    }

    /// Sends what waits, and new entries for who follows them.
    ///
    /// # Errors
    /// If the connection has ended.
    pub(crate) fn write(&mut self, gateway: &Gateway) -> io::Result<()> {
        loop {
            while let Some(follow) = self.follows
                && self.unsent.len() < MOST_WAITING
            {
                if follow.next >= follow.until {
                    self.follows = None;
                    self.say(&Reply::Done)?;
                } else if let Some(entry) = gateway.journal.from(follow.next) {
                    self.follows = Some(Follow { next: entry.seq + 1, ..follow });
                    self.say(&Reply::Entry(entry.clone()))?;
                } else {
                    break;
                }
            }
            if self.unsent.is_empty() {
                return Ok(());
            }
            let (bytes, _) = self.unsent.as_slices();
            match self.stream.write(bytes) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}
