//! One TCP connection of the guest, and the host's connection that it is joined to.

use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use aegis_policy::{InspectionLevel, Reason, Verdict};
use smoltcp::socket::tcp::State;

use super::connect_request::GRANTED;
use super::connection_key::ConnectionKey;
use super::guest_socket::{Clock, GuestSocket};
use super::host_stream::Stream;
use super::member_stream::ConnectOutcome;
use super::pending_tunnel::PendingTunnel;
use crate::frame_stream::FrameWriter;
use crate::host_proxy::Tunnel;
use crate::inspect::{Inspector, Refusal, Wait};
use crate::policy_engine::{FlowDecision, PolicyEngine};
use crate::token_bucket::RateLimiter;

/// How much of an inspected connection is taken at a time.
const INSPECTED: usize = 16 << 10;
/// How much moves in one turn before others have theirs.
const TURN: usize = 512 << 10;

/// How long a proxy may take to open a tunnel: longer than it may wait itself for who it connects to. A member of a group
/// takes no longer to wake.
const PATIENCE: Duration = Duration::from_secs(150);
/// How long a guest that refuses a visitor is left alone before it is asked again: longer each time, up to a limit.
const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// What stands where somebody waited.
const NOBODY: Waiting = Waiting::Packet(Vec::new());

/// A guest whose other end is not there yet.
#[derive(Debug)]
pub(crate) enum Waiting {
    /// Its first packet, which has no answer yet.
    Packet(Vec<u8>),
    /// It has asked for a tunnel, and is told when there is one.
    PendingTunnel(Box<PendingTunnel>),
}

#[derive(Debug)]
enum Stage {
    /// The host's end is not connected yet, or its tunnel is not open.
    Connecting { waiting: Waiting, tunnel: Option<Tunnel> },
    /// A member of a group has come, and the guest has not taken it yet.
    IncomingConnection(Box<IncomingConnection>),
    /// Bytes flow.
    Open(Box<GuestSocket>),
}

/// A connection that the guest is asked to take.
#[derive(Debug)]
struct IncomingConnection {
    guest_socket: GuestSocket,
    /// Until when a refusal is not the last word: its server may be about to come up.
    until: Instant,
    /// When it is asked again, after a refusal.
    again: Option<Instant>,
    wait: Duration,
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
pub(crate) struct FlowContext<'a> {
    pub(crate) out: &'a mut FrameWriter,
    pub(crate) engine: &'a PolicyEngine,
    pub(crate) limiter: &'a mut RateLimiter,
    pub(crate) clock: Clock,
    /// Size of a new connection's buffer of what the guest sends.
    pub(crate) receive: usize,
    /// Size of its buffer of what the guest has not acknowledged: the more is under way, the less often it is woken.
    pub(crate) send: usize,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct TcpFlow {
    pub(crate) key: ConnectionKey,
    pub(crate) host: Stream,
    pub(crate) decision: FlowDecision,
    pub(crate) bytes_out: u64,
    pub(crate) bytes_in: u64,
    pub(crate) deadline: Option<Instant>,
    stage: Stage,
    readable: bool,
    writable: bool,
    /// The guest has ended what it sends, in good order.
    guest_ended: bool,
    /// And that, with all before it, was passed on.
    guest_done: bool,
    /// The host's was.
    host_done: bool,
    inspector: Option<Box<Inspector>>,
    /// What the guest has not said yet, and until when it may.
    awaited: Option<(Wait, Instant)>,
    /// Inspected bytes that the host has not taken yet.
    passed: Vec<u8>,
    /// Bytes of the other end that came with the proxy's answer.
    early: Vec<u8>,
    begun: Instant,
}

impl TcpFlow {
    /// A flow whose other end is `host`, or what is at the end of a tunnel through it.
    pub(crate) fn new(
        key: ConnectionKey,
        (host, tunnel): (Stream, Option<Tunnel>),
        waiting: Waiting,
        decision: FlowDecision,
    ) -> TcpFlow {
        let stage = Stage::Connecting { waiting, tunnel };
        let mut flow = TcpFlow::in_stage(stage, key, host, decision);
        flow.inspector = match flow.decision.scrutiny {
            InspectionLevel::None => None,
            scrutiny => Some(Box::new(Inspector::new(scrutiny == InspectionLevel::Strict))),
        };
        flow
    }

