//! TCP connections that end at the gateway itself: its resolver (RFC 7766) and its CONNECT proxy.

use std::io;
use std::time::{Duration, Instant};

use smoltcp::socket::tcp::State;

use super::connect_request::{ConnectRequest, Denial, MOST_HEAD, Step};
use super::connection_key::ConnectionKey;
use super::guest_socket::{Clock, GuestSocket};
use super::pending_tunnel::PendingTunnel;
use crate::frame_stream::FrameWriter;

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
    Proxy(ConnectRequest),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct LocalFlow {
    pub(crate) key: ConnectionKey,
    pub(crate) deadline: Option<Instant>,
    service: Service,
    guest_socket: Box<GuestSocket>,
    /// What the guest has not been sent yet.
    answers: Vec<u8>,
    until: Instant,
}

impl LocalFlow {
    /// Takes up a connection that begins with this packet, with buffers of these sizes, in and out.
    pub(crate) fn open(
        key: ConnectionKey,
        service: Service,
        first: &[u8],
        buffers: (usize, usize),
        clock: Clock,
        out: &mut FrameWriter,
    ) -> LocalFlow {
        let mut guest_socket = GuestSocket::listen(key.1, buffers, clock, out);
        guest_socket.input(first, out);
        LocalFlow::with(key, service, Box::new(guest_socket))
    }

    /// Takes up a guest that has waited for its tunnel in vain: tries what else there is.
    pub(crate) fn again(key: ConnectionKey, mut pending: PendingTunnel, error: &io::Error) -> LocalFlow {
        pending.request.failed(error);
        LocalFlow::with(key, Service::Proxy(pending.request), pending.guest_socket)
    }

    fn with(key: ConnectionKey, service: Service, guest_socket: Box<GuestSocket>) -> LocalFlow {
        let until = Instant::now() + PATIENCE;
        LocalFlow { key, deadline: None, service, guest_socket, answers: Vec::new(), until }
    }

    pub(crate) fn input(&mut self, packet: &[u8], out: &mut FrameWriter) {
        self.guest_socket.input(packet, out);
    }

    /// The next whole question for the resolver.
    pub(crate) fn question(&mut self) -> Option<Vec<u8>> {
        let Service::Resolver { question: received } = &mut self.service else { return None };
        let socket = self.guest_socket.socket();
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
        let Service::Proxy(request) = &mut self.service else { return Step::Wait };
        if request.is_unread() {
            let socket = self.guest_socket.socket();
            // What follows the head is for the other end of the tunnel.
            let read = request.read(socket.peek(MOST_HEAD).unwrap_or_default());
            match read {
                Ok(length) => {
                    let _head = socket.recv(|_| (length, ()));
                }
                Err(denial) => return Step::Deny(denial),
            }
        }
        request.step()
    }

    /// Somebody who wants a tunnel gets none.
    pub(crate) fn deny(&mut self, denial: &Denial) {
        if let Service::Proxy(request) = &mut self.service {
            request.end();
            self.answers.extend(denial.answer());
        }
    }

    /// The guest as one that waits for its tunnel, if it wants one.
    pub(crate) fn into_pending_tunnel(self) -> Option<PendingTunnel> {
        match self.service {
            Service::Proxy(request) => Some(PendingTunnel { guest_socket: self.guest_socket, request }),
            Service::Resolver { .. } => None,
        }
    }

    /// An answer to a question, its own or one that was asked for it.
    pub(crate) fn answer(&mut self, message: &[u8]) {
        match &mut self.service {
            Service::Proxy(request) => request.found(message),
            Service::Resolver { .. } => {
                if let Ok(length) = u16::try_from(message.len()) {
                    self.answers.extend(length.to_be_bytes());
                    self.answers.extend(message);
                }
            }
        }
    }

    /// Sends what is due. Returns when something is due next; `None` if it is over.
    pub(crate) fn turn(&mut self, out: &mut FrameWriter, now: Instant) -> Option<Instant> {
        let socket = self.guest_socket.socket();
        if let Ok(count) = socket.send_slice(&self.answers) {
            self.answers.drain(..count);
        }
        // Nobody has anything to say after what is on its way.
        let ended = (!socket.may_recv() && socket.state() == State::CloseWait)
            || matches!(&self.service, Service::Proxy(request) if request.is_answered());
        if now >= self.until || (ended && self.answers.is_empty()) {
            socket.close();
        }
        if now >= self.until + PATIENCE {
            socket.abort();
        }
        let due = self.guest_socket.flush(out);
        let over = matches!(self.guest_socket.socket().state(), State::Closed | State::TimeWait);
        let expiry = if now < self.until { self.until } else { self.until + PATIENCE };
        (!over).then(|| due.map_or(expiry, |due| due.min(expiry)))
    }
}
