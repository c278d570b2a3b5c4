//! The gateway itself: frames of one guest on one side, sockets of the host on the other.
//!
//! ```text
//!   frames ──► packet ──► flow? ──yes──► its guest socket ──► its socket
//!                           └──no───► policy engine ──► a new flow, or a refusal at once
//! ```

mod connections;
mod datagrams;
mod flow_table;
mod members;
mod offered_proxy;
mod token;

pub use members::{PeerConnection, PeerRequest};

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use aegis_policy::{Action, Direction, Limits, Protocol, Reason, Verdict};
use mio::Registry;
use serde::{Deserialize, Serialize};

use crate::decision_log::{DecisionEntry, DecisionLog, EntryKind};
use crate::flow::guest_socket::Clock;
use crate::flow::tcp::FlowContext;
use crate::frame_stream::{Ended, FrameReader, FrameWriter};
use crate::groups::Groups;
use crate::host_proxy::Proxy;
use crate::limit_events::{LimitEvents, LimitKind};
use crate::packet::{self, Frame, Packet, Transport};
use crate::policy_engine::{FlowDecision, PolicyEngine};
use crate::resolver::{QueryDecision, QuerySource, Resolver, ResolverResponse, Sockets};
use crate::settings::Settings;
use crate::token_bucket::{PAUSE, RateLimiter, TokenBucket};
use flow_table::FlowTable;
use token::name_token;
pub(crate) use token::{Kind, of_token, token};

/// How often the guest's frames are read before others have their turn.
const READS: usize = 8;
/// How long memory is kept that nobody uses any more: who has asked for a name connects next, and to have memory cleared and
/// given out takes longer than to find an answer.
const KEPT: Duration = Duration::from_secs(1);
/// Longest datagram.
const DATAGRAM: usize = 64 << 10;

/// What was counted since the gateway began.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Packets from the guest.
    pub packets_out: u64,
    /// Bytes of them.
    pub bytes_out: u64,
    /// Packets to the guest.
    pub packets_in: u64,
    /// Bytes of them.
    pub bytes_in: u64,
    /// Packets to the guest that were lost, because it took none.
    pub lost: u64,
    /// Flows that were opened.
    pub flows: u64,
    /// Flows that are open.
    pub open_flows: u64,
    /// Flows that were refused.
    pub denied: u64,
    /// Names that were asked for.
    pub queries: u64,
    /// How often something had to wait, or was refused, for a bound.
    pub limited: u64,
    /// Frames that mean nothing, or nothing good, by kind.
    pub dropped: BTreeMap<String, u64>,
}

/// Whether the machine is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Machine {
    Here,
    Gone,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Gateway {
    registry: Registry,
    incoming: FrameReader,
    pub(crate) out: FrameWriter,
    engine: PolicyEngine,
    names: Resolver,
    proxy: Option<Proxy>,
    pub(crate) decision_log: DecisionLog,
    limits: Limits,
    /// Those that were met.
    pub(crate) bounds: LimitEvents,
    limiter: RateLimiter,
    packets: TokenBucket,
    clock: Clock,
    table: FlowTable,
    /// Connections to members that the daemon has not been told of.
    wanted: VecDeque<(PeerRequest, OwnedFd)>,
    counters: Counters,
    scratch: Vec<u8>,
    /// There may be more frames than were read.
    unread: bool,
    /// The guest has used up its packets for now.
    choked: bool,
    /// When memory is given back, if nothing happens before.
    rests_at: Option<Instant>,
}

impl Gateway {
    /// A gateway that lets nothing pass until it is told what may.
    pub(crate) fn new(registry: Registry) -> Gateway {
        let now = Instant::now();
        Gateway {
            registry,
            incoming: FrameReader::default(),
            out: FrameWriter::default(),
            engine: PolicyEngine::new(),
            names: Resolver::new(now),
            proxy: None,
            decision_log: DecisionLog::default(),
            limits: Limits::default(),
            bounds: LimitEvents::default(),
            limiter: RateLimiter::new(None, now),
            packets: TokenBucket::new(None, 1, now),
            clock: Clock::new(),
            table: FlowTable::default(),
            wanted: VecDeque::new(),
            counters: Counters::default(),
            scratch: Vec::new(),
            unread: false,
            choked: false,
            rests_at: None,
        }
    }

    /// Takes other settings. Flows that may not be any more end here.
    pub(crate) fn set(&mut self, settings: Settings) {
        let now = Instant::now();
        let Settings { policy, resolvers, host_ports, limits, proxy, groups } = settings;
        self.names.invents(proxy.is_some());
        self.proxy = proxy;
        self.engine.set(policy, host_ports, Groups::new(&groups));
        self.names.set(resolvers, limits.queries, now);
        if self.limits.bandwidth != limits.bandwidth {
            self.limiter = RateLimiter::new(limits.bandwidth, now);
        }
        if self.limits.packets != limits.packets {
            self.packets = TokenBucket::new(limits.packets.map(u64::from), 1, now);
        }
        self.limits = limits;
        self.judge_again();
    }

