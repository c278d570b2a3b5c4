//! UDP datagrams and ICMP echoes of the guest.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Instant;

use aegis_policy::{Protocol, Reason, Verdict, Zone};
use mio::Interest;
use mio::unix::SourceFd;

use super::connections::RESOLVER;
use super::{DATAGRAM, Gateway, Kind, token};
use crate::addressing::is_gateway;
use crate::decision_log::EntryKind;
use crate::flow::icmp_echo::EchoFlow;
use crate::flow::udp::{Datagrams, UdpFlow, refuses};
use crate::packet::{self, Packet, Unreachable};
use crate::policy_engine::FlowDecision;
use crate::resolver::QuerySource;

impl Gateway {
    /// A datagram of the guest.
    pub(super) fn datagram(
        &mut self,
        key: (SocketAddr, SocketAddr),
        packet: &Packet<'_>,
        payload: &[u8],
        now: Instant,
    ) {
        let (guest, other) = key;
        if is_gateway(other.ip()) && other.port() == RESOLVER {
            return self.ask(QuerySource::Datagram { guest, gateway: other }, payload, now);
        }
        let index = match self.table.by_datagram.get(&key).copied() {
            Some(index) => Some(index),
            None => self.begin_datagrams(key, packet, payload, now),
        };
        if let Some(index) = index
            && let Some(flow) = self.table.udp.get_mut(index)
        {
            if let Some(because) = flow.refuses(payload) {
                return self.end_refused(index, because, packet);
            }
            flow.send(packet, &mut self.out, &mut self.limiter);
            let expiry = flow.expiry(now);
            self.table.schedule(Kind::Udp, index, Some(expiry));
        }
    }

    fn begin_datagrams(
        &mut self,
        (guest, other): (SocketAddr, SocketAddr),
        packet: &Packet<'_>,
        payload: &[u8],
        now: Instant,
    ) -> Option<usize> {
        let mut decision = self.engine.evaluate(Protocol::Udp, other.ip(), other.port(), now);
        if decision.verdict.allows()
            && let Some(because) = refuses(&decision, payload, false)
        {
            decision.verdict = Verdict::deny(because);
        }
        self.bound(&mut decision);
        self.note(&decision, EntryKind::Flow, (0, 0));
        if !decision.verdict.allows() {
            packet::send_unreachable(&mut self.out, packet, Unreachable::Port);
            return None;
        }
        let socket = if decision.zone == Zone::Group {
            self.write_to_member(&(guest, other), &decision)
        } else {
            Datagrams::to(SocketAddr::new(decision.address, other.port()))
        };
        let Ok(socket) = socket else {
            packet::send_unreachable(&mut self.out, packet, Unreachable::Host);
            return None;
        };
        self.add_datagrams(UdpFlow::new(guest, other, socket, decision))
    }

    /// Ends a conversation whose guest has gone over to something that may not pass.
    fn end_refused(&mut self, index: usize, because: Reason, packet: &Packet<'_>) {
        let Some(flow) = self.table.remove_udp(index) else { return };
        let mut decision = flow.decision;
        self.note(&decision, EntryKind::End, (flow.bytes_out, flow.bytes_in));
        decision.verdict = Verdict::deny(because);
        self.note(&decision, EntryKind::Flow, (0, 0));
        packet::send_unreachable(&mut self.out, packet, Unreachable::Port);
    }

    pub(super) fn add_datagrams(&mut self, flow: UdpFlow) -> Option<usize> {
        let index = self.table.add_udp(flow);
        let flow = self.table.udp.get_mut(index)?;
        if self.registry.register(flow.socket.source(), token(Kind::Udp, index), Interest::READABLE).is_err()
        {
            self.table.remove_udp(index);
            return None;
        }
        Some(index)
    }

    pub(super) fn udp_ready(&mut self, index: usize) {
        let Some(flow) = self.table.udp.get_mut(index) else { return };
        self.scratch.resize(DATAGRAM, 0);
        if flow.receive(&mut self.scratch, &mut self.out, &mut self.limiter) {
            return self.end_datagrams(index);
        }
        let expiry = flow.expiry(Instant::now());
        self.table.schedule(Kind::Udp, index, Some(expiry));
    }