    /// A flow that the other end begins. The guest's refusals count from `until` on.
    pub(crate) fn visit(
        key: ConnectionKey,
        host: Stream,
        decision: FlowDecision,
        until: Instant,
        around: &mut FlowContext<'_>,
    ) -> TcpFlow {
        let guest_socket = GuestSocket::connect(key, (around.receive, around.send), around.clock, around.out);
        let visiting = IncomingConnection { guest_socket, until, again: None, wait: FIRST_WAIT };
        TcpFlow::in_stage(Stage::IncomingConnection(Box::new(visiting)), key, host, decision)
    }

    fn in_stage(stage: Stage, key: ConnectionKey, host: Stream, decision: FlowDecision) -> TcpFlow {
        TcpFlow {
            key,
            host,
            decision,
            bytes_out: 0,
            bytes_in: 0,
            deadline: None,
            stage,
            early: Vec::new(),
            begun: Instant::now(),
            readable: false,
            writable: false,
            guest_ended: false,
            guest_done: false,
            host_done: false,
            inspector: None,
            awaited: None,
            passed: Vec::new(),
        }
    }

    /// Another segment of the guest.
    pub(crate) fn input(&mut self, packet: &[u8], out: &mut FrameWriter) {
        match &mut self.stage {
            // These are repetitions of the first.
            Stage::Connecting { waiting: Waiting::Packet(_), .. } => {}
            Stage::Connecting { waiting: Waiting::PendingTunnel(pending), .. } => {
                pending.guest_socket.input(packet, out);
            }
            Stage::IncomingConnection(visiting) => visiting.guest_socket.input(packet, out),
            Stage::Open(guest_socket) => guest_socket.input(packet, out),
        }
    }

    pub(crate) fn is_connecting(&self) -> bool {
        matches!(self.stage, Stage::Connecting { .. })
    }

    /// The guest's first packet, as long as it waits.
    pub(crate) fn first(&self) -> Option<&[u8]> {
        match &self.stage {
            Stage::Connecting { waiting: Waiting::Packet(first), .. } => Some(first),
            Stage::Connecting { .. } | Stage::IncomingConnection(_) | Stage::Open(_) => None,
        }
    }

    /// The guest, as long as its other end is not there; the flow is of no use any more.
    pub(crate) fn give_up(&mut self) -> Option<Waiting> {
        match &mut self.stage {
            Stage::Connecting { waiting, .. } => Some(std::mem::replace(waiting, NOBODY)),
            Stage::IncomingConnection(_) | Stage::Open(_) => None,
        }
    }

    /// Notes what the host's socket is ready for.
    pub(crate) fn ready(&mut self, readable: bool, writable: bool) {
        self.readable |= readable;
        self.writable |= writable;
    }

    /// Ends it for both sides, at once.
    pub(crate) fn abort(&mut self, out: &mut FrameWriter) {
        self.host.reset();
        let guest_socket = match &mut self.stage {
            Stage::Connecting { waiting: Waiting::Packet(_), .. } => return,
            Stage::Connecting { waiting: Waiting::PendingTunnel(pending), .. } => &mut pending.guest_socket,
            Stage::IncomingConnection(visiting) => &mut visiting.guest_socket,
            Stage::Open(guest_socket) => guest_socket,
        };
        guest_socket.socket().abort();
        guest_socket.flush(out);
    }

