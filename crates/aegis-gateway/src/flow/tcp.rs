//! One TCP connection of the guest, and the host's connection that it is joined to.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use aegis_policy::{Because, Ruling};
use mio::net::TcpStream;
use rustix::net::sockopt::set_socket_linger;
use smoltcp::socket::tcp::State;

use super::terminal::{Clock, Terminal};
use crate::inspect::{Inspector, Refusal};
use crate::judge::{Case, Judge};
use crate::proxy::Tunnel;
use crate::shape::Shaper;
use crate::wire::Outgoing;

/// Which connection: the guest's end, and the other as the guest wrote it.
pub(crate) type Key = (SocketAddr, SocketAddr);

/// How much of an inspected connection is taken at a time.
const INSPECTED: usize = 16 << 10;
/// How much moves in one turn before others have theirs.
const TURN: usize = 512 << 10;

/// How long a proxy may take to open a tunnel: longer than it may wait itself for who it connects to.
const TUNNEL_PATIENCE: Duration = Duration::from_secs(150);

/// Whether the host's end is connected by now; an error if it never will be.
fn is_connected(stream: &TcpStream) -> io::Result<bool> {
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    match stream.peer_addr() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes the end of the host's connection a reset.
fn reset(stream: &TcpStream) {
    // Otherwise it ends in good order, which the other end may misunderstand.
    let _orderly = set_socket_linger(stream.as_fd(), Some(Duration::ZERO));
}

#[derive(Debug)]
enum Stage {
    /// The host's end is not connected yet, or its tunnel is not open; the guest's first packet waits.
    Connecting { first: Vec<u8>, tunnel: Option<Tunnel> },
    /// Bytes flow.
    Open(Box<Terminal>),
}

/// How a turn ended.
#[derive(Debug)]
pub(crate) enum Turn {
    /// It goes on; something is due then, or at an event.
    Wait(Option<Instant>),
    /// It goes on at once, after others.
    Again,
    /// It could not be connected.
    Failed(io::Error),
    /// It is over.
    Over,
}

/// What a flow works with.
pub(crate) struct Surroundings<'a> {
    pub(crate) out: &'a mut Outgoing,
    pub(crate) judge: &'a Judge,
    pub(crate) shaper: &'a mut Shaper,
    pub(crate) clock: Clock,
    /// Size of a new connection's buffer of what the guest sends.
    pub(crate) receive: usize,
    /// Size of its buffer of what the guest has not acknowledged: the more is under way, the less often it is woken.
    pub(crate) send: usize,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct TcpFlow {
    pub(crate) key: Key,
    pub(crate) host: TcpStream,
    pub(crate) case: Case,
    pub(crate) bytes_out: u64,
    pub(crate) bytes_in: u64,
    pub(crate) deadline: Option<Instant>,
    stage: Stage,
    readable: bool,
    writable: bool,
    /// The guest's end of data was passed on.
    guest_done: bool,
    /// The host's was.
    host_done: bool,
    inspector: Option<Box<Inspector>>,
    /// Inspected bytes that the host has not taken yet.
    passed: Vec<u8>,
    /// Bytes of the other end that came with the proxy's answer.
    early: Vec<u8>,
    begun: Instant,
}

impl TcpFlow {
    /// A flow whose other end is `host`, or what is at the end of a tunnel through it.
    pub(crate) fn new(
        key: Key,
        (host, tunnel): (TcpStream, Option<Tunnel>),
        first: &[u8],
        case: Case,
        inspected: bool,
    ) -> TcpFlow {
        TcpFlow {
            key,
            host,
            case,
            bytes_out: 0,
            bytes_in: 0,
            deadline: None,
            stage: Stage::Connecting { first: first.to_vec(), tunnel },
            early: Vec::new(),
            begun: Instant::now(),
            readable: false,
            writable: false,
            guest_done: false,
            host_done: false,
            inspector: inspected.then(|| Box::new(Inspector::new())),
            passed: Vec::new(),
        }
    }

    /// Another segment of the guest.
    pub(crate) fn input(&mut self, packet: &[u8], out: &mut Outgoing) {
        // Before it is open these are repetitions of the first.
        if let Stage::Open(terminal) = &mut self.stage {
            terminal.input(packet, out);
        }
    }

    pub(crate) fn is_connecting(&self) -> bool {
        matches!(self.stage, Stage::Connecting { .. })
    }

    /// The guest's first packet, as long as it waits.
    pub(crate) fn first(&self) -> Option<&[u8]> {
        match &self.stage {
            Stage::Connecting { first, .. } => Some(first),
            Stage::Open(_) => None,
        }
    }

    /// Notes what the host's socket is ready for.
    pub(crate) fn ready(&mut self, readable: bool, writable: bool) {
        self.readable |= readable;
        self.writable |= writable;
    }

    /// Ends it for both sides, at once.
    pub(crate) fn abort(&mut self, out: &mut Outgoing) {
        reset(&self.host);
        if let Stage::Open(terminal) = &mut self.stage {
            terminal.socket().abort();
            terminal.flush(out);
        }
    }

    /// Moves what can be moved.
    pub(crate) fn turn(&mut self, around: &mut Surroundings<'_>) -> Turn {
        if let Stage::Connecting { first, tunnel } = &mut self.stage {
            match is_connected(&self.host) {
                Ok(false) => return Turn::Wait(None),
                Err(error) => return Turn::Failed(error),
                Ok(true) => {}
            }
            if let Some(tunnel) = tunnel {
                let late = self.begun + TUNNEL_PATIENCE;
                match tunnel.advance(&mut self.host) {
                    Ok(None) if Instant::now() >= late => return Turn::Failed(ErrorKind::TimedOut.into()),
                    Ok(None) => return Turn::Wait(Some(late)),
                    Ok(Some(early)) => self.early = early,
                    Err(error) => return Turn::Failed(error),
                }
            }
            let local = self.key.1;
            let mut terminal =
                Terminal::listen(local, (around.receive, around.send), around.clock, around.out);
            terminal.input(first, around.out);
            self.stage = Stage::Open(Box::new(terminal));
        }
        let mut moved = 0;
        let over = loop {
            let before = moved;
            match self.outward(around).and_then(|out| self.inward(around).map(|inward| out + inward)) {
                Ok(count) => moved += count,
                Err(_) => break true,
            }
            if moved == before || moved > TURN {
                break false;
            }
        };
        if over {
            self.abort(around.out);
            return Turn::Over;
        }
        self.half_close();
        let Stage::Open(terminal) = &mut self.stage else { return Turn::Over };
        let due = terminal.flush(around.out);
        match terminal.socket().state() {
            State::Closed if !(self.guest_done && self.host_done) => {
                reset(&self.host);
                Turn::Over
            }
            State::Closed | State::TimeWait => Turn::Over,
            _ if moved > TURN => Turn::Again,
            _ => Turn::Wait(due),
        }
    }

    /// From the guest to the host.
    fn outward(&mut self, around: &mut Surroundings<'_>) -> io::Result<usize> {
        if !self.passed.is_empty() {
            return self.send_passed();
        }
        let Stage::Open(terminal) = &mut self.stage else { return Ok(0) };
        let socket = terminal.socket();
        let allowed = around.shaper.outward();
        if !self.writable || !socket.can_recv() || allowed == 0 {
            return Ok(0);
        }
        if self.inspector.as_ref().is_some_and(|inspector| inspector.is_open()) {
            self.inspector = None;
        }
        if self.inspector.is_some() {
            return self.inspected(around, allowed.min(INSPECTED));
        }
        let (host, writable) = (&mut self.host, &mut self.writable);
        let count = socket.recv(|bytes| {
            let bytes = bytes.get(..bytes.len().min(allowed)).unwrap_or_default();
            let written = attempt(writable, || host.write(bytes));
            (*written.as_ref().unwrap_or(&0), written)
        });
        let count = count.unwrap_or(Ok(0))?;
        around.shaper.take_outward(count);
        self.bytes_out += count as u64;
        Ok(count)
    }

    fn inspected(&mut self, around: &mut Surroundings<'_>, most: usize) -> io::Result<usize> {
        let Stage::Open(terminal) = &mut self.stage else { return Ok(0) };
        let mut bytes = vec![0; most];
        let count = terminal.socket().recv_slice(&mut bytes).unwrap_or(0);
        around.shaper.take_outward(count);
        self.bytes_out += count as u64;
        let Some(inspector) = &mut self.inspector else { return Ok(count) };
        let case = &mut self.case;
        let mut approve = |claim| around.judge.named(case, claim);
        let result = inspector.feed(bytes.get(..count).unwrap_or_default(), &mut self.passed, &mut approve);
        if let Err(refusal) = result {
            if let Refusal::Malformed(text) = refusal {
                case.ruling = Ruling::deny(Because::Malformed(text.to_owned()));
            }
            return Err(ErrorKind::PermissionDenied.into());
        }
        self.send_passed()?;
        Ok(count)
    }

    fn send_passed(&mut self) -> io::Result<usize> {
        let (host, passed) = (&mut self.host, &mut self.passed);
        let count = attempt(&mut self.writable, || host.write(passed))?;
        self.passed.drain(..count);
        if self.passed.is_empty() {
            self.passed = Vec::new();
        }
        Ok(count)
    }

    /// From the host to the guest.
    fn inward(&mut self, around: &mut Surroundings<'_>) -> io::Result<usize> {
        let Stage::Open(terminal) = &mut self.stage else { return Ok(0) };
        let socket = terminal.socket();
        if !self.early.is_empty() {
            let count = socket.send_slice(&self.early).unwrap_or(0);
            self.early.drain(..count);
            return Ok(count);
        }
        let allowed = around.shaper.inward();
        if !self.readable || !socket.can_send() || self.host_done || allowed == 0 || !around.out.has_room() {
            return Ok(0);
        }
        let (host, readable, inspector) = (&mut self.host, &mut self.readable, &mut self.inspector);
        let read = socket.send(|buffer| {
            let most = buffer.len().min(allowed);
            let buffer = buffer.get_mut(..most).unwrap_or_default();
            let mut end = false;
            let count = attempt(readable, || {
                let count = host.read(buffer)?;
                end = count == 0;
                Ok(count)
            });
            if let (Ok(count), Some(inspector)) = (&count, inspector) {
                inspector.answered(buffer.get(..*count).unwrap_or_default());
            }
            (*count.as_ref().unwrap_or(&0), count.map(|count| (count, end)))
        });
        let (count, end) = read.unwrap_or(Ok((0, false)))?;
        self.host_done |= end;
        around.shaper.take_inward(count);
        self.bytes_in += count as u64;
        // What was held for the server's answer may go on.
        if self.inspector.is_some() && count > 0 && self.passed.is_empty() {
            return self.inspected(around, 0).map(|more| more + count);
        }
        Ok(count)
    }

    /// Passes on what has ended on one side only.
    fn half_close(&mut self) {
        let Stage::Open(terminal) = &mut self.stage else { return };
        let socket = terminal.socket();
        let begun = !matches!(socket.state(), State::Listen | State::SynReceived | State::Closed);
        if begun && !self.guest_done && !socket.may_recv() && self.passed.is_empty() {
            self.guest_done = true;
            // One that has failed is noticed by reading from it.
            let _gone = self.host.shutdown(Shutdown::Write);
        }
        if self.host_done && socket.may_send() {
            socket.close();
        }
    }
}

/// Tries a call that may not be possible now; then `ready` is not true any more.
fn attempt(ready: &mut bool, call: impl FnOnce() -> io::Result<usize>) -> io::Result<usize> {
    match call() {
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            *ready = false;
            Ok(0)
        }
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(0),
        other => other,
    }
}
