//! The control protocol between the daemon and a gateway: lines of JSON on a unix socket, each request answered by one line.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use mio::net::UnixStream;
use serde::{Deserialize, Serialize};

use crate::decision_log::DecisionEntry;
use crate::fd_passing;
use crate::gateway::{Counters, Gateway};
use crate::limit_events::LimitKind;
use crate::settings::Settings;

pub use crate::gateway::{PeerConnection, PeerRequest};

/// Longest line, bytes.
pub const MOST_LINE: usize = 1 << 20;
/// How much may wait to be sent before no more entries are added.
const MOST_WAITING: usize = 64 << 10;

/// How long after one word about visitors the next one follows, if there are as many.
const TELLING: Duration = Duration::from_secs(1);

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
    /// Tell each connection that the guest wants to a member of one of its groups, with an end of it; how many connections
    /// of members there are, now and whenever that changes; and which bounds the guest meets.
    Broker,
    /// Take this connection of a member; its end comes with the request.
    Admit(PeerConnection),
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
    Entry(DecisionEntry),
    /// A connection that the guest wants. Its end comes with this; a [`ConnectOutcome`](crate::ConnectOutcome) is awaited there.
    Wanted(PeerRequest),
    /// Connections of members. Said again when their number changes, and about each second while bytes flow.
    Visitors {
        /// How many there are.
        open: usize,
    },
    /// The guest has met a bound. Not said again for a minute.
    Limited(LimitKind),
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
    ends: VecDeque<OwnedFd>,
    brokers: bool,
    /// What it was told of visitors, and when: how many there are, and how many bytes there have been.
    visitors: Option<(usize, u64, Instant)>,
}

/// Which entries are still to be told.
#[derive(Debug, Clone, Copy)]
struct Follow {
    next: u64,
    until: u64,
}

impl Client {
    pub(crate) fn new(stream: UnixStream) -> Client {
        Client {
            stream,
            line: Vec::new(),
            unsent: VecDeque::new(),
            follows: None,
            ends: VecDeque::new(),
            brokers: false,
            visitors: None,
        }
    }

    /// Reads and answers requests.
    ///
    /// # Errors
    /// If the connection has ended, or says too much at once.
    pub(crate) fn read(&mut self, gateway: &mut Gateway) -> io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            match fd_passing::receive(&self.stream, &mut buffer, &mut self.ends) {
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
                self.follows = Some(Follow {
                    next: 0,
                    until: if follow { u64::MAX } else { gateway.decision_log.next() },
                });
                return None;
            }
            Request::Broker => {
                self.brokers = true;
                return None;
            }
            Request::Admit(visitor) => match self.ends.pop_front() {
                Some(end) => match gateway.admit(&visitor, end) {
                    Ok(()) => Reply::Done,
                    Err(error) => Reply::Failed(error.to_string()),
                },
                None => Reply::Failed("no end of a connection has come with it".to_owned()),
            },
        })
    }

    /// Tells a broker what is new. An end goes with the first byte of its line.
    fn broker(&mut self, gateway: &mut Gateway) -> io::Result<()> {
        let (open, bytes, now) = (gateway.visitors(), gateway.bytes(), Instant::now());
        let is_news = match self.visitors {
            None => true,
            Some((before, ..)) if before != open => true,
            Some((_, before, at)) => open > 0 && before != bytes && now.duration_since(at) >= TELLING,
        };
        if is_news {
            self.visitors = Some((open, bytes, now));
            self.say(&Reply::Visitors { open })?;
        }
        while let Some(bound) = gateway.bounds.tell(now) {
            self.say(&Reply::Limited(bound))?;
        }
        while self.unsent.is_empty()
            && let Some((wanted, end)) = gateway.wanted().pop_front()
        {
            let mut line = serde_json::to_vec(&Reply::Wanted(wanted))?;
            line.push(b'\n');
            match fd_passing::send(&self.stream, &line, end.as_fd()) {
                Ok(count) => self.unsent.extend(line.drain(count..)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    gateway.wanted().push_front((wanted, end));
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
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
    pub(crate) fn write(&mut self, gateway: &mut Gateway) -> io::Result<()> {
        loop {
            if self.brokers {
                self.broker(gateway)?;
            }
            while let Some(follow) = self.follows
                && self.unsent.len() < MOST_WAITING
            {
                if follow.next >= follow.until {
                    self.follows = None;
                    self.say(&Reply::Done)?;
                } else if let Some(entry) = gateway.decision_log.from(follow.next) {
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
