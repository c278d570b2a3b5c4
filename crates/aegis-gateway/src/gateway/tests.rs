use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};

use aegis_policy::{Policy, Preset};
use mio::Poll;
use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, Icmpv4Packet, IpAddress, IpProtocol, IpRepr, Ipv4Packet, Ipv6Packet,
    TcpControl, TcpPacket, TcpRepr, TcpSeqNumber, UdpPacket, UdpRepr,
};

use super::*;
use crate::addressing::{GATEWAY, GATEWAY_V4, GUEST, GUEST_V4, GUEST_V6};

/// A gateway with this policy that is spoken to frame by frame.
pub(super) struct Bench {
    pub(super) gateway: Gateway,
    _poll: Poll,
}

pub(super) fn bench(settings: Settings) -> Bench {
    let poll = Poll::new().unwrap();
    let mut gateway = Gateway::new(poll.registry().try_clone().unwrap());
    gateway.set(settings);
    Bench { gateway, _poll: poll }
}

fn with(default: Preset, rules: &[&str]) -> Bench {
    let rules = rules.iter().map(|rule| rule.parse().unwrap()).collect();
    bench(Settings { policy: Policy { default, rules }, ..Settings::default() })
}

impl Bench {
    /// The frames that answer this one.
    pub(super) fn answers(&mut self, frame: &[u8]) -> Vec<Vec<u8>> {
        self.gateway.frame(frame, Instant::now());
        self.gateway.work();
        let frames = self.gateway.out.frames();
        self.gateway.out = FrameWriter::default();
        frames
    }

    pub(super) fn dropped(&self, kind: &str) -> u64 {
        self.gateway.counters().dropped.get(kind).copied().unwrap_or(0)
    }

    pub(super) fn last(&self) -> DecisionEntry {
        self.gateway.decision_log.from(self.gateway.decision_log.next() - 1).unwrap().clone()
    }
}

fn ethernet(protocol: EthernetProtocol, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; EthernetFrame::<&[u8]>::buffer_len(payload.len())];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    frame.set_src_addr(GUEST);
    frame.set_dst_addr(GATEWAY);
    frame.set_ethertype(protocol);
    frame.payload_mut().copy_from_slice(payload);
    bytes
}

/// A packet of the guest, or of who it says that it is.
fn ip(from: IpAddr, to: IpAddr, protocol: IpProtocol, body: &[u8]) -> Vec<u8> {
    let repr = IpRepr::new(from.into(), to.into(), protocol, body.len(), 64);
    let mut bytes = vec![0; repr.buffer_len()];
    repr.emit(&mut bytes[..], &ChecksumCapabilities::default());
    bytes[repr.header_len()..].copy_from_slice(body);
    let kind = if to.is_ipv4() { EthernetProtocol::Ipv4 } else { EthernetProtocol::Ipv6 };
    ethernet(kind, &bytes)
}

fn guest(of: IpAddr) -> IpAddr {
    if of.is_ipv4() { GUEST_V4.into() } else { GUEST_V6.into() }
}

fn segment(to: IpAddr, port: u16, control: TcpControl) -> Vec<u8> {
    segment_with(to, port, control, 7, None, &[])
}

/// A segment of a guest that has this address.
pub(super) fn segment_from(from: Ipv4Addr, to: IpAddr, port: u16, control: TcpControl) -> Vec<u8> {
    segment_between(from.into(), to, port, control, (7, None), &[])
}

pub(super) fn segment_with(
    to: IpAddr,
    port: u16,
    control: TcpControl,
    sequence: i32,
    acknowledged: Option<i32>,
    payload: &[u8],
) -> Vec<u8> {
    segment_between(guest(to), to, port, control, (sequence, acknowledged), payload)
}

