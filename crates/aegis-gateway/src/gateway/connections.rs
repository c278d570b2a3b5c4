//! TCP connections of the guest: opened, run and ended.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use aegis_policy::{Protocol, Reason, Zone};
use mio::Interest;
use mio::net::TcpStream;

use super::{Gateway, Kind, buffers, token};
use crate::addressing::is_gateway;
use crate::decision_log::EntryKind;
use crate::flow::connect_request::ConnectRequest;
use crate::flow::connection_key::ConnectionKey;
use crate::flow::host_stream::Stream;
use crate::flow::local_service::{BUFFER, LocalFlow, Service};
use crate::flow::tcp::{TcpFlow, Turn, Waiting};
use crate::host_proxy::Tunnel;
use crate::packet::{self, Frame, Packet, Unreachable};
use crate::policy_engine::FlowDecision;
use crate::resolver::QuerySource;

/// Port of the resolver.
pub(super) const RESOLVER: u16 = 53;

impl Gateway {
    /// A segment of the guest.
    pub(super) fn segment(
        &mut self,
        key: ConnectionKey,
        packet: &Packet<'_>,
        begins: bool,
        resets: bool,
        now: Instant,
    ) {
        match self.table.by_connection.get(&key).copied() {
            Some((Kind::Tcp, index)) => {
                let Some(flow) = self.table.tcp.get_mut(index) else { return };
                if flow.is_connecting() && resets {
                    // It has given up before the host got through.
                    return self.close(index);
                }
                flow.input(packet.bytes, &mut self.out);
                self.table.touch(Kind::Tcp, index);
            }
            Some((_, index)) => {
                if let Some(flow) = self.table.own.get_mut(index) {
                    flow.input(packet.bytes, &mut self.out);
                    self.table.touch(Kind::Own, index);
                }
            }
            None if begins => self.begin(key, packet, now),
            // Of a connection that an earlier gateway had, or a flow that has ended.
            None => packet::send_reset(&mut self.out, packet),
        }
    }

    fn begin(&mut self, key: ConnectionKey, packet: &Packet<'_>, now: Instant) {
        let (_, other) = key;
        if is_gateway(other.ip()) && other.port() == RESOLVER && !self.is_full() {
            let service = Service::Resolver { question: Vec::new() };
            return self.serve(key, service, packet, (BUFFER, BUFFER));
        }
        if self.is_offered_proxy(other) && !self.is_full() {
            let buffers = buffers(self.table.connections());
            return self.serve(key, Service::Proxy(ConnectRequest::new()), packet, buffers);
        }
        let mut decision = self.engine.evaluate(Protocol::Tcp, other.ip(), other.port(), now);
        self.bound(&mut decision);
        self.note(&decision, EntryKind::Flow, (0, 0));
        if !decision.verdict.allows() {
            return packet::send_reset(&mut self.out, packet);
        }
        match self.way_to(&key, &decision) {
            Ok(way) => {
                let waiting = Waiting::Packet(packet.bytes.to_vec());
                let flow = TcpFlow::new(key, way, waiting, decision);
                let index = self.table.add_tcp(flow);
                self.watch(index);
            }
            Err(error) => refuse(&mut self.out, packet, &error),
        }
    }

    /// Takes up a connection to the gateway itself.
    fn serve(&mut self, key: ConnectionKey, service: Service, packet: &Packet<'_>, buffers: (usize, usize)) {
        let flow = LocalFlow::open(key, service, packet.bytes, buffers, self.clock, &mut self.out);
        self.take_up(flow);
    }

    pub(super) fn take_up(&mut self, flow: LocalFlow) {
        let index = self.table.add_own(flow);
        self.table.touch(Kind::Own, index);
    }

    /// The host's end of a flow, and the tunnel to be opened through that.
    pub(super) fn way_to(
        &mut self,
        key: &ConnectionKey,
        decision: &FlowDecision,
    ) -> io::Result<(Stream, Option<Tunnel>)> {
        if decision.zone == Zone::Group {
            return Ok((self.call_member(key, decision)?, None));
        }
        let direct = SocketAddr::new(decision.address, decision.port);
        let (target, tunnel) = match &self.proxy {
            _ if matches!(decision.verdict.because, Reason::HostPort) => {
                (SocketAddr::new(Ipv4Addr::LOCALHOST.into(), decision.port), None)
            }
            // What is near is not behind a proxy.
            Some(proxy) if decision.zone == Zone::Public && !proxy.is_bypassed_by(decision) => {
                let synthetic = self.engine.is_synthetic(decision.address);
                let through = |server: &SocketAddr| (*server, Some(Tunnel::to(decision, proxy, synthetic)));
                proxy.servers.first().map_or((direct, None), through)
            }
            _ => (direct, None),
        };
        Ok((Stream::World(TcpStream::connect(target)?), tunnel))
    }

