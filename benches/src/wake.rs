//! Waking: from a connection to the first byte of a server in a guest.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::daemon::{self, Daemon};
use crate::report::{Figure, Report, percentile};
use crate::timed;

/// A server that answers each connection with a few words of HTTP, at once and from one process.
const SERVER: &str = r#"
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("127.0.0.1", 80))
s.listen(1024)
while True:
    c, _ = s.accept()
    c.recv(4096)
    c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
    c.close()
"#;

fn start(daemon: &Daemon, handle: &str) -> u16 {
    start_with(daemon, handle, "")
}

/// Starts the server, with these lines before it.
pub(crate) fn start_with(daemon: &Daemon, handle: &str, before: &str) -> u16 {
    let out = daemon.aegis(&[
        "instance",
        "start",
        "--name",
        handle,
        "--memory",
        "256",
        "--expose",
        "80",
        "--idle-pause",
        "never",
        "--",
        "python3",
        "-c",
        &format!("{before}{SERVER}"),
    ]);
    let line = out.lines().find(|line| line.starts_with(":80 ")).expect("an endpoint");
    line.split([':', ' ']).filter_map(|word| word.parse().ok()).nth(1).expect("a port")
}

/// From the connection to the first byte of the reply.
pub(crate) fn first_byte_ms(port: u16) -> f64 {
    let begun = Instant::now();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("ask");
    let mut first = [0; 1];
    stream.read_exact(&mut first).expect("a reply");
    let elapsed = begun.elapsed().as_secs_f64() * 1e3;
    let mut rest = Vec::new();
    // The rest is of no interest, but it is to be over.
    let _gone = stream.read_to_end(&mut rest);
    elapsed
}

/// Measures wakes from both rests.
pub(crate) fn measure(report: &mut Report, rounds: usize) {
    let daemon = Daemon::start();
    let port = start(&daemon, "web");
    first_byte_ms(port);
    let (mut running, mut paused) = (Vec::new(), Vec::new());
    for _ in 0..rounds * 8 {
        running.push(first_byte_ms(port));
        daemon.aegis(&["instance", "pause", "web"]);
        paused.push(first_byte_ms(port));
    }
    let base = percentile(&running, 0.5);
    let share: Vec<f64> = paused.iter().map(|sample| sample - base).collect();
    let p99 = percentile(&share, 0.99);
    report.add(Figure::at_most("wake from paused, over the same while running: p50", "ms", share, 3.0));
    report.add(Figure::at_most("wake from paused, over the same while running: p99", "ms", vec![p99], 10.0));
    report.add(Figure::plain("  against connect to first byte while running", "ms", running));

    // The yardstick: a command that boots and ends when the same server is ready, without a connection.
    let ready = SERVER.split("while True").next().unwrap_or_default();
    let (mut stopped, mut boots) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        boots.push(timed(|| drop(daemon.aegis(&["run", "--memory", "256", "--", "python3", "-c", ready]))));
        daemon.aegis(&["instance", "stop", "web"]);
        stopped.push(first_byte_ms(port));
    }
    report.ratio(
        "wake from stopped: connect to first byte",
        "ms",
        stopped,
        "run of a command that ends when the same server is ready",
        boots,
        1.2,
    );
}

/// Real machines among the paused ones.
const REAL: usize = 40;
/// All of them.
const PAUSED: usize = 200;

fn pause_many(daemon: &Daemon, count: usize, options: &[&str]) {
    for number in 0..count {
        let handle = format!("rest-{number}");
        let head = ["instance", "start", "--name", &handle, "--expose", "80/tcp"];
        daemon.aegis(&[&head[..], options, &["--", "sleep", "infinity"]].concat());
        daemon.aegis(&["instance", "pause", &handle]);
    }
}

/// Measures the daemon beside many paused instances: one daemon with real ones, one with the rest on the fake monitor.
pub(crate) fn many_paused(report: &mut Report) {
    let (real, fake) = (Daemon::start(), Daemon::start_with_fake());
    pause_many(&real, REAL, &["--memory", "128"]);
    pause_many(&fake, PAUSED - REAL, &["--workdir", "/tmp"]);
    std::thread::sleep(Duration::from_secs(2));
    let used = || daemon::cpu_ms(real.pid()) + daemon::cpu_ms(fake.pid());
    let (before, begun) = (used(), Instant::now());
    std::thread::sleep(Duration::from_secs(60));
    let cpu = (used() - before) / (begun.elapsed().as_secs_f64() * 1e3) * 100.0;
    let name = "daemon CPU with 200 paused instances, 40 of them real";
    report.add(Figure::at_most(name, "% of a core", vec![cpu], 0.1));
}