fn segment_between(
    from: IpAddr,
    to: IpAddr,
    port: u16,
    control: TcpControl,
    (sequence, acknowledged): (i32, Option<i32>),
    payload: &[u8],
) -> Vec<u8> {
    let repr = TcpRepr {
        src_port: 40_000,
        dst_port: port,
        control,
        seq_number: TcpSeqNumber(sequence),
        ack_number: acknowledged.map(TcpSeqNumber),
        window_len: 1000,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None, None, None],
        timestamp: None,
        payload,
    };
    let mut body = vec![0; repr.buffer_len()];
    let (source, other) = (IpAddress::from(from), IpAddress::from(to));
    repr.emit(&mut TcpPacket::new_unchecked(&mut body), &source, &other, &ChecksumCapabilities::default());
    ip(from, to, IpProtocol::Tcp, &body)
}

fn datagram(to: IpAddr, port: u16, payload: &[u8]) -> Vec<u8> {
    datagram_between(guest(to), to, port, payload)
}

/// A datagram of a guest that has this address.
pub(super) fn datagram_from(from: Ipv4Addr, to: IpAddr, port: u16, payload: &[u8]) -> Vec<u8> {
    datagram_between(from.into(), to, port, payload)
}

fn datagram_between(from: IpAddr, to: IpAddr, port: u16, payload: &[u8]) -> Vec<u8> {
    let repr = UdpRepr { src_port: 40_001, dst_port: port };
    let mut body = vec![0; repr.header_len() + payload.len()];
    let (source, other) = (IpAddress::from(from), IpAddress::from(to));
    let fill = |bytes: &mut [u8]| bytes.copy_from_slice(payload);
    let mut packet = UdpPacket::new_unchecked(&mut body);
    repr.emit(&mut packet, &source, &other, payload.len(), fill, &ChecksumCapabilities::default());
    ip(from, to, IpProtocol::Udp, &body)
}

