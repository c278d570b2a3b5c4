//! UDP flows: datagrams between one port of the guest and one of another end.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use aegis_policy::{InspectionLevel, Reason, is_web_port};
use mio::event::Source;
use mio::net::{UdpSocket, UnixDatagram};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

use super::member_stream::ConnectOutcome;
use crate::frame_stream::FrameWriter;
use crate::packet::{self, Packet, Transport, Unreachable};
use crate::policy_engine::FlowDecision;
use crate::token_bucket::RateLimiter;

/// How long a conversation is kept without a datagram, once the other end has answered (RFC 4787, REQ-5).
const ANSWERED: Duration = Duration::from_secs(120);
/// And before.
const UNANSWERED: Duration = Duration::from_secs(30);
/// How many datagrams are taken in one turn.
const TURN: usize = 64;
/// How much of the last packet is kept, to be quoted in errors: its heads.
const QUOTED: usize = 64;

/// Shortest datagram by which a connection of QUIC begins.
const QUIC_INITIAL: usize = 1200;

/// First byte of a message between gateways that carries a datagram; any other message is a [`ConnectOutcome`].
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
    pub(crate) fn tell(&mut self, verdict: ConnectOutcome) -> io::Result<()> {
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
    pub(crate) decision: FlowDecision,
    pub(crate) bytes_out: u64,
    pub(crate) bytes_in: u64,
    pub(crate) deadline: Option<Instant>,
    answered: bool,
    /// The other end has said something that is no QUIC.
    other_than_quic: bool,
    last: Vec<u8>,
}