    pub(crate) fn counters(&self) -> Counters {
        Counters {
            packets_in: self.out.packets,
            bytes_in: self.out.bytes,
            lost: self.out.lost,
            open_flows: self.table.flows() as u64,
            queries: self.names.count(),
            limited: self.counters.limited + self.limiter.hits,
            ..self.counters.clone()
        }
    }

    /// Reads frames of the guest.
    pub(crate) fn read(&mut self, from: &mut impl Read) -> Machine {
        self.unread = false;
        self.choked = false;
        for _ in 0..READS {
            if !self.take_frames() {
                return Machine::Here;
            }
            match self.incoming.fill(from) {
                Ok(()) => {}
                Err(Ended::Blocked) => return Machine::Here,
                Err(Ended::Closed) => return Machine::Gone,
            }
        }
        self.unread = true;
        Machine::Here
    }

    /// Deals with the frames that were read. Returns whether more may be read.
    fn take_frames(&mut self) -> bool {
        let mut incoming = std::mem::take(&mut self.incoming);
        let now = Instant::now();
        let mut free = true;
        loop {
            if self.packets.available(now) == 0 {
                self.counters.limited += u64::from(!self.choked);
                self.bounds.met(LimitKind::Packets, now);
                self.choked = true;
                free = false;
                break;
            }
            match incoming.next() {
                Ok(Some(frame)) => {
                    self.packets.take(1);
                    self.frame(frame, now);
                }
                // What is no frame at all is found again by whoever reads on.
                Ok(None) | Err(_) => break,
            }
        }
        self.incoming = incoming;
        free
    }

    /// Deals with one frame.
    pub(crate) fn frame(&mut self, frame: &[u8], now: Instant) {
        self.rests_at = None;
        self.counters.packets_out += 1;
        self.counters.bytes_out += frame.len() as u64;
        match packet::read(frame, self.engine.groups.own()) {
            Ok(Frame::WhoHas(address)) => packet::send_i_have(&mut self.out, address),
            Ok(Frame::Silent) => {}
            Ok(Frame::Packet(packet)) => self.packet(&packet, now),
            Err(why) => *self.counters.dropped.entry(why.as_str().to_owned()).or_default() += 1,
        }
    }

    fn packet(&mut self, packet: &Packet<'_>, now: Instant) {
        match packet.transport {
            Transport::Tcp { guest_port, port, begins, resets } => {
                let key = (SocketAddr::new(packet.guest, guest_port), SocketAddr::new(packet.other, port));
                self.segment(key, packet, begins, resets, now);
            }
            Transport::Udp { guest_port, port, payload } => {
                let key = (SocketAddr::new(packet.guest, guest_port), SocketAddr::new(packet.other, port));
                self.datagram(key, packet, payload, now);
            }
            Transport::Echo { ident, sequence, data } => self.echo(packet, (ident, sequence, data), now),
        }
    }

    /// A socket is ready.
    pub(crate) fn ready(&mut self, kind: Kind, index: usize, readable: bool, writable: bool) {
        match kind {
            Kind::Tcp => {
                if let Some(flow) = self.table.tcp.get_mut(index) {
                    flow.ready(readable, writable);
                    self.table.touch(Kind::Tcp, index);
                }
            }
            Kind::Udp => self.udp_ready(index),
            Kind::Echo => self.echo_ready(index),
            Kind::Name => {
                let sockets = Sockets { registry: &self.registry, token: name_token };
                let delivery = self.names.ready(index, &mut self.engine, &sockets, Instant::now());
                self.deliver(delivery);
            }
            Kind::Fixed | Kind::Own => {}
        }
    }

    /// Does what is due.
    pub(crate) fn work(&mut self) {
        let now = Instant::now();
        if self.limiter.held {
            self.table.touch_connections();
        }
        self.limiter.tick(now);
        self.run_timers(now);
        let sockets = Sockets { registry: &self.registry, token: name_token };
        let mut late = Vec::new();
        while self.names.deadline().is_some_and(|at| at <= now) {
            late.push(self.names.overdue(&mut self.engine, &sockets, now));
        }
        for delivery in late {
            self.deliver(delivery);
        }
        self.run_flows(now);
        if self.limiter.held {
            self.bounds.met(LimitKind::Bandwidth, now);
        }
    }

    /// Sends frames to the guest. Returns whether all are sent.
    ///
    /// # Errors
    /// If the machine has gone.
    pub(crate) fn send(&mut self, to: &mut impl Write) -> io::Result<bool> {
        let had_room = self.out.has_room();
        let sent = self.out.flush(to)?;
        if !had_room && self.out.has_room() {
            self.table.wake_starved();
        }
        Ok(sent)
    }