    /// Begins to be open, as soon as the host's end is connected; tells how the turn ends otherwise.
    fn connect(&mut self, around: &mut FlowContext<'_>) -> Result<(), Turn> {
        let Stage::Connecting { tunnel, .. } = &mut self.stage else { return Ok(()) };
        let late = self.begun + PATIENCE;
        match self.host.is_connected() {
            // The host knows itself when it has waited long enough.
            Ok(false) if matches!(self.host, Stream::World(_)) => return Err(Turn::Wait(None)),
            Ok(false) if Instant::now() >= late => {
                return Err(Turn::Failed(ErrorKind::HostUnreachable.into()));
            }
            Ok(false) => return Err(Turn::Wait(Some(late))),
            Err(error) => return Err(Turn::Failed(error)),
            Ok(true) => {}
        }
        if let Some(tunnel) = tunnel {
            match tunnel.advance(&mut self.host) {
                Ok(None) if Instant::now() >= late => return Err(Turn::Failed(ErrorKind::TimedOut.into())),
                Ok(None) => return Err(Turn::Wait(Some(late))),
                Ok(Some(early)) => self.early = early,
                Err(error) => return Err(Turn::Failed(error)),
            }
        }
        if let Some(waiting) = self.give_up() {
            self.stage = Stage::Open(self.greet(waiting, around));
        }
        Ok(())
    }

    /// Tells the guest that its other end is there.
    fn greet(&self, waiting: Waiting, around: &mut FlowContext<'_>) -> Box<GuestSocket> {
        match waiting {
            Waiting::Packet(first) => {
                let (local, buffers) = (self.key.1, (around.receive, around.send));
                let mut guest_socket =
                    Box::new(GuestSocket::listen(local, buffers, around.clock, around.out));
                guest_socket.input(&first, around.out);
                guest_socket
            }
            Waiting::PendingTunnel(pending) => {
                let mut guest_socket = pending.guest_socket;
                // Nothing was sent before, so that there is room.
                let _whole = guest_socket.socket().send_slice(GRANTED);
                guest_socket
            }
        }
    }

    /// Begins to be open, as soon as the guest has taken it; tells how the turn ends otherwise.
    fn receive(&mut self, around: &mut FlowContext<'_>) -> Result<(), Turn> {
        let Stage::IncomingConnection(visiting) = &mut self.stage else { return Ok(()) };
        let now = Instant::now();
        if visiting.again.is_some_and(|at| at <= now) {
            visiting.guest_socket =
                GuestSocket::connect(self.key, (around.receive, around.send), around.clock, around.out);
            visiting.again = None;
        }
        let due = visiting.guest_socket.flush(around.out);
        let verdict = match visiting.guest_socket.socket().state() {
            State::SynSent | State::SynReceived if now < self.begun + PATIENCE => {
                return Err(Turn::Wait(due));
            }
            State::SynSent | State::SynReceived => ConnectOutcome::Unreachable,
            State::Closed if now < visiting.until => {
                if visiting.again.is_none() {
                    visiting.again = Some(now + visiting.wait);
                    visiting.wait = (visiting.wait * 2).min(LONGEST_WAIT);
                }
                return Err(Turn::Wait(visiting.again));
            }
            State::Closed => ConnectOutcome::Refused,
            _ => ConnectOutcome::Connected,
        };
        let told = match &mut self.host {
            Stream::Member(member) => member.tell(verdict).is_ok(),
            Stream::World(_) => false,
        };
        if !told || verdict != ConnectOutcome::Connected {
            self.abort(around.out);
            return Err(Turn::Over);
        }
        let before = std::mem::replace(&mut self.stage, Stage::Connecting { waiting: NOBODY, tunnel: None });
        if let Stage::IncomingConnection(visiting) = before {
            self.stage = Stage::Open(Box::new(visiting.guest_socket));
        }
        Ok(())
    }

