//! Datagrams between one port of the guest and one of another end.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::event::Source;
use mio::net::{UdpSocket, UnixDatagram};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

use super::member::Verdict;
use crate::judge::Case;
use crate::packet::{self, Packet, Transport, Unreachable};
use crate::shape::Shaper;
use crate::wire::Outgoing;

/// How long a conversation is kept without a datagram, once the other end has answered (RFC 4787, REQ-5).
const ANSWERED: Duration = Duration::from_secs(120);
/// And before.
const UNANSWERED: Duration = Duration::from_secs(30);
/// How many datagrams are taken in one turn.
const TURN: usize = 64;
/// How much of the last packet is kept, to be quoted in errors: its heads.
const QUOTED: usize = 64;

/// First byte of a message between gateways that carries a datagram; any other message is a [`Verdict`].
const CARRIES: u8 = b'd';

/// The host's end: datagrams to the world, or messages to another instance's gateway.
#[derive(Debug)]
pub(crate) enum Datagrams {
    World(UdpSocket),
    Member(UnixDatagram),
}

/// A socket that sends to this address and hears it alone, at a port that the kernel picks at random.
pub(crate) fn connected(target: SocketAddr) -> io::Result<UdpSocket> {
    let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::DGRAM, flags, None)?;
    connect(&socket, &target)?;
    Ok(UdpSocket::from_std(socket.into()))
}

impl Datagrams {
    /// A socket for datagrams to an address.
    pub(crate) fn to(target: SocketAddr) -> io::Result<Datagrams> {
        connected(target).map(Datagrams::World)
    }

    pub(crate) fn source(&mut self) -> &mut dyn Source {
        match self {
            Datagrams::World(socket) => socket,
            Datagrams::Member(socket) => socket,
        }
    }

    /// Tells a member's gateway that nothing comes of it.
    pub(crate) fn tell(&mut self, verdict: Verdict) -> io::Result<()> {
        match self {
            Datagrams::World(_) => Ok(()),
            Datagrams::Member(socket) => socket.send(&[verdict.byte()]).map(drop),
        }
    }

    fn send(&self, payload: &[u8]) -> io::Result<usize> {
        match self {
            Datagrams::World(socket) => socket.send(payload),
            Datagrams::Member(socket) => {
                let message = [&[CARRIES], payload].concat();
                socket.send(&message).map(|_| payload.len())
            }
        }
    }

    /// The next datagram; `None` at the end.
    fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        match self {
            Datagrams::World(socket) => {
                let count = socket.recv(buffer)?;
                Ok(Some(buffer.get(..count).unwrap_or_default()))
            }
            Datagrams::Member(socket) => {
                let count = socket.recv(buffer)?;
                match buffer.get(..count).and_then(<[u8]>::split_first) {
                    None => Ok(None),
                    Some((&CARRIES, payload)) => Ok(Some(payload)),
                    Some(_) => Err(ErrorKind::ConnectionRefused.into()),
                }
            }
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct UdpFlow {
    pub(crate) guest: SocketAddr,
    pub(crate) other: SocketAddr,
    pub(crate) socket: Datagrams,
    pub(crate) case: Case,
    pub(crate) bytes_out: u64,
    pub(crate) bytes_in: u64,
    pub(crate) deadline: Option<Instant>,
    answered: bool,
    last: Vec<u8>,
}

impl UdpFlow {
    /// A conversation of two ends, by a socket of the host.
    pub(crate) fn new(guest: SocketAddr, other: SocketAddr, socket: Datagrams, case: Case) -> UdpFlow {
        UdpFlow {
            guest,
            other,
            socket,
            case,
            bytes_out: 0,
            bytes_in: 0,
            deadline: None,
            answered: false,
            last: Vec::new(),
        }
    }

    /// When one ends that has just begun, if nothing is said.
    pub(crate) fn first_expiry(now: Instant) -> Instant {
        now + UNANSWERED
    }

    /// When it ends if nothing more is said.
    pub(crate) fn expiry(&self, now: Instant) -> Instant {
        if self.answered { now + ANSWERED } else { UdpFlow::first_expiry(now) }
    }

    /// Passes a datagram of the guest on.
    pub(crate) fn send(&mut self, packet: &Packet<'_>, out: &mut Outgoing, shaper: &mut Shaper) {
        let Transport::Udp { payload, .. } = packet.transport else { return };
        self.last = packet.bytes.get(..packet.bytes.len().min(QUOTED)).unwrap_or_default().to_vec();
        if shaper.outward() == 0 {
            return;
        }
        // The socket tells an earlier datagram's fate first; this one is as good as the next try.
        let sent = self.socket.send(payload).or_else(|error| {
            self.fail(&error, out);
            self.socket.send(payload)
        });
        if let Ok(count) = sent {
            shaper.take_outward(count);
            self.bytes_out += count as u64;
        }
    }

    /// Passes on what has come for the guest. Returns whether the other end has gone.
    pub(crate) fn receive(&mut self, buffer: &mut [u8], out: &mut Outgoing, shaper: &mut Shaper) -> bool {
        for _ in 0..TURN {
            match self.socket.receive(buffer) {
                Ok(Some(payload)) => {
                    self.answered = true;
                    // What is too much is lost, as datagrams are.
                    if shaper.inward() > 0 && out.has_room() {
                        shaper.take_inward(payload.len());
                        self.bytes_in += payload.len() as u64;
                        packet::send_udp(out, self.other, self.guest, payload);
                    }
                }
                Ok(None) => return true,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) => self.fail(&error, out),
            }
        }
        false
    }

    /// Tells the guest what the host was told.
    fn fail(&self, error: &io::Error, out: &mut Outgoing) {
        let why = match error.kind() {
            ErrorKind::ConnectionRefused => Unreachable::Port,
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Unreachable::Host,
            _ => return,
        };
        let (guest, other) = (self.guest.ip(), self.other.ip());
        let transport = Transport::Udp { guest_port: 0, port: 0, payload: &[] };
        let packet = Packet { guest, other, bytes: &self.last, transport };
        packet::send_unreachable(out, &packet, why);
    }
}

/// Whether a datagram begins a connection of QUIC (RFC 8999, 5.1), whose name cannot be read.
pub(crate) fn is_quic(payload: &[u8]) -> bool {
    match payload {
        [first, version @ ..] if first & 0x80 != 0 && payload.len() >= 1200 => {
            version.get(..4).is_some_and(|version| version != [0; 4])
        }
        _ => false,
    }
}
