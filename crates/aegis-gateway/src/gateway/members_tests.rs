//! Two gateways, and what a daemon does between them.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use aegis_policy::{Name, Policy, Preset};
use smoltcp::wire::{TcpControl, TcpPacket};

use super::super::tests::{Bench, bench, datagram_from, is_reset, segment_from};
use super::super::*;
use super::*;
use crate::frame_stream::FrameWriter;
use crate::groups::Group;

const A: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 2);
const STRANGER: Ipv4Addr = Ipv4Addr::new(198, 19, 1, 1);

fn member(own: Ipv4Addr, rules: &[&str]) -> Settings {
    let rules = rules.iter().map(|rule| rule.parse().unwrap()).collect();
    let members = [("a.crew", A), ("b.crew", B)];
    let members = members.map(|(name, address)| (Name::new(name).unwrap(), address)).to_vec();
    Settings {
        policy: Policy { default: Preset::None, rules },
        groups: vec![Group { own, members }],
        ..Settings::default()
    }
}

fn visitor(protocol: Protocol, from: Ipv4Addr) -> PeerConnection {
    let wanted = PeerRequest { to: B, protocol, port: 80, from_port: 40_000 };
    PeerConnection { from, own: B, wanted, patience_ms: 0 }
}

/// What the gateway at the other end of a pair says first.
fn verdict(mut end: UnixStream) -> Option<u8> {
    let mut byte = [0];
    end.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    (end.read(&mut byte).unwrap() == 1).then_some(byte[0])
}

fn frames(bench: &mut Bench) -> Vec<Vec<u8>> {
    bench.gateway.work();
    let frames = bench.gateway.out.frames();
    bench.gateway.out = FrameWriter::default();
    frames
}

#[test]
fn a_member_is_asked_for_and_an_address_of_no_member_is_refused_at_once() {
    let mut a = bench(member(A, &["allow any", "allow 198.19.0.0/16"]));
    let answers = a.answers(&segment_from(A, B.into(), 80, TcpControl::Syn));
    assert!(answers.is_empty());
    let (wanted, _end) = a.gateway.wanted().pop_front().unwrap();
    assert_eq!(wanted, PeerRequest { to: B, protocol: Protocol::Tcp, port: 80, from_port: 40_000 });
    for address in [STRANGER, A, Ipv4Addr::new(198, 19, 0, 3), Ipv4Addr::new(198, 19, 0, 255)] {
        let answers = a.answers(&segment_from(A, address.into(), 80, TcpControl::Syn));
        assert!(matches!(answers.as_slice(), [one] if is_reset(one)), "{address}");
        a.answers(&datagram_from(A, address.into(), 80, b"x"));
    }
    assert!(a.gateway.wanted().is_empty());
}

#[test]
fn a_guest_speaks_for_nobody_but_itself() {
    let mut a = bench(member(A, &[]));
    assert!(a.answers(&segment_from(B, A.into(), 80, TcpControl::Syn)).is_empty());
    assert!(a.answers(&segment_from(STRANGER, B.into(), 80, TcpControl::Syn)).is_empty());
    assert_eq!((a.dropped("spoofed"), a.gateway.wanted().len()), (2, 0));
}

#[test]
fn nobody_waits_for_what_cannot_be() {
    let mut a = bench(member(A, &[]));
    a.answers(&segment_from(A, B.into(), 80, TcpControl::Syn));
    let (_, end) = a.gateway.wanted().pop_front().unwrap();
    // A daemon that dies says nothing.
    drop(end);
    a.gateway.ready(Kind::Tcp, 0, true, true);
    let answers = frames(&mut a);
    assert_eq!((answers.len(), a.gateway.table.flows()), (1, 0));
    assert!(!is_reset_or_panic(&answers[0]), "unreachable, not refused");
    a.answers(&segment_from(A, B.into(), 80, TcpControl::Syn));
    let (_, end) = a.gateway.wanted().pop_front().unwrap();
    UnixStream::from(end).write_all(&[ConnectOutcome::Refused.byte()]).unwrap();
    a.gateway.ready(Kind::Tcp, 0, true, true);
    assert!(is_reset(&frames(&mut a)[0]));
}