/// Whether a frame resets a connection.
pub(super) fn is_reset(frame: &[u8]) -> bool {
    let frame = EthernetFrame::new_checked(frame).unwrap();
    let body = match frame.ethertype() {
        EthernetProtocol::Ipv4 => Ipv4Packet::new_checked(frame.payload()).unwrap().payload(),
        _ => Ipv6Packet::new_checked(frame.payload()).unwrap().payload(),
    };
    TcpPacket::new_checked(body).unwrap().rst()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn the_host_is_refused_at_once_however_it_is_written_and_whatever_the_policy() {
    let mut bench = with(Preset::Open, &["allow any", "allow 127.0.0.0/8"]);
    for text in [
        "127.0.0.1",
        "127.1.2.3",
        "0.0.0.0",
        "0.0.0.1",
        "::1",
        "::",
        "::ffff:127.0.0.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::1",
        "10.63.0.1",
        "10.63.0.3",
        "fd61:6567:6973::1",
        "224.0.0.1",
        "255.255.255.255",
        "ff02::1",
    ] {
        let answers = bench.answers(&segment(address(text), 22, TcpControl::Syn));
        assert!(matches!(answers.as_slice(), [one] if is_reset(one)), "{text}");
        assert!(bench.last().because.starts_with("never"), "{text}: {}", bench.last().because);
        let before = bench.gateway.table.udp.len();
        bench.answers(&datagram(address(text), 9, b"x"));
        assert_eq!(bench.gateway.table.udp.len(), before, "{text}");
    }
}

#[test]
fn what_is_denied_is_answered_at_once() {
    let mut bench = with(Preset::Public, &[]);
    for text in ["169.254.169.254", "10.0.0.1", "192.168.1.1", "fd00:ec2::254", "fe80::1"] {
        let answers = bench.answers(&segment(address(text), 80, TcpControl::Syn));
        assert!(matches!(answers.as_slice(), [one] if is_reset(one)), "{text}");
    }
    let answers = bench.answers(&datagram(address("10.0.0.1"), 161, b"x"));
    let frame = EthernetFrame::new_checked(answers[0].as_slice()).unwrap();
    let packet = Ipv4Packet::new_checked(frame.payload()).unwrap();
    let error = Icmpv4Packet::new_checked(packet.payload()).unwrap();
    assert_eq!((error.msg_type().into(), error.msg_code()), (3u8, 3), "port unreachable");
    assert!(error.verify_checksum());
    assert_eq!(bench.gateway.counters().denied, 6);
}

#[test]
fn neighbours_are_found_and_none_is_the_guest() {
    let mut bench = with(Preset::None, &[]);
    let mut question = vec![0, 1, 8, 0, 6, 4, 0, 1];
    question.extend(GUEST.as_bytes());
    question.extend(GUEST_V4.octets());
    question.extend([0; 6]);
    question.extend(GATEWAY_V4.octets());
    let answers = bench.answers(&ethernet(EthernetProtocol::Arp, &question));
    assert_eq!(&answers[0][22..28], GATEWAY.as_bytes());
    question[24..28].copy_from_slice(&GUEST_V4.octets());
    assert!(bench.answers(&ethernet(EthernetProtocol::Arp, &question)).is_empty());
}

#[test]
fn frames_that_mean_nothing_good_are_counted_and_dropped() {
    let mut bench = with(Preset::Open, &[]);
    let public = address("203.0.113.1");
    let whole = segment(public, 80, TcpControl::Syn);
    let mut change = |at: usize, value: u8, kind: &str| {
        let mut frame = whole.clone();
        frame[at] = value;
        let mut payload = frame.split_off(14);
        Ipv4Packet::new_unchecked(&mut payload[..]).fill_checksum();
        frame.extend(payload);
        assert!(bench.answers(&frame).is_empty(), "{kind}");
        assert_eq!(bench.dropped(kind), 1, "{kind}");
    };
    change(6, 0xee, "ethernet"); // another network interface's address
    change(12, 0x88, "protocol"); // another protocol
    change(14 + 6, 0x20, "fragment"); // more of it to come
    change(14, 0x46, "options");
    change(14 + 15, 9, "spoofed"); // another source
    change(14 + 9, 47, "transport"); // a tunnel
    let redirect = ip(GUEST_V4.into(), public, IpProtocol::Icmp, &[5, 1, 0, 0, 10, 0, 0, 1]);
    assert!(bench.answers(&redirect).is_empty());
    let mut header = vec![0x60, 0, 0, 0, 0, 8, 44, 64];
    header.extend(GUEST_V6.octets());
    header.extend("2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
    header.extend([6, 0, 0, 1, 0, 0, 0, 1]);
    assert!(bench.answers(&ethernet(EthernetProtocol::Ipv6, &header)).is_empty());
    assert_eq!((bench.dropped("fragment"), bench.gateway.counters().flows), (2, 0));
}

#[test]
fn a_segment_of_no_connection_is_reset_and_a_reset_is_not_answered() {
    let mut bench = with(Preset::Open, &[]);
    let to = address("203.0.113.1");
    assert!(is_reset(&bench.answers(&segment(to, 80, TcpControl::Fin))[0]));
    assert!(bench.answers(&segment(to, 80, TcpControl::Rst)).is_empty());
}

#[test]
fn a_port_of_the_host_is_reached_when_it_is_opened_and_no_other() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut bench = bench(Settings { host_ports: vec![port], ..Settings::default() });
    let answers = bench.answers(&segment(GATEWAY_V4.into(), port, TcpControl::Syn));
    assert!(!answers.iter().any(|frame| is_reset(frame)));
    let (mut stream, _) = listener.accept().unwrap();
    assert_eq!(bench.last().because, "a port of the host that is open to this instance");
    assert!(is_reset(&bench.answers(&segment(GATEWAY_V4.into(), port ^ 1, TcpControl::Syn))[0]));
    // Withdrawn, it ends at once.
    bench.gateway.set(Settings::default());
    assert!(matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_)));
    assert_eq!(bench.gateway.table.tcp.len(), 0);
}

#[test]
fn segments_that_overlap_arrive_once_and_the_first_bytes_count() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut bench = bench(Settings { host_ports: vec![port], ..Settings::default() });
    let to = IpAddr::V4(GATEWAY_V4);
    let mut answers = bench.answers(&segment(to, port, TcpControl::Syn));
    let (mut stream, _) = listener.accept().unwrap();
    while answers.is_empty() {
        bench.gateway.ready(Kind::Tcp, 0, false, true);
        answers = bench.answers(&[]);
    }
    bench.gateway.ready(Kind::Tcp, 0, false, true);
    let greeting = TcpPacket::new_checked(&answers[0][14 + 20..]).unwrap();
    let theirs = Some(greeting.seq_number().0.wrapping_add(1));
    let mut send = |sequence: i32, payload: &[u8]| {
        bench.answers(&segment_with(to, port, TcpControl::Psh, sequence, theirs, payload));
    };
    send(8, b"aaaaaaaaaa");
    send(13, b"bbbbbbbbbb");
    // What is ahead waits for what is missing.
    send(28, b"dd");
    send(23, b"ccccc");
    let mut got = [0; 22];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"aaaaaaaaaabbbbbcccccdd");
}

