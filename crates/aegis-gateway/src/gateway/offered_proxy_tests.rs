//! A guest that asks the proxy which it is offered.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use aegis_policy::{Policy, Preset};
use smoltcp::wire::{TcpControl, TcpPacket};

use super::super::tests::{Bench, bench, is_reset, segment_with};
use super::super::*;
use crate::addressing::{GATEWAY_V4, PROXY_PORT};

const GATEWAY: IpAddr = IpAddr::V4(GATEWAY_V4);

pub(super) fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A gateway of a host that has this proxy.
pub(super) fn behind(proxy: SocketAddr, policy: Policy, host_ports: Vec<u16>) -> Guest {
    let proxy = Some(Proxy { servers: vec![proxy], ..Proxy::default() });
    let bench = bench(Settings { policy, proxy, host_ports, ..Settings::default() });
    Guest { bench, sent: 8, theirs: 0, received: Vec::new(), ended: false }
}

/// A guest with one connection to the gateway's proxy.
pub(super) struct Guest {
    pub(super) bench: Bench,
    sent: i32,
    theirs: i32,
    pub(super) received: Vec<u8>,
    pub(super) ended: bool,
}

impl Guest {
    pub(super) fn begin(&mut self) {
        let answers = self.bench.answers(&segment_with(GATEWAY, PROXY_PORT, TcpControl::Syn, 7, None, &[]));
        let greeting = TcpPacket::new_checked(&answers[0][14 + 20..]).unwrap();
        self.theirs = greeting.seq_number().0.wrapping_add(1);
    }

    fn take(&mut self, frames: &[Vec<u8>]) {
        for frame in frames {
            let packet = TcpPacket::new_checked(&frame[14 + 20..]).unwrap();
            if packet.seq_number().0 == self.theirs {
                self.received.extend(packet.payload());
                self.theirs = self.theirs.wrapping_add(i32::try_from(packet.payload().len()).unwrap());
                self.ended |= packet.fin() || packet.rst();
            }
        }
    }

    pub(super) fn say(&mut self, text: &str) {
        let segment =
            segment_with(GATEWAY, PROXY_PORT, TcpControl::Psh, self.sent, Some(self.theirs), text.as_bytes());
        self.sent += i32::try_from(text.len()).unwrap();
        let answers = self.bench.answers(&segment);
        self.take(&answers);
    }