/// Whether a frame is a reset; of ICMP it is none.
fn is_reset_or_panic(frame: &[u8]) -> bool {
    frame[14 + 9] == 6 && is_reset(frame)
}

#[test]
fn a_visitor_is_let_in_if_both_are_members_and_no_rule_keeps_him_out() {
    let cases: [(Settings, Ipv4Addr, bool); 6] = [
        (member(B, &[]), A, true),
        (member(B, &["deny any"]), A, true),
        (member(B, &["deny in any"]), A, false),
        (member(B, &["allow in a.crew:80", "deny in group"]), A, true),
        (member(B, &[]), STRANGER, false),
        (Settings::default(), A, false),
    ];
    for (index, (settings, from, welcome)) in cases.into_iter().enumerate() {
        let mut b = bench(settings);
        let (ours, theirs) = UnixStream::pair().unwrap();
        b.gateway.admit(&visitor(Protocol::Tcp, from), theirs.into()).unwrap();
        let sent = frames(&mut b);
        assert_eq!(sent.len(), usize::from(welcome), "{index}");
        assert_eq!(b.gateway.visitors(), usize::from(welcome), "{index}");
        if !welcome {
            assert_eq!(verdict(ours), Some(ConnectOutcome::Refused.byte()), "{index}");
            assert_eq!(b.last().direction, Direction::In);
        }
    }
}

#[test]
fn a_visitor_whose_port_is_taken_gets_another() {
    let mut b = bench(member(B, &[]));
    let mut seen = Vec::new();
    for _ in 0..3 {
        let (ours, theirs) = UnixStream::pair().unwrap();
        b.gateway.admit(&visitor(Protocol::Tcp, A), theirs.into()).unwrap();
        let sent = frames(&mut b);
        let segment = TcpPacket::new_checked(&sent[0][14 + 20..]).unwrap();
        assert!(segment.syn() && segment.dst_port() == 80);
        seen.push((segment.src_port(), ours));
    }
    let ports: Vec<u16> = seen.iter().map(|(port, _)| *port).collect();
    assert_eq!(ports, [40_000, DYNAMIC, DYNAMIC + 1]);
}

#[test]
fn a_refusal_of_the_guest_counts_when_its_server_has_had_its_time() {
    let mut b = bench(member(B, &[]));
    let (ours, theirs) = UnixStream::pair().unwrap();
    let patient = PeerConnection { patience_ms: 200, ..visitor(Protocol::Tcp, A) };
    b.gateway.admit(&patient, theirs.into()).unwrap();
    let (begun, mut asked) = (Instant::now(), 0);
    while b.gateway.table.flows() > 0 {
        for sent in frames(&mut b) {
            let syn = TcpPacket::new_checked(&sent[14 + 20..]).unwrap();
            asked += u32::from(syn.syn());
            let mut refusal = segment_from(B, A.into(), syn.src_port(), TcpControl::Rst);
            // From the port that was asked, and to what was asked there.
            refusal[34..36].copy_from_slice(&80u16.to_be_bytes());
            refusal[42..46].copy_from_slice(&(syn.seq_number().0.wrapping_add(1)).to_be_bytes());
            refusal[47] |= 0x10;
            b.gateway.frame(&refusal, Instant::now());
        }
        // As the loop of the process does.
        std::thread::sleep(b.gateway.idle_for(Instant::now()).unwrap_or_default());
    }
    assert!(asked > 2 && begun.elapsed() >= Duration::from_millis(200), "{asked}");
    assert_eq!(verdict(ours), Some(ConnectOutcome::Refused.byte()));
}

