//! Clients of every kind that stay connected, and what is done to the instance meanwhile happens all the same.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aegis_tests::{DEADLINE, Daemon, eventually};
use serde_json::Value;

use crate::lifecycle::idle::becomes;

/// A server on several ports that answers each piece in the manner of its client, and keeps the connection.
pub(crate) const SERVER: &str = r#"
import base64, hashlib, socket, sys, threading
def serve(c):
    switched = False
    while True:
        said = c.recv(65536)
        if not said: break
        if b"Upgrade: websocket" in said and not switched:
            switched = True
            key = [l.split(b": ")[1] for l in said.split(b"\r\n") if l.lower().startswith(b"sec-websocket-key")][0]
            proof = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
            c.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                      b"Sec-WebSocket-Accept: " + proof + b"\r\n\r\n")
        elif said.startswith(b"GET ") and not switched:
            c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        else:
            c.sendall(said)
    c.close()
def listen(port):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("", port)); s.listen(1024)
    while True: threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
for port in (80, 81, 82, 83): threading.Thread(target=listen, args=(port,), daemon=True).start()
threading.Event().wait()
"#;

/// Starts one with that server.
pub(crate) fn start(daemon: &Daemon, handle: &str, options: &[&str]) {
    let head = ["instance", "start", "--name", handle, "--memory", "192", "--expose", "80/tcp"];
    let ports = ["--expose", "81/http", "--expose", "82/ws", "--expose", "83/grpc"];
    let command = ["--", "python3", "-c", SERVER];
    let _out = daemon.ok(&[&head[..], &ports, options, &command].concat());
}

/// A kind of client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Tcp,
    KeptAlive,
    KeptAliveByName,
    WebSocket,
    WebSocketByName,
    Stream,
}

pub(crate) const KINDS: [Kind; 6] =
    [Kind::Tcp, Kind::KeptAlive, Kind::KeptAliveByName, Kind::WebSocket, Kind::WebSocketByName, Kind::Stream];

impl Kind {
    /// Where it connects to.
    pub(crate) fn port(self, info: &Value) -> u16 {
        let public = |at: usize| info["endpoints"][at]["public_port"].as_u64().unwrap().try_into().unwrap();
        match self {
            Kind::Tcp => public(0),
            Kind::KeptAlive => public(1),
            Kind::WebSocket => public(2),
            Kind::Stream => public(3),
            Kind::KeptAliveByName | Kind::WebSocketByName => {
                let url = info["url"].as_str().unwrap().trim_end_matches('/').to_owned();
                url.rsplit(':').next().unwrap().parse().unwrap()
            }
        }
    }

    /// What it says first, and again.
    fn words(self, handle: &str) -> (String, String) {
        let get = format!("GET / HTTP/1.1\r\nHost: {handle}.localhost\r\n");
        let switch = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        match self {
            Kind::Tcp => ("hello".into(), "again".into()),
            // The preface of HTTP/2, and an empty frame of settings.
            Kind::Stream => ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), "\0\0\0\u{4}\0\0\0\0\0".into()),
            Kind::KeptAlive | Kind::KeptAliveByName => (format!("{get}\r\n"), format!("{get}\r\n")),
            Kind::WebSocket | Kind::WebSocketByName => (format!("{get}{switch}"), "frame".into()),
        }
    }
}

/// A client that has been served.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    pub(crate) kind: Kind,
    again: String,
}

impl Client {
    /// Connects, says something, and hears the answer.
    pub(crate) fn served(daemon: &Daemon, handle: &str, kind: Kind) -> Client {
        let port = kind.port(&daemon.info(handle).unwrap());
        Client::try_served(port, handle, kind).unwrap_or_else(|| panic!("{kind:?} was not served"))
    }

    /// The same, if that is possible at this moment.
    pub(crate) fn try_served(port: u16, handle: &str, kind: Kind) -> Option<Client> {
        let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let (first, again) = kind.words(handle);
        let mut client = Client { stream, kind, again };
        client.says(&first).then_some(client)
    }

    fn says(&mut self, words: &str) -> bool {
        self.stream.write_all(words.as_bytes()).is_ok() && self.hears()
    }