    /// Waits until it has heard this.
    pub(super) fn hears(&mut self, text: &str) {
        for _ in 0..1000 {
            if String::from_utf8_lossy(&self.received).contains(text) {
                return;
            }
            self.bench.gateway.ready(Kind::Tcp, 0, true, true);
            let acknowledgement =
                segment_with(GATEWAY, PROXY_PORT, TcpControl::None, self.sent, Some(self.theirs), &[]);
            let answers = self.bench.answers(&acknowledgement);
            self.take(&answers);
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("{text:?} is not in {:?}", String::from_utf8_lossy(&self.received));
    }
}

pub(super) fn connect(to: &str) -> String {
    format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n")
}

fn public() -> Policy {
    Policy { default: Preset::Public, rules: Vec::new() }
}

/// The next connection, and what it says up to an empty line.
pub(super) fn asked(listener: &TcpListener) -> (TcpStream, String) {
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    (stream, String::from_utf8(head).unwrap())
}

#[test]
fn a_tunnel_leads_through_the_hosts_own_proxy_and_nothing_that_comes_early_is_lost() {
    let (listener, proxy) = listen();
    let mut guest = behind(proxy, public(), Vec::new());
    guest.begin();
    guest.say(&(connect("203.0.113.1:443") + "early"));
    guest.bench.gateway.ready(Kind::Tcp, 0, false, true);
    guest.bench.answers(&[]);
    let (mut stream, head) = asked(&listener);
    assert_eq!(head, connect("203.0.113.1:443"));
    assert!(guest.received.is_empty());
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhello").unwrap();
    guest.hears("HTTP/1.1 200 Connection established\r\n\r\nhello");
    let mut early = [0; 5];
    stream.read_exact(&mut early).unwrap();
    assert_eq!(&early, b"early");
    assert_eq!(guest.bench.last().address, Some("203.0.113.1".parse().unwrap()));
}

#[test]
fn a_tunnel_that_the_hosts_proxy_refuses_is_no_tunnel() {
    let (listener, proxy) = listen();
    let mut guest = behind(proxy, public(), Vec::new());
    guest.begin();
    guest.say(&connect("203.0.113.1:443"));
    guest.bench.gateway.ready(Kind::Tcp, 0, false, true);
    guest.bench.answers(&[]);
    let (mut stream, _) = asked(&listener);
    stream.write_all(b"HTTP/1.1 403 No\r\n\r\n").unwrap();
    guest.hears("HTTP/1.1 502 Bad Gateway");
    assert!(guest.ended);
    assert_eq!(guest.bench.gateway.table.tcp.len(), 0);
}

#[test]
fn what_the_policy_denies_the_offered_proxy_denies_and_says_why() {
    let rules = vec!["deny 198.51.100.0/24".parse().unwrap()];
    let (_listener, proxy) = listen();
    for (to, why) in [
        ("127.0.0.1:22", "never"),
        ("[::1]:22", "never"),
        ("[::ffff:127.0.0.1]:22", "never"),
        ("10.0.0.1:443", "private addresses"),
        ("169.254.169.254:80", "metadata addresses"),
        ("10.63.0.1:3128", "never"),
        ("host.aegis:22", "never"),
        ("198.51.100.7:443", "deny 198.51.100.0/24"),
    ] {
        let mut guest = behind(proxy, Policy { rules: Vec::clone(&rules), ..public() }, Vec::new());
        guest.begin();
        guest.say(&connect(to));
        guest.hears(why);
        assert!(guest.received.starts_with(b"HTTP/1.1 403 Forbidden\r\n"), "{to}");
        assert!(guest.ended, "{to}");
        assert_eq!(guest.bench.gateway.counters().denied, 1, "{to}");
    }
}

#[test]
fn a_name_that_nothing_opens_gets_no_tunnel() {
    let (_listener, proxy) = listen();
    let mut guest = behind(proxy, Policy { default: Preset::None, rules: Vec::new() }, Vec::new());
    guest.begin();
    guest.say(&connect("a.example:443"));
    guest.hears("does not allow this name");
    assert!(guest.received.starts_with(b"HTTP/1.1 403 Forbidden\r\n"));
}

#[test]
fn a_tunnel_to_a_port_of_the_host_that_is_open_does_not_leave_the_host() {
    let (_proxy, proxy) = listen();
    let (listener, server) = listen();
    let nothing = Policy { default: Preset::None, rules: Vec::new() };
    let mut guest = behind(proxy, nothing, vec![server.port()]);
    guest.begin();
    guest.say(&connect(&format!("host.aegis:{}", server.port())));
    let (mut stream, _) = listener.accept().unwrap();
    guest.hears("HTTP/1.1 200 Connection established\r\n\r\n");
    guest.say("ping");
    let mut said = [0; 4];
    stream.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"ping");
}

#[test]
fn nothing_is_offered_where_the_host_has_no_proxy_or_the_port_is_the_hosts_own() {
    let syn = segment_with(GATEWAY, PROXY_PORT, TcpControl::Syn, 7, None, &[]);
    let mut without = bench(Settings { policy: public(), ..Settings::default() });
    assert!(is_reset(&without.answers(&syn)[0]));
    let (_listener, proxy) = listen();
    let mut taken = behind(proxy, public(), vec![PROXY_PORT]).bench;
    taken.answers(&syn);
    assert_eq!(taken.last().because, "a port of the host that is open to this instance");
}