#[test]
fn who_leaves_takes_leave_of_all_at_once() {
    let mut a = bench(member(A, &[]));
    a.answers(&segment_from(A, B.into(), 80, TcpControl::Syn));
    a.answers(&datagram_from(A, B.into(), 53, b"x"));
    let ends: Vec<OwnedFd> = a.gateway.wanted().drain(..).map(|(_, end)| end).collect();
    assert_eq!((ends.len(), a.gateway.table.flows()), (2, 2));
    a.gateway.set(Settings::default());
    assert_eq!(a.gateway.table.flows(), 0);
    let [connection, conversation] = ends.try_into().unwrap();
    assert_eq!(verdict(connection.into()), None);
    let mut conversation = UnixStream::from(conversation);
    let mut said = [0; 10];
    assert_eq!((conversation.read(&mut said).unwrap(), conversation.read(&mut said).unwrap()), (2, 0));
}

#[test]
fn datagrams_travel_whole_even_empty_ones() {
    let (mut a, mut b) = (bench(member(A, &[])), bench(member(B, &[])));
    a.answers(&datagram_from(A, B.into(), 80, b"one"));
    let (wanted, end) = a.gateway.wanted().pop_front().unwrap();
    let from_port = wanted.from_port;
    b.gateway.admit(&PeerConnection { wanted, ..visitor(Protocol::Udp, A) }, end).unwrap();
    a.answers(&datagram_from(A, B.into(), 80, b""));
    b.gateway.ready(Kind::Udp, 0, true, false);
    let arrived: Vec<Vec<u8>> = frames(&mut b).iter().map(|frame| frame[14 + 20 + 8..].to_vec()).collect();
    assert_eq!(arrived, [b"one".to_vec(), Vec::new()]);
    let mut answer = datagram_from(B, A.into(), from_port, b"two");
    answer[34..36].copy_from_slice(&80u16.to_be_bytes());
    b.answers(&answer);
    a.gateway.ready(Kind::Udp, 0, true, false);
    assert_eq!(frames(&mut a)[0][14 + 20 + 8..], *b"two");
    assert_eq!((a.gateway.visitors(), b.gateway.visitors()), (0, 1));
}

#[test]
fn more_than_can_be_asked_for_is_refused() {
    let mut a = bench(member(A, &[]));
    for port in 0..1100u16 {
        let mut frame = segment_from(A, B.into(), 80, TcpControl::Syn);
        frame[34..36].copy_from_slice(&(1000 + port).to_be_bytes());
        let refused = !a.answers(&frame).is_empty();
        assert_eq!(refused, usize::from(port) >= MOST_WANTED, "{port}");
    }
}

/// Lets so many conversations be begun from there; how many are refused.
fn visit_often(bench: &mut Bench, from: Ipv4Addr, times: usize, ends: &mut Vec<OwnedFd>) -> usize {
    let mut refused = 0;
    for _ in 0..times {
        let (ours, theirs) = pair(SocketType::SEQPACKET).unwrap();
        let before = bench.gateway.visitors();
        bench.gateway.admit(&visitor(Protocol::Udp, from), theirs).unwrap();
        refused += usize::from(bench.gateway.visitors() == before);
        ends.push(ours);
    }
    refused
}

#[test]
fn one_visitor_leaves_room_for_others_and_for_the_guest_itself() {
    let mut settings = member(B, &["allow any"]);
    let third = Ipv4Addr::new(198, 19, 0, 3);
    settings.groups[0].members.push((Name::new("c.crew").unwrap(), third));
    settings.limits.flows = 80;
    let mut b = bench(settings);
    let mut ends = Vec::new();
    assert_eq!(visit_often(&mut b, A, 100, &mut ends), 70);
    assert_eq!(visit_often(&mut b, third, 100, &mut ends), 85);
    assert_eq!(visit_often(&mut b, A, 1, &mut ends), 1);
    // Its own are not refused.
    let open = b.gateway.table.flows();
    b.answers(&datagram_from(B, A.into(), 80, b"x"));
    assert_eq!(b.gateway.table.flows(), open + 1);
}
