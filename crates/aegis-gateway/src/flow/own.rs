//! A connection of the guest to the gateway itself: to its resolver, or to the proxy that it offers.

use std::io;
use std::time::{Duration, Instant};

use smoltcp::socket::tcp::State;

use super::key::Key;
use super::pending_tunnel::Petitioner;
use super::petition::{Denial, MOST_HEAD, Petition, Step};
use super::terminal::{Clock, Terminal};
use crate::wire::Outgoing;

/// Size of the buffers of a connection to the resolver.
pub(crate) const BUFFER: usize = 16 << 10;
/// Longest question.
const MOST_QUESTION: usize = 4096;
/// Most bytes of answers that wait for the guest; then it is asked nothing more.
const MOST_WAITING: usize = 128 << 10;
/// How long it is kept without a question.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the guest speaks to.
#[derive(Debug)]
pub(crate) enum Service {
    /// Questions and answers, each preceded by its length (RFC 7766).
    Resolver { question: Vec<u8> },
    /// The proxy, of which it wants one tunnel.
    Proxy(Petition),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct OwnFlow {
    pub(crate) key: Key,
    pub(crate) deadline: Option<Instant>,
    service: Service,
    terminal: Box<Terminal>,
    /// What the guest has not been sent yet.
    answers: Vec<u8>,
    until: Instant,
}

impl OwnFlow {
    /// Takes up a connection that begins with this packet, with buffers of these sizes, in and out.
    pub(crate) fn open(
        key: Key,
        service: Service,
        first: &[u8],
        buffers: (usize, usize),
        clock: Clock,
        out: &mut Outgoing,
    ) -> OwnFlow {
        let mut terminal = Terminal::listen(key.1, buffers, clock, out);
        terminal.input(first, out);
        OwnFlow::with(key, service, Box::new(terminal))
    }

    /// Takes up a guest that has waited for its tunnel in vain: tries what else there is.
    pub(crate) fn again(key: Key, mut petitioner: Petitioner, error: &io::Error) -> OwnFlow {
        petitioner.petition.failed(error);
        OwnFlow::with(key, Service::Proxy(petitioner.petition), petitioner.terminal)
    }

    fn with(key: Key, service: Service, terminal: Box<Terminal>) -> OwnFlow {
        let until = Instant::now() + PATIENCE;
        OwnFlow { key, deadline: None, service, terminal, answers: Vec::new(), until }
    }

    pub(crate) fn input(&mut self, packet: &[u8], out: &mut Outgoing) {
        self.terminal.input(packet, out);
    }

    /// The next whole question for the resolver.
    pub(crate) fn question(&mut self) -> Option<Vec<u8>> {
        let Service::Resolver { question: received } = &mut self.service else { return None };
        let socket = self.terminal.socket();
        while received.len() < MOST_QUESTION + 2 && self.answers.len() < MOST_WAITING {
            let mut some = [0; 1024];
            match socket.recv_slice(&mut some) {
                Ok(count) if count > 0 => received.extend_from_slice(some.get(..count).unwrap_or_default()),
                _ => break,
            }
        }
        let (length, rest) = received.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_be_bytes(*length));
        if length > MOST_QUESTION {
            socket.abort();
            received.clear();
            return None;
        }
        let question = rest.get(..length)?.to_vec();
        received.drain(..length + 2);
        self.until = Instant::now() + PATIENCE;
        Some(question)
    }

    /// What to do next for whoever wants a tunnel.
    pub(crate) fn step(&mut self) -> Step {
        let Service::Proxy(petition) = &mut self.service else { return Step::Wait };
        if petition.is_unread() {
            let socket = self.terminal.socket();
            // What follows the head is for the other end of the tunnel.
            let read = petition.read(socket.peek(MOST_HEAD).unwrap_or_default());
            match read {
                Ok(length) => {
                    let _head = socket.recv(|_| (length, ()));
                }
                Err(denial) => return Step::Deny(denial),
            }
        }
        petition.step()
    }

    /// Somebody who wants a tunnel gets none.
    pub(crate) fn deny(&mut self, denial: &Denial) {
        if let Service::Proxy(petition) = &mut self.service {
            petition.end();
            self.answers.extend(denial.answer());
        }
    }

    /// The guest as one that waits for its tunnel, if it wants one.
    pub(crate) fn into_petitioner(self) -> Option<Petitioner> {
        match self.service {
            Service::Proxy(petition) => Some(Petitioner { terminal: self.terminal, petition }),
            Service::Resolver { .. } => None,
        }
    }

    /// An answer to a question, its own or one that was asked for it.
    pub(crate) fn answer(&mut self, message: &[u8]) {
        match &mut self.service {
            Service::Proxy(petition) => petition.found(message),
            Service::Resolver { .. } => {
                if let Ok(length) = u16::try_from(message.len()) {
                    self.answers.extend(length.to_be_bytes());
                    self.answers.extend(message);
                }
            }
        }
    }

    /// Sends what is due. Returns when something is due next; `None` if it is over.
    pub(crate) fn turn(&mut self, out: &mut Outgoing, now: Instant) -> Option<Instant> {
        let socket = self.terminal.socket();
        if let Ok(count) = socket.send_slice(&self.answers) {
            self.answers.drain(..count);
        }
        // Nobody has anything to say after what is on its way.
        let ended = (!socket.may_recv() && socket.state() == State::CloseWait)
            || matches!(&self.service, Service::Proxy(petition) if petition.is_answered());
        if now >= self.until || (ended && self.answers.is_empty()) {
            socket.close();
        }
        if now >= self.until + PATIENCE {
            socket.abort();
        }
        let due = self.terminal.flush(out);
        let over = matches!(self.terminal.socket().state(), State::Closed | State::TimeWait);
        let expiry = if now < self.until { self.until } else { self.until + PATIENCE };
        (!over).then(|| due.map_or(expiry, |due| due.min(expiry)))
    }
}
