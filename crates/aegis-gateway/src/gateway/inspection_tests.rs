//! What hangs on a name, from a guest's connection to the socket of the host: through a proxy that knows all names.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use aegis_policy::{Policy, Preset};

use super::super::tests::{bench, datagram_from};
use super::super::*;
use super::tests::{Guest, asked, behind, connect, listen};
use crate::addressing::{GATEWAY_V4, GUEST_V4};

/// A guest that is connected with `good.example` at this port, and the other end.
fn connected(rules: &[&str], port: u16) -> (Guest, TcpStream, TcpListener) {
    let (listener, proxy) = listen();
    let rules = rules.iter().map(|rule| rule.parse().unwrap()).collect();
    let mut guest = behind(proxy, Policy { default: Preset::None, rules }, Vec::new());
    guest.begin();
    guest.say(&connect(&format!("good.example:{port}")));
    guest.bench.gateway.ready(Kind::Tcp, 0, false, true);
    guest.bench.answers(&[]);
    let (mut stream, _) = asked(&listener);
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    guest.hears("HTTP/1.1 200 Connection established\r\n\r\n");
    guest.received.clear();
    (guest, stream, listener)
}

/// Runs what is due until the guest's connection has ended.
fn ends(guest: &mut Guest) {
    let begun = Instant::now();
    while !guest.bench.gateway.table.tcp.is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(10));
        let idle = guest.bench.gateway.idle_for(Instant::now()).unwrap_or(Duration::from_millis(5));
        std::thread::sleep(idle.min(Duration::from_millis(50)));
        guest.bench.answers(&[]);
    }
}

#[test]
fn what_is_not_recognised_is_refused_and_the_log_says_what_it_takes() {
    for bytes in [
        "\0\0\0\u{8}\u{4}",
        "SSH-2.0-x\r\n",
        "003agit-upload-pack /r\0host=good.example\0",
        "GET /\tHTTP/1.1\r\n",
    ] {
        let (mut guest, mut stream, _listener) = connected(&["allow good.example"], 9418);
        guest.say(bytes);
        ends(&mut guest);
        assert!(matches!(stream.read(&mut [0; 9]), Ok(0) | Err(_)), "{bytes:?}");
        let last = guest.bench.last();
        assert_eq!((last.action, last.port), (Action::Deny, 9418));
        assert_eq!(last.because, "neither TLS nor HTTP, where names are judged: takes a rule WHAT:PORT/raw");
    }
}

#[test]
fn a_guest_that_does_not_say_what_it_speaks_is_not_waited_for() {
    let (mut guest, _stream, _listener) = connected(&["allow good.example"], 80);
    guest.say("HELP");
    assert_eq!(guest.bench.gateway.table.tcp.len(), 1);
    let idle = guest.bench.gateway.idle_for(Instant::now()).unwrap();
    assert!(idle <= Duration::from_secs(1), "{idle:?}");
    let begun = Instant::now();
    ends(&mut guest);
    assert!(begun.elapsed() > Duration::from_millis(800) && begun.elapsed() < Duration::from_secs(3));
}

#[test]
fn a_port_that_is_open_to_anything_is_so_without_delay_whoever_speaks_first() {
    let (mut guest, mut stream, _listener) =
        connected(&["allow good.example", "allow good.example:5432/raw"], 5432);
    stream.write_all(b"220 hello\r\n").unwrap();
    guest.hears("220 hello\r\n");
    guest.say("\0");
    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut byte = [9];
    stream.read_exact(&mut byte).unwrap();
    assert_eq!(byte, [0]);
    // Not any more: it ends, for nobody has seen whose it is.
    let rules = vec!["allow good.example".parse().unwrap()];
    guest
        .bench
        .gateway
        .set(Settings { policy: Policy { default: Preset::None, rules }, ..Settings::default() });
    assert_eq!(guest.bench.gateway.table.tcp.len(), 0);
}

#[test]
fn a_change_of_protocol_that_is_part_of_another_answer_opens_nothing() {
    let (mut guest, mut stream, _listener) = connected(&["allow good.example"], 80);
    let plain = "GET / HTTP/1.1\r\nHost: good.example\r\n\r\n";
    let upgrade_request =
        "GET / HTTP/1.1\r\nHost: good.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    guest.say(&[plain, upgrade_request].concat());
    let mut heads = vec![0; plain.len() + upgrade_request.len()];
    stream.read_exact(&mut heads).unwrap();
    let piece = "HTTP/1.1 101 Switching Protocols\r\n\r\n";
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", piece.len()).unwrap();
    guest.hears("Content-Length");
    stream.write_all(piece.as_bytes()).unwrap();
    guest.hears("Switching");
    guest.say("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n");
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(stream.read(&mut [0; 9]).is_err());
    stream.write_all(piece.as_bytes()).unwrap();
    guest.hears(&[piece, piece].concat());
    // This one was the answer.
    let mut got = [0; 4];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"GET ");
}

#[test]
fn where_names_are_judged_nobody_is_told_how_to_hide_one() {
    // wWw.example.com, HTTPS.
    let question = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03wWw\x07example\x03com\0\0\x41\0\x01";
    for (rules, code) in [(vec!["deny b.example".parse().unwrap()], 0), (Vec::new(), 2)] {
        let policy = Policy { default: Preset::Public, rules };
        let mut bench = bench(Settings { policy, ..Settings::default() });
        let answers = bench.answers(&datagram_from(GUEST_V4, GATEWAY_V4.into(), 53, question));
        let message = &answers[0][14 + 20 + 8..];
        // No server answers here: what would be asked for fails.
        assert_eq!((message[3] & 15, &message[6..8]), (code, &[0, 0][..]));
        assert_eq!(&message[12..], &question[12..]);
    }
}