    /// Says something more.
    pub(crate) fn says_more(&mut self) {
        // It may have been ended by now.
        let _gone = self.stream.write_all(self.again.as_bytes());
    }

    /// Waits for an answer.
    ///
    /// # Errors
    /// If there is none in time; if the connection ends.
    pub(crate) fn listens(&mut self) -> std::io::Result<()> {
        let mut answer = [0; 4096];
        match self.stream.read(&mut answer)? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Whether there is an answer, and not the end.
    pub(crate) fn hears(&mut self) -> bool {
        self.listens().is_ok()
    }
}

/// What became of an instance, by its events.
pub(crate) fn kinds(daemon: &Daemon, handle: &str) -> Vec<String> {
    let events = daemon.ok(&["events", handle]);
    events.lines().filter_map(|line| line.split_whitespace().nth(3).map(str::to_owned)).collect()
}

fn connections(daemon: &Daemon, handle: &str) -> u64 {
    daemon.info(handle).unwrap()["active_connections"].as_u64().unwrap()
}

/// It stays stopped, though nobody prevents anybody from coming.
fn stays_stopped(daemon: &Daemon, handle: &str, before: usize) {
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        assert_eq!(daemon.state(handle), "stopped", "{:?}", kinds(daemon, handle));
        std::thread::sleep(Duration::from_millis(100));
    }
    let since = kinds(daemon, handle).split_off(before);
    assert_eq!(since, ["stopping", "stopped"], "nothing else happened");
}

#[test]
fn a_stop_stays_one_whatever_clients_do_that_were_connected() {
    let daemon = Daemon::start();
    start(&daemon, "s", &["--group", "team"]);
    let _out = daemon.ok(&[
        "instance", "start", "--name", "member", "--memory", "160", "--group", "team", "--", "sleep", "9999",
    ]);
    let chat = "import socket, time
s = socket.create_connection(('s.team', 80), 60)
while True:
    s.sendall(b'x'); said = s.recv(9); time.sleep(0.05)
    if not said: break
print('ended')";
    // Those that wait for the end and close; that say something then; that never look.
    for round in 0..3 {
        let mut clients: Vec<Client> =
            KINDS.into_iter().map(|kind| Client::served(&daemon, "s", kind)).collect();
        let mut member = daemon.spawn(&["exec", "member", "--", "python3", "-c", chat]);
        let others = u64::try_from(KINDS.len()).unwrap() - 1;
        eventually("the member is connected", DEADLINE, || connections(&daemon, "s") > others);
        let before = kinds(&daemon, "s").len();
        let waiting: Vec<_> = if round < 2 {
            let wait = |mut client: Client| {
                std::thread::spawn(move || {
                    while client.hears() {}
                    if round == 1 && client.kind != Kind::KeptAliveByName {
                        client.says_more();
                        client.says_more();
                    }
                })
            };
            clients.drain(..).map(wait).collect()
        } else {
            vec![]
        };
        assert_eq!(daemon.ok(&["instance", "stop", "s"]), "Instance s stopped\n");
        stays_stopped(&daemon, "s", before);
        for client in waiting {
            client.join().unwrap();
        }
        eventually("nobody is counted any more", DEADLINE, || connections(&daemon, "s") == 0);
        let _ended = member.wait().unwrap();
        drop(clients);
        assert_eq!(daemon.state("s"), "stopped");
        // A new connection is what starts it again.
        drop(Client::served(&daemon, "s", Kind::Tcp));
        assert_eq!(daemon.state("s"), "running");
    }
}