#[test]
fn quic_is_refused_where_names_are_judged() {
    let mut greeting = vec![0xc3, 0, 0, 0, 1, 8];
    greeting.resize(1200, 0);
    let mut bench = with(Preset::Public, &["deny bad.example"]);
    let answers = bench.answers(&datagram(address("203.0.113.1"), 443, &greeting));
    assert_eq!((answers.len(), bench.gateway.table.udp.len()), (1, 0));
    assert_eq!(bench.last().because, "allowed for a name that the connection does not give");
}

#[test]
fn there_are_no_more_flows_than_the_bound() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let limits = Limits { flows: 1, ..Limits::default() };
    let mut bench = bench(Settings { host_ports: vec![port], limits, ..Settings::default() });
    bench.answers(&segment(GATEWAY_V4.into(), port, TcpControl::Syn));
    let mut other = segment(GATEWAY_V4.into(), port, TcpControl::Syn);
    other[14 + 20] ^= 1; // another port of the guest
    assert!(is_reset(&bench.answers(&other)[0]));
    assert_eq!(bench.last().because, "limit: 1 flows at a time");
    assert_eq!(bench.gateway.bounds.tell(Instant::now()), Some(LimitKind::Flows));
}

#[test]
fn a_guest_that_sends_too_many_packets_waits_and_loses_none() {
    let limits = Limits { packets: Some(100), ..Limits::default() };
    let mut bench = bench(Settings { limits, ..Settings::default() });
    let frame = ethernet(EthernetProtocol::Arp, &[0; 28]);
    let stream = [&u32::try_from(frame.len()).unwrap().to_be_bytes()[..], &frame].concat().repeat(60);
    let (mut end, begun) = (std::io::empty(), Instant::now());
    let mut machine = bench.gateway.read(&mut stream.as_slice());
    assert!(bench.gateway.is_choked() && bench.gateway.counters().packets_out < 60);
    while machine == Machine::Here {
        bench.gateway.work();
        // As the loop of the process does: it is told to come again.
        std::thread::sleep(bench.gateway.idle_for(Instant::now()).unwrap());
        machine = bench.gateway.read(&mut end);
    }
    assert_eq!(bench.gateway.counters().packets_out, 60);
    assert!(begun.elapsed() >= Duration::from_millis(300) && bench.gateway.counters().limited > 0);
    assert_eq!(bench.gateway.bounds.tell(Instant::now()), Some(LimitKind::Packets));
}

#[test]
fn an_echo_of_the_gateway_comes_from_the_gateway() {
    let mut bench = with(Preset::None, &[]);
    let mut request = vec![8, 0, 0, 0, 1, 2, 0, 3, 9, 9];
    Icmpv4Packet::new_unchecked(&mut request[..]).fill_checksum();
    let answers = bench.answers(&ip(GUEST_V4.into(), GATEWAY_V4.into(), IpProtocol::Icmp, &request));
    assert_eq!(&answers[0][14 + 20..14 + 22], [0, 0]);
    assert_eq!(&answers[0][14 + 24..], [1, 2, 0, 3, 9, 9]);
}

