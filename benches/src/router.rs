//! The router's own share: before servers of this host, beside HAProxy and nginx in the same run.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::report::{Figure, Report, percentile};

/// Bytes that one connection carries alone.
const ALONE: u64 = 1 << 30;
/// Connections that carry together, and bytes of each.
const MANY: u64 = 100;
const EACH: u64 = 10 << 20;

/// A process that ends with this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended needs no end.
        let _gone = self.0.kill().and_then(|()| self.0.wait());
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}

fn wait_for(port: u16) {
    let begun = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(10), "nothing listens on port {port}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// For each connection: reads how many bytes are wanted, and sends them.
fn source() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    rustix::net::listen(&listener, 1024).expect("a long queue");
    let port = listener.local_addr().expect("its address").port();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut wanted = [0; 8];
                if client.read_exact(&mut wanted).is_err() {
                    return;
                }
                let mut left = u64::from_be_bytes(wanted);
                let piece = vec![7; 256 << 10];
                while left > 0 {
                    let count = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
                    match client.write(piece.get(..count).unwrap_or_default()) {
                        Ok(written @ 1..) => left -= written as u64,
                        _ => return,
                    }
                }
            });
        }
    });
    port
}

fn fetch(port: u16, wanted: u64) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
    stream.write_all(&wanted.to_be_bytes()).expect("ask");
    let mut buffer = vec![0; 256 << 10];
    let mut total = 0;
    while total < wanted {
        match stream.read(&mut buffer).expect("read") {
            0 => break,
            count => total += count as u64,
        }
    }
    assert_eq!(total, wanted, "all that was asked for");
}

/// Connects and has the first byte: one that the source sends when asked for it.
fn first_byte_ms(port: u16) -> f64 {
    let begun = Instant::now();
    fetch(port, 1);
    begun.elapsed().as_secs_f64() * 1e3
}

fn rate(port: u16, connections: u64, each: u64) -> f64 {
    let begun = Instant::now();
    let clients: Vec<_> = (0..connections).map(|_| std::thread::spawn(move || fetch(port, each))).collect();
    clients.into_iter().for_each(|client| client.join().expect("a client"));
    (connections * each) as f64 / 1e6 / begun.elapsed().as_secs_f64()
}

fn haproxy(dir: &Path, to: u16) -> (Running, u16) {
    let port = free_port();
    let config = format!(
        "global\n nbthread 2\n maxconn 4000\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n \
         timeout server 60s\nfrontend f\n bind 127.0.0.1:{port}\n default_backend b\nbackend b\n server s 127.0.0.1:{to}\n"
    );
    let path = dir.join("haproxy.cfg");
    std::fs::write(&path, config).expect("write a configuration");
    let child = Command::new("haproxy").arg("-f").arg(&path).stderr(Stdio::null()).spawn();
    let child = Running(child.expect("start haproxy; install it with: scripts/dependencies bench"));
    wait_for(port);
    (child, port)
}

/// Two servers: one that answers, and one that passes requests on to it.
fn nginx(dir: &Path) -> (Running, u16, u16) {
    let (server, proxy) = (free_port(), free_port());
    let config = format!(
        "daemon off; worker_processes 2; pid {0}/nginx.pid; error_log {0}/error.log; user root;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; client_body_temp_path {0}; proxy_temp_path {0}; fastcgi_temp_path {0};\n\
         uwsgi_temp_path {0}; scgi_temp_path {0}; keepalive_requests 1000000;\n\
         upstream u {{ server 127.0.0.1:{server}; keepalive 64; keepalive_requests 1000000; }}\n\
         server {{ listen 127.0.0.1:{server} backlog=4096; location / {{ return 200 'hello from the server'; }} }}\n\
         server {{ listen 127.0.0.1:{proxy} backlog=4096; location / {{ proxy_pass http://u; proxy_http_version 1.1;\n\
         proxy_set_header Connection ''; proxy_set_header Host $host; }} }} }}\n",
        dir.display()
    );
    let path = dir.join("nginx.conf");
    std::fs::write(&path, config).expect("write a configuration");
    let child = Command::new("nginx").arg("-c").arg(&path).arg("-e").arg(dir.join("start.log")).spawn();
    let child = Running(child.expect("start nginx; install it with: scripts/dependencies bench"));
    wait_for(proxy);
    (child, server, proxy)
}

fn host_router(tcp: u16, http: u16) -> (Running, u16, u16) {
    let own = std::env::current_exe().expect("this program").with_file_name("host-router");
    let mut command = Command::new(own);
    command.args([tcp.to_string(), http.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("start the router");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("its output");
    BufReader::new(stdout).read_line(&mut line).expect("its ports");
    let ports: Vec<u16> = line.split_whitespace().map(|word| word.parse().expect("a port")).collect();
    let [public, names] = ports.try_into().expect("two ports");
    (Running(child), public, names)
}

/// Requests per second, as wrk counts them.
fn requests(port: u16) -> f64 {
    let url = format!("http://127.0.0.1:{port}/");
    let output =
        Command::new("wrk").args(["-t2", "-c32", "-d3s", "-H", "Host: host.localhost", &url]).output();
    let output = output.expect("run wrk; install it with: scripts/dependencies bench");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!text.contains("Non-2xx"), "{text}");
    let line = text.lines().find_map(|line| line.strip_prefix("Requests/sec:")).expect("a rate");
    line.trim().parse().expect("a number")
}

/// Measures all of it.
pub(crate) fn measure(report: &mut Report, rounds: usize) {
    let dir = tempfile::tempdir().expect("a directory");
    let tcp = source();
    let (_nginx, http, nginx_proxy) = nginx(dir.path());
    let (_router, public, names) = host_router(tcp, http);
    let (_haproxy, haproxy_port) = haproxy(dir.path(), tcp);
    set_up(report, tcp, public, rounds * 40);
    for (name, connections, each) in
        [("router throughput, one connection", 1, ALONE), ("router throughput, 100 connections", MANY, EACH)]
    {
        let (mut ours, mut yardstick) = (Vec::new(), Vec::new());
        for _ in 0..rounds.div_ceil(3) {
            yardstick.push(rate(haproxy_port, connections, each));
            ours.push(rate(public, connections, each));
        }
        report.at_least_ratio(name, "MB/s", ours, "HAProxy in TCP mode", yardstick, 0.8);
    }
    let (mut ours, mut yardstick) = (Vec::new(), Vec::new());
    for _ in 0..rounds.div_ceil(3) {
        yardstick.push(requests(nginx_proxy));
        ours.push(requests(names));
    }
    report.at_least_ratio(
        "requests through the name router",
        "1/s",
        ours,
        "nginx as reverse proxy, upstream kept alive",
        yardstick,
        0.6,
    );
}

fn set_up(report: &mut Report, direct: u16, public: u16, samples: usize) {
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..samples {
        without.push(first_byte_ms(direct));
        with.push(first_byte_ms(public));
    }
    let base = percentile(&without, 0.5);
    let share = with.iter().map(|sample| sample - base).collect();
    report.add(Figure::at_most("connection set-up, the router's own share", "ms", share, 0.3));
    report.add(Figure::plain("  against the same connection without the router", "ms", without));
}