#[test]
fn whoever_comes_while_it_is_being_stopped_is_served_after_the_stop() {
    let daemon = Daemon::start();
    let slow = format!(
        "import signal, time\nsignal.signal(signal.SIGTERM, lambda *a: (time.sleep(2), exit()))\n{SERVER}"
    );
    let start = ["instance", "start", "--name", "s", "--memory", "192", "--expose", "80/tcp"];
    let _out = daemon.ok(&[&start[..], &["--", "python3", "-c", &slow]].concat());
    let port = Kind::Tcp.port(&daemon.info("s").unwrap());
    drop(Client::served(&daemon, "s", Kind::Tcp));
    let before = kinds(&daemon, "s").len();
    let mut stop = daemon.spawn(&["instance", "stop", "s"]);
    eventually("it is being stopped", DEADLINE, || kinds(&daemon, "s").len() > before);
    let mut late = TcpStream::connect(("127.0.0.1", port)).unwrap();
    late.set_read_timeout(Some(DEADLINE)).unwrap();
    late.write_all(b"late").unwrap();
    assert!(stop.wait().unwrap().success());
    let mut answer = [0; 4];
    late.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"late");
    let since = kinds(&daemon, "s").split_off(before);
    assert_eq!(since[..3], ["stopping", "stopped", "starting"], "{since:?}");
    becomes(&daemon, "s", "running");
}

/// Clients of every kind, which wait for the end, and say something to it.
fn waiting_clients(daemon: &Daemon) -> Vec<std::thread::JoinHandle<()>> {
    let clients: Vec<Client> = KINDS.into_iter().map(|kind| Client::served(daemon, "s", kind)).collect();
    let wait = |mut client: Client| {
        std::thread::spawn(move || {
            while client.hears() {}
            // By name this would be a request of its own.
            if client.kind != Kind::KeptAliveByName {
                client.says_more();
            }
        })
    };
    clients.into_iter().map(wait).collect()
}

#[test]
fn clients_of_a_machine_that_ends_by_itself_dies_or_goes_to_disk_wake_nothing() {
    let daemon = Daemon::start();
    start(&daemon, "s", &[]);
    drop(Client::served(&daemon, "s", Kind::Tcp));
    let end = |way: &str| match way {
        "by itself" => drop(daemon.aegis(&["exec", "s", "--", "pkill", "-o", "python3"])),
        "to disk" => drop(daemon.ok(&["instance", "hibernate", "s"])),
        _ => daemon.machines().into_iter().for_each(|pid| {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }),
    };
    for (way, state) in [("to disk", "hibernated"), ("by itself", "stopped"), ("killed", "stopped")] {
        let clients = waiting_clients(&daemon);
        end(way);
        becomes(&daemon, "s", state);
        for client in clients {
            client.join().unwrap();
        }
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(daemon.state("s"), state, "{:?}", kinds(&daemon, "s"));
        eventually("nobody is counted any more", DEADLINE, || connections(&daemon, "s") == 0);
        drop(Client::served(&daemon, "s", Kind::Tcp));
        assert_eq!(daemon.state("s"), "running");
    }
}

#[test]
fn a_pause_of_a_real_machine_under_requests_stays_one_and_loses_none_of_them() {
    let daemon = Daemon::start();
    start(&daemon, "s", &[]);
    let over = Arc::new(AtomicBool::new(false));
    let chats: Vec<_> = [Kind::Tcp, Kind::Tcp, Kind::KeptAlive, Kind::WebSocketByName]
        .into_iter()
        .map(|kind| {
            let (mut client, over) = (Client::served(&daemon, "s", kind), Arc::clone(&over));
            std::thread::spawn(move || {
                let mut count = 0;
                while !over.load(Ordering::Relaxed) {
                    client.says_more();
                    assert!(client.hears(), "{kind:?}: no answer to request {count}");
                    count += 1;
                }
                count
            })
        })
        .collect();
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(300));
        let before = kinds(&daemon, "s").iter().filter(|kind| *kind == "running").count();
        let said = daemon.ok(&["instance", "pause", "s"]);
        assert_eq!(said, "Instance s paused; 4 clients are connected and wait until it goes on\n");
        std::thread::sleep(Duration::from_secs(2));
        let after = kinds(&daemon, "s").iter().filter(|kind| *kind == "running").count();
        assert_eq!((daemon.state("s").as_str(), after), ("paused", before));
        let _out = daemon.ok(&["instance", "resume", "s"]);
    }
    over.store(true, Ordering::Relaxed);
    for chat in chats {
        assert!(chat.join().unwrap() > 3);
    }
}