impl UdpFlow {
    /// A conversation of two ends, by a socket of the host.
    pub(crate) fn new(
        guest: SocketAddr,
        other: SocketAddr,
        socket: Datagrams,
        decision: FlowDecision,
    ) -> UdpFlow {
        UdpFlow {
            guest,
            other,
            socket,
            decision,
            bytes_out: 0,
            bytes_in: 0,
            deadline: None,
            answered: false,
            other_than_quic: false,
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

    /// Why a datagram of the guest may not pass, where names are judged.
    pub(crate) fn refuses(&self, payload: &[u8]) -> Option<Reason> {
        refuses(&self.decision, payload, self.other_than_quic)
    }

    /// Passes a datagram of the guest on.
    pub(crate) fn send(&mut self, packet: &Packet<'_>, out: &mut FrameWriter, limiter: &mut RateLimiter) {
        let Transport::Udp { payload, .. } = packet.transport else { return };
        self.last = packet.bytes.get(..packet.bytes.len().min(QUOTED)).unwrap_or_default().to_vec();
        if limiter.outward() == 0 {
            return;
        }
        // The socket tells an earlier datagram's fate first; this one is as good as the next try.
        let sent = self.socket.send(payload).or_else(|error| {
            self.fail(&error, out);
            self.socket.send(payload)
        });
        if let Ok(count) = sent {
            limiter.take_outward(count);
            self.bytes_out += count as u64;
        }
    }

    /// Passes on what has come for the guest. Returns whether the other end has gone.
    pub(crate) fn receive(
        &mut self,
        buffer: &mut [u8],
        out: &mut FrameWriter,
        limiter: &mut RateLimiter,
    ) -> bool {
        for _ in 0..TURN {
            match self.socket.receive(buffer) {
                Ok(Some(payload)) => {
                    self.answered = true;
                    self.other_than_quic |= !is_quic(payload, false);
                    // What is too much is lost, as datagrams are.
                    if limiter.inward() > 0 && out.has_room() {
                        limiter.take_inward(payload.len());
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
    fn fail(&self, error: &io::Error, out: &mut FrameWriter) {
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

/// Why a datagram may not pass, where names are judged: what gives its name in a way that cannot be read, and, where a
/// name has opened a port of the web, anything.
pub(crate) fn refuses(decision: &FlowDecision, payload: &[u8], other_than_quic: bool) -> Option<Reason> {
    match decision.scrutiny {
        InspectionLevel::None => None,
        InspectionLevel::Names | InspectionLevel::Strict if is_quic(payload, other_than_quic) => {
            Some(Reason::Unnamed)
        }
        InspectionLevel::Strict
            if decision.verdict.hangs_on_a_name() && is_dtls(payload, other_than_quic) =>
        {
            Some(Reason::Unnamed)
        }
        InspectionLevel::Strict if decision.verdict.hangs_on_a_name() && is_web_port(decision.port) => {
            Some(Reason::Unrecognised)
        }
        InspectionLevel::Names | InspectionLevel::Strict => None,
    }
}

/// Versions of QUIC whose first packets a server may take: 1, 2 (RFC 9369), drafts, and those before (RFC 9000, 15).
fn is_quic_version(version: [u8; 4]) -> bool {
    match version {
        [0, 0, 0, 1] | [0x6b, 0x33, 0x43, 0xcf] | [0xff, 0, 0, _] => true,
        // Google's own, Facebook's, and picoquic's.
        [b'Q' | b'T', b'0', ..] | [0xfa, 0xce, 0xb0, _] | [b'P', b'C', b'Q', b'0'] => true,
        // Those that exercise negotiation.
        other => other.iter().all(|byte| byte & 0x0f == 0x0a),
    }
}

/// Whether a datagram holds a long header of QUIC (RFC 8999, 5.1), by which connections begin and whose name cannot be
/// read. Whatever its second bit (RFC 9287), and its packets besides the first. Where what is spoken is known to be
/// something else, its version has to be a known one.
pub(crate) fn is_quic(payload: &[u8], known: bool) -> bool {
    let Some((first, rest)) = payload.split_first() else { return false };
    let version = |bytes: &[u8]| bytes.first_chunk::<4>().copied();
    let long = first & 0x80 != 0;
    match version(rest) {
        Some(version) if long && is_quic_version(version) => true,
        // Of servers that would take it at all, none takes one that is shorter (RFC 9000, 14.1).
        Some(version) if long && version != [0; 4] => !known && payload.len() >= QUIC_INITIAL,
        // Google's first ones have a connection's number before the version.
        _ => {
            first & 0x09 == 0x09
                && rest.get(8..).and_then(version).is_some_and(|version| version.starts_with(b"Q0"))
        }
    }
}

/// Whether a datagram begins an association of DTLS (RFC 9147, 5.2), which names its other end. Servers pass over records
/// that they do not know, whatever their lengths say, and take the next one. Where what is spoken is known to be something
/// else, a record has to be where the ones before it end.
pub(crate) fn is_dtls(payload: &[u8], known: bool) -> bool {
    let hello = |record: &[u8]| {
        let version = matches!(record, [22, 0xfe, 0xfc..=0xff, ..] | [22, 1, 0, ..]);
        version && record.get(DTLS_HEADER).is_none_or(|handshake| *handshake == CLIENT_HELLO)
    };
    if matches!(payload, [22, 0xfe, ..] | [22, 1, 0, ..]) {
        return true;
    }
    if !known {
        return payload.windows(DTLS_HEADER + 1).any(hello);
    }
    let mut rest = payload;
    while let Some((header, behind)) = rest.split_at_checked(DTLS_HEADER) {
        if hello(rest) {
            return true;
        }
        let length = usize::from(u16::from_be_bytes([header[DTLS_HEADER - 2], header[DTLS_HEADER - 1]]));
        rest = behind.get(length..).unwrap_or_default();
    }
    false
}

/// Length of a record's header (RFC 6347, 4.1), bytes.
const DTLS_HEADER: usize = 13;
/// `client_hello` of `HandshakeType` (RFC 5246, 7.4).
const CLIENT_HELLO: u8 = 1;

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, UdpSocket as StdSocket};

    use aegis_policy::{Name, Policy, Preset, Protocol};
    use proptest::prelude::*;

    use super::*;
    use crate::groups::Groups;
    use crate::policy_engine::PolicyEngine;

    fn evaluate(default: Preset, rules: &[&str], port: u16) -> FlowDecision {
        let (mut engine, now) = (PolicyEngine::new(), Instant::now());
        let rules = rules.iter().map(|rule| rule.parse().unwrap()).collect();
        engine.set(Policy { default, rules }, Vec::new(), Groups::default());
        let address = "203.0.113.1".parse().unwrap();
        engine.pins.add(address, &Name::new("a.example").unwrap(), ANSWERED, now);
        let decision = engine.evaluate(Protocol::Udp, address, port, now);
        assert!(decision.verdict.allows());
        decision
    }

    fn initial(first: u8, version: [u8; 4], length: usize) -> Vec<u8> {
        let mut bytes = [&[first][..], &version, &[8]].concat();
        bytes.resize(length, 7);
        bytes
    }

    #[test]
    fn quic_is_known_by_its_version_whatever_else() {
        let versions =
            [[0, 0, 0, 1], [0x6b, 0x33, 0x43, 0xcf], [0xff, 0, 0, 29], [0x1a, 0x2a, 0x3a, 0x4a], *b"Q046"];
        for version in versions {
            for (first, length) in [(0xc3, 1200), (0x80, 1200), (0xe0, 40), (0x93, 5), (0xd0, 1350)] {
                assert!(is_quic(&initial(first, version, length), true), "{first:x} {version:x?} {length}");
            }
        }
        assert!(is_quic(&[&[0x0d][..], &[1; 8], b"Q043"].concat(), true));
        let unknown = initial(0xc3, [9, 9, 9, 9], 1200);
        assert!(is_quic(&unknown, false) && !is_quic(&unknown, true));
        let ntp = [&[0xe3, 0, 3, 0xfa][..], &[0; 44]].concat();
        for other in
            [&[0x43; 1300][..], &ntp, b"", &[0x80], &[22, 0xfe, 0xfd], &[0x80, 0x60, 0, 1, 0, 0, 0, 9]]
        {
            assert!(!is_quic(other, false), "{other:?}");
        }
    }

    #[test]
    fn a_greeting_of_dtls_is_known_behind_whatever_its_server_passes_over() {
        let record = |kind: u8, version: [u8; 2], body: &[u8]| {
            let length = u16::try_from(body.len()).unwrap().to_be_bytes();
            [&[kind][..], &version, &[0; 8], &length, body].concat()
        };
        let hello = record(22, [0xfe, 0xfd], &[1, 0, 0, 4, 9, 9, 9, 9]);
        let before = [
            record(99, [0xfe, 0xfd], b"x"),
            record(20, [0xfe, 0xfd], &[1]),
            record(22, [3, 3], &[2; 40]),
            record(23, [0xfe, 0xff], b""),
        ];
        for one in &before {
            let both = [&one[..], &hello].concat();
            assert!(is_dtls(&both, false) && is_dtls(&both, true), "{one:?}");
        }
        assert!(is_dtls(&[b"junk".as_slice(), &hello].concat(), false));
        for other in [&before.concat()[..], b"", &[0; 40], &[22; 40]] {
            assert!(!is_dtls(other, false) && !is_dtls(other, true), "{other:?}");
        }
    }

    #[test]
    fn each_datagram_is_judged_and_not_the_first_alone() {
        let server = StdSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = server.local_addr().unwrap();
        let guest = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9);
        let mut flow = UdpFlow::new(
            guest,
            to,
            Datagrams::to(to).unwrap(),
            evaluate(Preset::Public, &["deny b.example"], 443),
        );
        let (known, unknown) = (initial(0xc3, [0, 0, 0, 1], 1200), initial(0xc3, [9; 4], 1200));
        assert_eq!(flow.refuses(b"x"), None);
        assert_eq!(
            (flow.refuses(&known), flow.refuses(&unknown)),
            (Some(Reason::Unnamed), Some(Reason::Unnamed))
        );
        flow.socket.send(b"x").unwrap();
        let from = server.recv_from(&mut [0; 9]).unwrap().1;
        let (mut out, mut limiter) = (FrameWriter::default(), RateLimiter::new(None, Instant::now()));
        for (answer, other) in [(known.as_slice(), false), (b"y", true)] {
            server.send_to(answer, from).unwrap();
            while flow.bytes_in == 0 {
                flow.receive(&mut [0; 2000], &mut out, &mut limiter);
            }
            flow.bytes_in = 0;
            assert_eq!((flow.refuses(&known).is_some(), flow.refuses(&unknown).is_none()), (true, other));
        }
    }

    #[test]
    fn what_a_name_opens_over_udp_gives_no_name_of_its_own() {
        let hello = [22, 0xfe, 0xfd, 0, 0];
        for (rule, port, payload, expected) in [
            ("allow a.example", 123, &b"x"[..], None),
            ("allow a.example", 443, b"x", Some(Reason::Unrecognised)),
            ("allow a.example", 5684, &hello, Some(Reason::Unnamed)),
            ("allow a.example:443/udp", 443, b"x", None),
            ("allow a.example:443/udp", 443, &initial(0xc0, [0, 0, 0, 1], 99), Some(Reason::Unnamed)),
            ("allow 203.0.113.1", 443, &initial(0xc0, [0, 0, 0, 1], 99), None),
        ] {
            let decision = evaluate(Preset::None, &[rule, "allow b.example"], port);
            assert_eq!(refuses(&decision, payload, false), expected, "{rule} {port}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_datagrams_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..40), known: bool) {
            let _quic = (is_quic(&bytes, known), is_dtls(&bytes, known));
        }
    }
}
