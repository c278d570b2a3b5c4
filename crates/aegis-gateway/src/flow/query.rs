//! A connection of the guest to the resolver: questions and answers, each preceded by its length (RFC 7766).

use std::time::{Duration, Instant};

use smoltcp::socket::tcp::State;

use super::tcp::Key;
use super::terminal::{Clock, Terminal};
use crate::wire::Outgoing;

/// Size of its buffers.
const BUFFER: usize = 16 << 10;
/// Longest question.
const MOST_QUESTION: usize = 4096;
/// Most bytes of answers that wait for the guest; then it is asked nothing more.
const MOST_WAITING: usize = 128 << 10;
/// How long it is kept without a question.
const PATIENCE: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug)]
pub(crate) struct QueryFlow {
    pub(crate) key: Key,
    pub(crate) deadline: Option<Instant>,
    terminal: Box<Terminal>,
    question: Vec<u8>,
    answers: Vec<u8>,
    until: Instant,
}

impl QueryFlow {
    /// Takes up a connection that begins with this packet.
    pub(crate) fn open(key: Key, first: &[u8], clock: Clock, out: &mut Outgoing) -> QueryFlow {
        let mut terminal = Terminal::listen(key.1, (BUFFER, BUFFER), clock, out);
        terminal.input(first, out);
        let until = Instant::now() + PATIENCE;
        let (question, answers) = (Vec::new(), Vec::new());
        QueryFlow { key, deadline: None, terminal: Box::new(terminal), question, answers, until }
    }

    pub(crate) fn input(&mut self, packet: &[u8], out: &mut Outgoing) {
        self.terminal.input(packet, out);
    }

    /// The next whole question.
    pub(crate) fn question(&mut self) -> Option<Vec<u8>> {
        let socket = self.terminal.socket();
        while self.question.len() < MOST_QUESTION + 2 && self.answers.len() < MOST_WAITING {
            let mut some = [0; 1024];
            match socket.recv_slice(&mut some) {
                Ok(count) if count > 0 => {
                    self.question.extend_from_slice(some.get(..count).unwrap_or_default())
                }
                _ => break,
            }
        }
        let (length, rest) = self.question.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_be_bytes(*length));
        if length > MOST_QUESTION {
            socket.abort();
            self.question.clear();
            return None;
        }
        let question = rest.get(..length)?.to_vec();
        self.question.drain(..length + 2);
        self.until = Instant::now() + PATIENCE;
        Some(question)
    }

    pub(crate) fn answer(&mut self, message: &[u8]) {
        if let Ok(length) = u16::try_from(message.len()) {
            self.answers.extend(length.to_be_bytes());
            self.answers.extend(message);
        }
    }

    /// Sends what is due. Returns when something is due next; `None` if it is over.
    pub(crate) fn turn(&mut self, out: &mut Outgoing, now: Instant) -> Option<Instant> {
        let socket = self.terminal.socket();
        if let Ok(count) = socket.send_slice(&self.answers) {
            self.answers.drain(..count);
        }
        if now >= self.until
            || (!socket.may_recv() && socket.state() == State::CloseWait && self.answers.is_empty())
        {
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