#[test]
fn names_are_refused_where_nothing_is_open_and_failed_where_nobody_answers() {
    // www.example.com, A.
    let question = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\x03com\0\0\x01\0\x01";
    for (preset, code) in [(Preset::None, 5), (Preset::Public, 2)] {
        let mut bench = with(preset, &[]);
        let answers = bench.answers(&datagram(GATEWAY_V4.into(), 53, question));
        let message = &answers[0][14 + 20 + 8..];
        assert_eq!((&message[..2], message[3] & 15), (&b"\x12\x34"[..], code));
    }
    let mut bench =
        bench(Settings { limits: Limits { queries: 3, ..Limits::default() }, ..Settings::default() });
    let codes: Vec<u8> = (0..6)
        .map(|_| bench.answers(&datagram(GATEWAY_V4.into(), 53, question))[0][14 + 20 + 8 + 3] & 15)
        .collect();
    assert_eq!((codes[0], codes[5]), (2, 5), "{codes:?}");
    assert_eq!(bench.gateway.bounds.tell(Instant::now()), Some(LimitKind::Names));
    assert!(bench.gateway.counters().limited >= 1);
}

#[test]
fn a_gateway_that_is_idle_for_a_while_holds_no_buffers() {
    let mut bench = with(Preset::None, &[]);
    let mut stream = Vec::new();
    let frame = segment(address("203.0.113.1"), 80, TcpControl::Syn);
    stream.extend(u32::try_from(frame.len()).unwrap().to_be_bytes());
    stream.extend(frame);
    assert_eq!(bench.gateway.read(&mut stream.as_slice()), Machine::Gone);
    let mut sent = Vec::new();
    bench.gateway.send(&mut sent).unwrap();
    assert!(!sent.is_empty());
    let now = Instant::now();
    bench.gateway.rest(now);
    assert!(bench.gateway.incoming.holds_memory());
    assert_eq!(bench.gateway.idle_for(now), Some(KEPT));
    bench.gateway.rest(now + KEPT);
    assert_eq!(format!("{:?}", bench.gateway.incoming), format!("{:?}", FrameReader::default()));
    assert_eq!(bench.gateway.idle_for(now), None);
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let raw = prop::collection::vec(any::<u8>(), 0..200);
    let kinds = prop::sample::select(vec![
        segment(GATEWAY_V4.into(), 53, TcpControl::Syn),
        segment(address("203.0.113.1"), 80, TcpControl::Syn),
        segment(address("2001:db8::1"), 80, TcpControl::Psh),
        datagram(
            GATEWAY_V4.into(),
            53,
            b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\x03com\0\0\x01\0\x01",
        ),
        datagram(address("2001:db8::1"), 443, &[0xc0; 1300]),
        ethernet(EthernetProtocol::Arp, &[0; 28]),
    ]);
    let changes = prop::collection::vec((0usize..120, any::<u8>()), 0..4);
    let known = (kinds, changes, any::<bool>()).prop_map(|(mut frame, changes, mend)| {
        for (at, value) in changes {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        if mend && frame.len() > 34 && frame[14] == 0x45 {
            Ipv4Packet::new_unchecked(&mut frame[14..]).fill_checksum();
        }
        frame
    });
    let addressed = prop::collection::vec(any::<u8>(), 0..100).prop_map(|payload| {
        let mut frame = ethernet(EthernetProtocol::Ipv4, &payload);
        if payload.first().is_some_and(|byte| byte & 1 == 1) {
            frame[12..14].copy_from_slice(&[0x86, 0xdd]);
        }
        frame
    });
    prop_oneof![raw, known, addressed]
}

proptest! {
    /// Nothing is open, so that no frame makes the host send anything anywhere.
    #[test]
    fn arbitrary_frames_never_panic_never_open_anything_and_never_pile_up(
        frames in prop::collection::vec(any_frame(), 1..40),
    ) {
        let mut bench = with(Preset::None, &["deny bad.example"]);
        for frame in &frames {
            bench.gateway.frame(frame, Instant::now());
            bench.gateway.work();
        }
        let counters = bench.gateway.counters();
        prop_assert_eq!(counters.packets_out, frames.len() as u64);
        prop_assert_eq!((counters.flows, bench.gateway.table.tcp.len(), bench.gateway.table.udp.len()), (0, 0, 0));
        for answer in bench.gateway.out.frames() {
            let frame = EthernetFrame::new_checked(answer.as_slice()).unwrap();
            prop_assert_eq!((frame.src_addr(), frame.dst_addr()), (GATEWAY, GUEST));
        }
    }
}
