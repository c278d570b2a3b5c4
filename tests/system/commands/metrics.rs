//! What is counted: `stats` and `/metrics`.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;

use aegis_tests::{DEADLINE, Daemon, eventually};
use serde_json::Value;

/// What `/metrics` says, as text.
fn metrics(daemon: &Daemon) -> String {
    let mut stream = UnixStream::connect(daemon.root().join("aegisd.sock")).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn value(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

/// Starts an instance whose guest has a server that answers all that it is sent with 1,000 bytes. Returns its public port.
fn serve(daemon: &Daemon) -> u16 {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let guest = server.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut client in server.incoming().flatten() {
            let mut all = Vec::new();
            client.read_to_end(&mut all).unwrap();
            client.write_all(&[1; 1000]).unwrap();
        }
    });
    let expose = format!("{guest}/tcp");
    let start = [
        "instance",
        "start",
        "--name",
        "web",
        "--workdir",
        "/tmp",
        "--expose",
        &expose,
        "--",
        "sleep",
        "1000",
    ];
    assert_eq!(daemon.aegis(&start).code, 0);
    let port = daemon.info("web").unwrap()["endpoints"][0]["public_port"].as_u64().unwrap();
    u16::try_from(port).unwrap()
}

#[test]
fn connections_bytes_wakes_and_execs_are_counted() {
    let daemon = Daemon::start_with(&[("AEGIS_FAKE_GUEST", env!("CARGO_BIN_EXE_fake-guest"))]);
    let port = serve(&daemon);
    let poke = || {
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        client.write_all(b"ten bytes!").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).unwrap();
        assert_eq!(rest.len(), 1000);
    };
    poke();
    assert_eq!(daemon.aegis(&["instance", "pause", "web"]).code, 0);
    poke();
    assert_eq!(daemon.aegis(&["instance", "stop", "web"]).code, 0);
    poke();
    assert_eq!(daemon.aegis(&["exec", "web", "--", "true"]).code, 0);
    let text = metrics(&daemon);
    for (name, expected) in [
        ("aegis_connections_total", 3.0),
        ("aegis_connection_bytes_total{direction=\"to_guest\"}", 30.0),
        ("aegis_connection_bytes_total{direction=\"from_guest\"}", 3000.0),
        ("aegis_wake_seconds_count{state=\"paused\"}", 1.0),
        ("aegis_wake_seconds_count{state=\"stopped\"}", 1.0),
        ("aegis_exec_seconds_count", 1.0),
        ("aegis_instances{state=\"running\"}", 1.0),
        ("aegis_instances{state=\"paused\"}", 0.0),
    ] {
        assert!((value(&text, name) - expected).abs() < 0.01, "{name} in {text}");
    }
    assert!(value(&text, "process_open_fds") > 3.0);
    let stats: Value = serde_json::from_str(&daemon.ok(&["stats", "--output", "json"])).unwrap();
    assert_eq!(
        (stats[0]["received_bytes"].as_u64(), stats[0]["sent_bytes"].as_u64()),
        (Some(30), Some(3000))
    );
    assert!(stats[0]["memory_bytes"].as_u64().unwrap() > 0);
    let table = daemon.ok(&["stats", "web"]);
    assert!(table.contains("INSTANCE") && table.contains("web") && table.contains("running"), "{table}");
}

/// Memory of the daemon that is no file's, MiB.
fn resident_mib(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
}

#[test]
fn a_burst_of_connections_leaves_no_memory_taken() {
    let daemon = Daemon::start_with(&[("AEGIS_FAKE_GUEST", env!("CARGO_BIN_EXE_fake-guest"))]);
    let port = serve(&daemon);
    let before = resident_mib(&daemon);
    for _ in 0..6 {
        // As many as may wait for that server.
        let mut burst: Vec<_> = (0..100).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
        for connection in &mut burst {
            connection.write_all(&[7; 64 << 10]).unwrap();
            connection.shutdown(Shutdown::Write).unwrap();
        }
        for connection in &mut burst {
            let mut all = Vec::new();
            connection.read_to_end(&mut all).unwrap();
            assert_eq!(all.len(), 1000);
        }
    }
    let socket = daemon.root().join("aegisd.sock");
    for _ in 0..3 {
        let burst: Vec<_> = (0..600)
            .map(|_| {
                let mut connection = UnixStream::connect(&socket).unwrap();
                connection.write_all(b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
                connection
            })
            .collect();
        drop(burst);
    }
    let mut after = 0;
    eventually("it is given back", DEADLINE, || {
        after = resident_mib(&daemon);
        after <= before + 20
    });
}