    /// Moves what can be moved.
    pub(crate) fn turn(&mut self, around: &mut FlowContext<'_>) -> Turn {
        if let Err(turn) = self.connect(around).and_then(|()| self.receive(around)) {
            return turn;
        }
        let mut moved = 0;
        let over = self.overdue(Instant::now()).is_err()
            || loop {
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
        let Stage::Open(guest_socket) = &mut self.stage else { return Turn::Over };
        let due = guest_socket.flush(around.out);
        match guest_socket.socket().state() {
            State::Closed if !self.guest_ended => {
                self.host.reset();
                Turn::Over
            }
            State::Closed | State::TimeWait if self.guest_done => Turn::Over,
            _ if moved > TURN => Turn::Again,
            // A guest that has gone may have left something that the host has not taken yet.
            _ => Turn::Wait([due, self.awaited.map(|(_, until)| until)].into_iter().flatten().min()),
        }
    }

    /// From the guest to the host.
    fn outward(&mut self, around: &mut FlowContext<'_>) -> io::Result<usize> {
        if !self.passed.is_empty() {
            return self.send_passed();
        }
        let Stage::Open(guest_socket) = &mut self.stage else { return Ok(0) };
        let socket = guest_socket.socket();
        let allowed = around.limiter.outward();
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
        around.limiter.take_outward(count);
        self.bytes_out += count as u64;
        Ok(count)
    }

    fn inspected(&mut self, around: &mut FlowContext<'_>, most: usize) -> io::Result<usize> {
        let Stage::Open(guest_socket) = &mut self.stage else { return Ok(0) };
        let mut bytes = vec![0; most];
        let count = guest_socket.socket().recv_slice(&mut bytes).unwrap_or(0);
        around.limiter.take_outward(count);
        self.bytes_out += count as u64;
        let Some(inspector) = &mut self.inspector else { return Ok(count) };
        let decision = &mut self.decision;
        let mut approve = |claim| around.engine.named(decision, claim);
        let result = inspector.feed(bytes.get(..count).unwrap_or_default(), &mut self.passed, &mut approve);
        self.judged(result)?;
        self.send_passed()?;
        Ok(count)
    }

    /// Ends what was refused, and notes until when the guest may go on to say what it has begun to.
    fn judged(&mut self, result: Result<(), Refusal>) -> io::Result<()> {
        let because = match result {
            Ok(()) => {
                let wait = self.inspector.as_ref().and_then(|inspector| inspector.waits_for());
                if self.awaited.map(|(wait, _)| wait) != wait {
                    self.awaited = wait.map(|wait| (wait, Instant::now() + wait.patience()));
                }
                return Ok(());
            }
            Err(Refusal::Judged) => None,
            Err(Refusal::Unrecognised) => Some(Reason::Unrecognised),
            Err(Refusal::Malformed(text)) => Some(Reason::Malformed(text.to_owned())),
        };
        if let Some(because) = because {
            self.decision.verdict = Verdict::deny(because);
        }
        Err(ErrorKind::PermissionDenied.into())
    }

    /// Goes on without what the guest has not said in time.
    fn overdue(&mut self, now: Instant) -> io::Result<()> {
        if self.awaited.is_none_or(|(_, until)| now < until) {
            return Ok(());
        }
        let Some(inspector) = &mut self.inspector else { return Ok(()) };
        let result = inspector.late(&mut self.passed);
        self.judged(result)
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
    fn inward(&mut self, around: &mut FlowContext<'_>) -> io::Result<usize> {
        let Stage::Open(guest_socket) = &mut self.stage else { return Ok(0) };
        let socket = guest_socket.socket();
        if !self.early.is_empty() {
            let count = socket.send_slice(&self.early).unwrap_or(0);
            self.early.drain(..count);
            return Ok(count);
        }
        let allowed = around.limiter.inward();
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
        around.limiter.take_inward(count);
        self.bytes_in += count as u64;
        // What was held for the server's answer may go on.
        if self.inspector.is_some() && count > 0 && self.passed.is_empty() {
            return self.inspected(around, 0).map(|more| more + count);
        }
        Ok(count)
    }

    /// Passes on what has ended on one side only.
    fn half_close(&mut self) {
        let Stage::Open(guest_socket) = &mut self.stage else { return };
        let socket = guest_socket.socket();
        let state = socket.state();
        self.guest_ended |=
            matches!(state, State::CloseWait | State::LastAck | State::Closing | State::TimeWait);
        if self.guest_ended && !self.guest_done && !socket.may_recv() && self.passed.is_empty() {
            self.guest_done = self.host.end();
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
