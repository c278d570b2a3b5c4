//! What the gateway takes for a request, compared with what real servers take for one: nothing passes where only
//! `good.example` is allowed that one of them serves as `evil.example`.

mod corpus;
mod http2;
mod servers;
mod tls;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::time::Duration;

use aegis_gateway::fuzz::{passes, relay};
use servers::{Server, Servers};

/// The only name that is allowed, and its neighbour at the same address.
const GOOD: &str = "good.example";
const EVIL: &str = "evil.example";
/// What a server says that believes to be asked for the neighbour.
const SERVED: &[u8] = b"served:evil.example";
/// How long a server that says nothing is listened to.
const PATIENCE: Duration = Duration::from_millis(400);

/// What a server says to these bytes.
fn answer(server: &Server, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let _refused = stream.write_all(bytes);
    let _ended = stream.shutdown(Shutdown::Write);
    let (mut answer, mut part) = (Vec::new(), [0; 4096]);
    while let Ok(count) = stream.read(&mut part) {
        answer.extend_from_slice(&part[..count]);
        if count == 0 || answer.len() > 1 << 20 {
            break;
        }
    }
    answer
}

fn serves_evil(server: &Server, bytes: &[u8]) -> bool {
    answer(server, bytes).windows(SERVED.len()).any(|part| part == SERVED)
}

#[test]
fn what_any_server_takes_for_a_request_to_a_name_that_is_not_allowed_does_not_pass() {
    let servers = Servers::start(&servers::WEB);
    for server in &servers.all {
        let plain = |host: &str| format!("GET {} HTTP/1.1\r\nHost: {host}\r\n\r\n", corpus::PATH);
        assert!(serves_evil(server, plain(EVIL).as_bytes()), "{} serves both", server.name);
        assert!(!serves_evil(server, plain(GOOD).as_bytes()), "{} tells them apart", server.name);
    }
    // What the servers differ about: otherwise there would be nothing to compare.
    let mut lenient = vec![0; servers.all.len()];
    for bytes in corpus::singles() {
        for (server, count) in servers.all.iter().zip(&mut lenient) {
            *count += usize::from(serves_evil(server, &bytes));
        }
    }
    let (mut passed, mut whole) = (0, 0);
    for bytes in corpus::singles().chain(corpus::pairs()).chain(corpus::random(12_000)) {
        for (piece, strict) in [(usize::MAX, true), (1, true), (usize::MAX, false)] {
            let pass = passes(&bytes, piece, strict, GOOD);
            whole += usize::from(pass == bytes);
            if pass.is_empty() {
                continue;
            }
            passed += 1;
            let text = String::from_utf8_lossy(&pass);
            if !text.contains("evil") {
                continue;
            }
            for server in &servers.all {
                assert!(!serves_evil(server, &pass), "{} serves {text:?}", server.name);
            }
        }
    }
    assert!(lenient.iter().all(|count| *count > 5), "{:?} {lenient:?}", servers.names());
    assert!(passed > 100 && whole > 20, "{passed} {whole}");
}

/// A client of HTTP/2, which keeps its side open while it listens.
struct Client(TcpStream, Vec<u8>);

impl Client {
    fn connect(server: &Server) -> Client {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE / 4)).unwrap();
        Client(stream, Vec::new())
    }

    /// Says this, and returns what the server says until it says no more for a while.
    fn say(&mut self, bytes: &[u8]) -> Vec<u8> {
        let (mut part, before) = ([0; 4096], self.1.len());
        let _refused = self.0.write_all(bytes);
        while let Ok(count @ 1..) = self.0.read(&mut part) {
            self.1.extend_from_slice(&part[..count]);
        }
        self.1.get(before..).unwrap_or_default().to_vec()
    }
}

/// What a server of HTTP/2 says to these bytes.
fn answer_to_all(server: &Server, bytes: &[u8]) -> Vec<u8> {
    Client::connect(server).say(bytes)
}

/// What it says to what passes of them, in pieces of this size.
fn answer_through(server: &Server, bytes: &[u8], piece: usize) -> Vec<u8> {
    let mut client = Client::connect(server);
    relay(bytes, piece, GOOD, &mut |pass| client.say(pass));
    client.1
}

#[test]
fn what_any_server_of_http_2_takes_for_a_request_to_a_name_that_is_not_allowed_does_not_pass() {
    let servers = Servers::start(&servers::HTTP2);
    let is_served = |said: &[u8], host: &[u8]| said.windows(host.len()).any(|part| part == host);
    std::thread::scope(|scope| {
        for server in &servers.all {
            scope.spawn(move || {
                assert!(
                    is_served(&answer_to_all(server, &http2::ask(EVIL)), SERVED),
                    "{} serves both",
                    server.name
                );
                let good = answer_through(server, &http2::ask(GOOD), usize::MAX);
                assert!(
                    !is_served(&good, SERVED) && good.len() > 60,
                    "{} serves what is allowed",
                    server.name
                );
                let mut without = 0;
                for bytes in http2::corpus(GOOD, EVIL) {
                    without += usize::from(is_served(&answer_to_all(server, &bytes), SERVED));
                    for piece in [usize::MAX, 11] {
                        let said = answer_through(server, &bytes, piece);
                        let text = String::from_utf8_lossy(&bytes);
                        assert!(!is_served(&said, SERVED), "{} serves {text:?}", server.name);
                    }
                }
                assert!(without > 3, "{} {without}", server.name);
            });
        }
    });
}