    /// Gives back what nobody has used for a while.
    pub(crate) fn rest(&mut self, now: Instant) {
        if self.table.flows() > 0 {
            self.rests_at = None;
        } else if self.rests_at.is_some_and(|at| at <= now) {
            self.incoming.rest();
            self.out.rest();
            self.scratch = Vec::new();
            self.table.rest();
            self.rests_at = None;
        } else if self.rests_at.is_none() && self.incoming.holds_memory() {
            self.rests_at = Some(now + KEPT);
        }
    }

    /// Whether there are frames to be read that the guest's socket will not announce.
    pub(crate) fn is_unread(&self) -> bool {
        self.unread
    }

    /// How long nothing has to be done, if nothing happens.
    pub(crate) fn idle_for(&self, now: Instant) -> Option<Duration> {
        if self.unread || self.table.is_touched() {
            return Some(Duration::ZERO);
        }
        let held = (self.limiter.held || self.choked).then(|| now + PAUSE);
        let due =
            [self.table.deadline(), self.names.deadline(), held, self.rests_at].into_iter().flatten().min();
        due.map(|due| due.saturating_duration_since(now))
    }

    pub(crate) fn is_choked(&self) -> bool {
        self.choked
    }

    fn context<'a>(
        out: &'a mut FrameWriter,
        engine: &'a PolicyEngine,
        limiter: &'a mut RateLimiter,
        clock: Clock,
        flows: usize,
    ) -> FlowContext<'a> {
        let (receive, send) = buffers(flows);
        FlowContext { out, engine, limiter, clock, receive, send }
    }

    /// Notes a decision about a flow.
    fn note(&mut self, decision: &FlowDecision, what: EntryKind, (bytes_out, bytes_in): (u64, u64)) {
        match (what, decision.verdict.allows()) {
            (EntryKind::Flow, true) => self.counters.flows += 1,
            (_, false) => self.counters.denied += 1,
            _ => {}
        }
        self.decision_log.add(DecisionEntry {
            seq: 0,
            at_ms: 0,
            what,
            direction: decision.direction,
            protocol: decision.protocol,
            name: decision.name().map(ToString::to_string),
            address: Some(decision.address),
            port: decision.port,
            action: decision.verdict.action,
            because: decision.verdict.because.to_string(),
            bytes_out,
            bytes_in,
        });
    }

    fn note_name(&mut self, asked: &QueryDecision) {
        if asked.verdict.action == Action::Deny {
            self.counters.denied += 1;
        }
        self.decision_log.add(DecisionEntry {
            seq: 0,
            at_ms: 0,
            what: EntryKind::Name,
            direction: Direction::Out,
            protocol: Protocol::Udp,
            name: asked.name.as_ref().map(ToString::to_string),
            address: None,
            port: 53,
            action: asked.verdict.action,
            because: asked.verdict.because.to_string(),
            bytes_out: 0,
            bytes_in: 0,
        });
    }

    fn deliver(&mut self, delivery: Option<ResolverResponse>) {
        let Some(ResolverResponse { to, message }) = delivery else { return };
        match to {
            QuerySource::Datagram { guest, gateway } => {
                packet::send_udp(&mut self.out, gateway, guest, &message);
            }
            QuerySource::Connection(index) | QuerySource::ConnectRequest(index) => {
                if let Some(flow) = self.table.own.get_mut(index) {
                    flow.answer(&message);
                    self.table.touch(Kind::Own, index);
                }
            }
        }
    }

    /// Takes a question of the guest for a name.
    fn ask(&mut self, source: QuerySource, question: &[u8], now: Instant) {
        let sockets = Sockets { registry: &self.registry, token: name_token };
        let (asked, delivery) = self.names.ask(source, question, &mut self.engine, &sockets, now);
        if let Some(asked) = asked {
            if matches!(asked.verdict.because, Reason::Limit(_)) {
                self.counters.limited += 1;
                self.bounds.met(LimitKind::Names, now);
            }
            self.note_name(&asked);
        }
        self.deliver(delivery);
    }

    /// Refuses a flow for which there is no room.
    fn bound(&mut self, decision: &mut FlowDecision) {
        let most = self.limits.flows;
        let shut = decision.is_visit() && !self.table.has_room_for(decision.address, most);
        if decision.verdict.allows() && (shut || self.is_full()) {
            self.counters.limited += 1;
            self.bounds.met(LimitKind::Flows, Instant::now());
            decision.verdict = Verdict::deny(Reason::Limit(format!("{most} flows at a time")));
        }
    }

    fn is_full(&self) -> bool {
        self.table.flows() >= self.limits.flows
    }
}

/// Sizes of a new connection's buffers, in and out, where there are so many: many are small ones, or slow ones.
fn buffers(flows: usize) -> (usize, usize) {
    match flows {
        0..=4 => (512 << 10, 4 << 20),
        5..=32 => (512 << 10, 1 << 20),
        33..=256 => (128 << 10, 128 << 10),
        _ => (32 << 10, 32 << 10),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
