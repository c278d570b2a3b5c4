//! Connections between members of a group.
//!
//! A gateway opens no socket to another one: it makes a pair, keeps one end, and leaves the other to the daemon, which
//! knows where members are, wakes them, and hands it to theirs. From then on the two speak to each other directly.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram as StdDatagram, UnixStream as StdStream};
use std::time::{Duration, Instant};

use aegis_policy::Protocol;
use mio::net::{UnixDatagram, UnixStream};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde::{Deserialize, Serialize};

use super::{Gateway, Kind};
use crate::decision_log::EntryKind;
use crate::flow::connection_key::ConnectionKey;
use crate::flow::host_stream::Stream;
use crate::flow::member_stream::{ConnectOutcome, Member};
use crate::flow::tcp::TcpFlow;
use crate::flow::udp::{Datagrams, UdpFlow};
use crate::policy_engine::FlowDecision;

/// Most connections that wait for the daemon.
const MOST_WANTED: usize = 1024;
/// How long the guest's refusals may be no last word, at most.
const MOST_PATIENCE: Duration = Duration::from_secs(60);
/// First of the ports that a visitor gets whose own is taken (RFC 6335).
const DYNAMIC: u16 = 49_152;

/// A connection that the guest wants to a member of one of its groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRequest {
    /// The member's address.
    pub to: Ipv4Addr,
    /// What is spoken.
    pub protocol: Protocol,
    /// The member's port.
    pub port: u16,
    /// The guest's.
    pub from_port: u16,
}

/// A connection that a member of one of the guest's groups wants to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerConnection {
    /// The member's address.
    pub from: Ipv4Addr,
    /// The guest's own address in the same group.
    pub own: Ipv4Addr,
    /// What it wants.
    pub wanted: PeerRequest,
    /// How long a refusal of the guest is not the last word, milliseconds: its server may be about to come up.
    pub patience_ms: u64,
}

fn pair(kind: SocketType) -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?)
}

fn stream(end: OwnedFd) -> io::Result<Stream> {
    let stream = StdStream::from(end);
    stream.set_nonblocking(true)?;
    Ok(Stream::Member(Member::new(UnixStream::from_std(stream))))
}

fn datagrams(end: OwnedFd) -> io::Result<Datagrams> {
    let socket = StdDatagram::from(end);
    socket.set_nonblocking(true)?;
    Ok(Datagrams::Member(UnixDatagram::from_std(socket)))
}

impl Gateway {
    fn want(
        &mut self,
        (guest, _): &ConnectionKey,
        decision: &FlowDecision,
        kind: SocketType,
    ) -> io::Result<OwnedFd> {
        let to = match decision.address {
            std::net::IpAddr::V4(to) if self.wanted.len() < MOST_WANTED => to,
            _ => return Err(ErrorKind::ConnectionRefused.into()),
        };
        let (ours, theirs) = pair(kind)?;
        let wanted =
            PeerRequest { to, protocol: decision.protocol, port: decision.port, from_port: guest.port() };
        self.wanted.push_back((wanted, theirs));
        Ok(ours)
    }

    /// Begins a connection to a member.
    pub(super) fn call_member(&mut self, key: &ConnectionKey, decision: &FlowDecision) -> io::Result<Stream> {
        stream(self.want(key, decision, SocketType::STREAM)?)
    }

    /// Begins to exchange datagrams with a member.
    pub(super) fn write_to_member(
        &mut self,
        key: &ConnectionKey,
        decision: &FlowDecision,
    ) -> io::Result<Datagrams> {
        datagrams(self.want(key, decision, SocketType::SEQPACKET)?)
    }

    /// What the guest wants of members, each with the end of a pair for theirs.
    pub(crate) fn wanted(&mut self) -> &mut VecDeque<(PeerRequest, OwnedFd)> {
        &mut self.wanted
    }

    /// How many connections and conversations of members there are.
    pub(crate) fn visitors(&self) -> usize {
        self.table.visitors()
    }

    /// How many bytes there have been on the wire.
    pub(crate) fn bytes(&self) -> u64 {
        self.out.bytes + self.counters.bytes_out
    }

    /// A member wants to connect to the guest.
    ///
    /// # Errors
    /// If its end is of no use.
    pub(crate) fn admit(&mut self, visitor: &PeerConnection, end: OwnedFd) -> io::Result<()> {
        let now = Instant::now();
        let PeerConnection { from, own, wanted, patience_ms } = *visitor;
        let mut decision = self.engine.visit(wanted.protocol, from, wanted.port);
        self.bound(&mut decision);
        self.note(&decision, EntryKind::Flow, (0, 0));
        let welcome = decision.verdict.allows() && self.engine.groups.own().contains(&own);
        let until = now + Duration::from_millis(patience_ms).min(MOST_PATIENCE);
        let key = |port: u16| (SocketAddr::new(own.into(), wanted.port), SocketAddr::new(from.into(), port));
        let ports = std::iter::once(wanted.from_port).chain(DYNAMIC..=u16::MAX);
        match wanted.protocol {
            Protocol::Tcp => {
                let Stream::Member(mut member) = stream(end)? else { return Ok(()) };
                let free = ports.map(key).find(|key| !self.table.by_connection.contains_key(key));
                let Some(key) = free.filter(|_| welcome) else { return member.tell(ConnectOutcome::Refused) };
                let host = Stream::Member(member);
                let flows = self.table.connections();
                let mut around =
                    Gateway::context(&mut self.out, &self.engine, &mut self.limiter, self.clock, flows);
                let flow = TcpFlow::visit(key, host, decision, until, &mut around);
                let index = self.table.add_tcp(flow);
                self.watch(index);
            }
            Protocol::Udp => {
                let mut socket = datagrams(end)?;
                let free = ports.map(key).find(|key| !self.table.by_datagram.contains_key(key));
                let Some((guest, other)) = free.filter(|_| welcome) else {
                    return socket.tell(ConnectOutcome::Refused);
                };
                if let Some(index) = self.add_datagrams(UdpFlow::new(guest, other, socket, decision)) {
                    self.table.schedule(Kind::Udp, index, Some(UdpFlow::first_expiry(now)));
                }
            }
            Protocol::Icmp => {}
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "members_tests.rs"]
mod tests;