    /// A request of the guest for an echo.
    pub(super) fn echo(
        &mut self,
        packet: &Packet<'_>,
        (ident, sequence, data): (u16, u16, &[u8]),
        now: Instant,
    ) {
        // A member that can be connected to answers, whether it is awake or not.
        let is_member = self.engine.groups.other(packet.other).is_some()
            && self.engine.evaluate(Protocol::Icmp, packet.other, 0, now).verdict.allows();
        if is_gateway(packet.other) || is_member {
            return packet::send_echo(&mut self.out, packet.other, packet.guest, ident, sequence, data);
        }
        let index = match self.table.by_echo.get(&(packet.other, ident)).copied() {
            Some(index) => Some(index),
            None => self.begin_echoes(packet, ident, now),
        };
        if let Some(index) = index
            && let Some(flow) = self.table.echo.get_mut(index)
        {
            flow.send(sequence, data);
            self.table.schedule(Kind::Echo, index, Some(EchoFlow::expiry(now)));
        }
    }

    fn begin_echoes(&mut self, packet: &Packet<'_>, ident: u16, now: Instant) -> Option<usize> {
        let mut decision = self.engine.evaluate(Protocol::Icmp, packet.other, 0, now);
        self.bound(&mut decision);
        self.note(&decision, EntryKind::Flow, (0, 0));
        let flow = decision
            .verdict
            .allows()
            .then(|| EchoFlow::open(packet.guest, packet.other, ident, decision))
            .and_then(Result::ok);
        let Some(flow) = flow else {
            packet::send_unreachable(&mut self.out, packet, Unreachable::Prohibited);
            return None;
        };
        let fd = flow.fd();
        let index = self.table.echo.insert(flow);
        self.table.by_echo.insert((packet.other, ident), index);
        let watched = self.registry.register(
            &mut SourceFd(&fd.as_raw_fd()),
            token(Kind::Echo, index),
            Interest::READABLE,
        );
        if watched.is_err() {
            self.table.remove_echo(index);
            return None;
        }
        Some(index)
    }

    pub(super) fn echo_ready(&mut self, index: usize) {
        if let Some(flow) = self.table.echo.get_mut(index) {
            self.scratch.resize(DATAGRAM, 0);
            flow.receive(&mut self.scratch, &mut self.out);
        }
    }

    /// Deals with flows whose time has come.
    pub(super) fn run_timers(&mut self, now: Instant) {
        while let Some((kind, index)) = self.table.overdue(now) {
            match kind {
                Kind::Udp => self.end_datagrams(index),
                Kind::Echo => self.end_echoes(index),
                kind => self.table.touch(kind, index),
            }
        }
    }

    fn end_datagrams(&mut self, index: usize) {
        if let Some(flow) = self.table.remove_udp(index) {
            self.note(&flow.decision, EntryKind::End, (flow.bytes_out, flow.bytes_in));
        }
    }

    fn end_echoes(&mut self, index: usize) {
        if let Some(flow) = self.table.remove_echo(index) {
            self.note(&flow.decision, EntryKind::End, (flow.bytes_out, flow.bytes_in));
        }
    }

    /// Decides about all conversations again.
    pub(super) fn judge_datagrams_again(&mut self) {
        let engine = &self.engine;
        let denied =
            |(index, decision): (usize, &mut FlowDecision)| (!engine.again(decision)).then_some(index);
        let udp: Vec<usize> = self
            .table
            .udp
            .iter_mut()
            .map(|(index, flow)| (index, &mut flow.decision))
            .filter_map(denied)
            .collect();
        let echo: Vec<usize> = self
            .table
            .echo
            .iter_mut()
            .map(|(index, flow)| (index, &mut flow.decision))
            .filter_map(denied)
            .collect();
        udp.into_iter().for_each(|index| self.end_datagrams(index));
        echo.into_iter().for_each(|index| self.end_echoes(index));
    }
}