    pub(super) fn watch(&mut self, index: usize) {
        let Some(flow) = self.table.tcp.get_mut(index) else { return };
        let (token, interest) = (token(Kind::Tcp, index), Interest::READABLE | Interest::WRITABLE);
        flow.host.prepare();
        if self.registry.register(&mut flow.host, token, interest).is_err() {
            self.close(index);
        }
        self.table.touch(Kind::Tcp, index);
    }

    /// Lets flows do what they can.
    pub(super) fn run_flows(&mut self, now: Instant) {
        for (kind, index) in self.table.take_touched() {
            match kind {
                Kind::Tcp => self.run_connection(index),
                Kind::Own => self.run_own(index, now),
                _ => {}
            }
        }
    }

    fn run_connection(&mut self, index: usize) {
        let flows = self.table.connections();
        let Some(flow) = self.table.tcp.get_mut(index) else { return };
        let before = flow.decision.verdict.allows();
        let mut around = Gateway::context(&mut self.out, &self.engine, &mut self.limiter, self.clock, flows);
        match flow.turn(&mut around) {
            Turn::Wait(due) => {
                if !self.out.has_room() {
                    self.table.starve(Kind::Tcp, index);
                }
                self.table.schedule(Kind::Tcp, index, due);
            }
            Turn::Again => self.table.touch(Kind::Tcp, index),
            Turn::Failed(error) => {
                let (key, waiting) = (flow.key, flow.give_up());
                self.close(index);
                match waiting {
                    Some(Waiting::Packet(bytes)) => {
                        if let Ok(Frame::Packet(packet)) = packet::read_ip(&bytes) {
                            refuse(&mut self.out, &packet, &error);
                        }
                    }
                    Some(Waiting::PendingTunnel(pending)) => {
                        self.take_up(LocalFlow::again(key, *pending, &error));
                    }
                    None => {}
                }
            }
            Turn::Over => {
                let denied =
                    Some(flow.decision.clone()).filter(|decision| before && !decision.verdict.allows());
                if let Some(decision) = denied {
                    self.note(&decision, EntryKind::Flow, (0, 0));
                }
                self.close(index);
            }
        }
    }

    fn run_own(&mut self, index: usize, now: Instant) {
        while let Some(question) = self.table.own.get_mut(index).and_then(LocalFlow::question) {
            self.ask(QuerySource::Connection(index), &question, now);
        }
        self.run_connect_request(index, now);
        let Some(flow) = self.table.own.get_mut(index) else { return };
        match flow.turn(&mut self.out, now) {
            Some(due) => self.table.schedule(Kind::Own, index, Some(due)),
            None => {
                self.names.forget(index);
                self.table.remove_own(index);
            }
        }
    }

    pub(super) fn close(&mut self, index: usize) {
        let Some(flow) = self.table.remove_tcp(index) else { return };
        if flow.decision.verdict.allows() {
            self.note(&flow.decision, EntryKind::End, (flow.bytes_out, flow.bytes_in));
        }
    }

    /// Decides about all flows again.
    pub(super) fn judge_again(&mut self) {
        let indices: Vec<usize> = self.table.tcp.iter().map(|(index, _)| index).collect();
        for index in indices {
            let Some(flow) = self.table.tcp.get_mut(index) else { continue };
            if self.engine.again(&mut flow.decision) {
                continue;
            }
            let decision = flow.decision.clone();
            match flow.first().map(<[u8]>::to_vec) {
                Some(first) => {
                    if let Ok(Frame::Packet(packet)) = packet::read_ip(&first) {
                        packet::send_reset(&mut self.out, &packet);
                    }
                }
                None => flow.abort(&mut self.out),
            }
            let bytes = (flow.bytes_out, flow.bytes_in);
            self.note(&decision, EntryKind::End, bytes);
            self.close(index);
        }
        self.judge_datagrams_again();
    }
}

/// Tells the guest why the host could not connect.
fn refuse(out: &mut crate::frame_stream::FrameWriter, packet: &Packet<'_>, error: &io::Error) {
    match error.kind() {
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::AddrNotAvailable => {
            packet::send_unreachable(out, packet, Unreachable::Host);
        }
        // Whoever waits in vain goes on waiting, as without a gateway.
        ErrorKind::TimedOut => {}
        _ => packet::send_reset(out, packet),
    }
}
