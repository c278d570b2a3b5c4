//! What a client sees through the router is what it would see without it: ends, resets, back-pressure.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread::JoinHandle;

use aegis_tests::{DEADLINE, Daemon, eventually};

use super::ports::{ask, connect, daemon, echo, public_port, server, start};

/// What a client sees of a connection: the bytes, and how it ended.
fn witness(port: u16, act: fn(&mut TcpStream)) -> (Vec<u8>, Option<ErrorKind>) {
    let mut client = connect(port);
    act(&mut client);
    let mut seen = Vec::new();
    let ended = client.read_to_end(&mut seen);
    (seen, ended.err().map(|error| error.kind()))
}

fn reset(client: TcpStream) {
    rustix::net::sockopt::set_socket_linger(&client, Some(std::time::Duration::ZERO)).unwrap();
}

#[test]
fn a_client_sees_what_it_would_see_without_the_router() {
    type Case = (&'static str, fn(TcpStream), fn(&mut TcpStream));
    let cases: [Case; 5] = [
        (
            "the server ends its half and goes on reading",
            |mut client| {
                client.write_all(b"greeting").unwrap();
                client.shutdown(Shutdown::Write).unwrap();
                let mut rest = Vec::new();
                client.read_to_end(&mut rest).unwrap();
            },
            |client| client.write_all(b"to be read").unwrap(),
        ),
        (
            "the server speaks first",
            |mut client| {
                client.write_all(b"220 ready\r\n").unwrap();
                echo(client);
            },
            |client| {
                let mut banner = [0; 11];
                client.read_exact(&mut banner).unwrap();
                assert_eq!(&banner, b"220 ready\r\n");
                client.write_all(b"helo").unwrap();
                client.shutdown(Shutdown::Write).unwrap();
            },
        ),
        (
            "the client ends its half first",
            |mut client| {
                let mut all = Vec::new();
                client.read_to_end(&mut all).unwrap();
                client.write_all(&all).unwrap();
            },
            |client| {
                client.write_all(&[7; 300_000]).unwrap();
                client.shutdown(Shutdown::Write).unwrap();
            },
        ),
        (
            "the server resets",
            |mut client| {
                let mut first = [0; 1];
                client.read_exact(&mut first).unwrap();
                reset(client);
            },
            |client| client.write_all(b"x").unwrap(),
        ),
        (
            "the server closes with bytes unread",
            |mut client| {
                let mut first = [0; 1];
                client.read_exact(&mut first).unwrap();
            },
            |client| client.write_all(&[1; 1000]).unwrap(),
        ),
    ];
    let daemon = daemon();
    start(&daemon, "web", &[]);
    for (name, serve, act) in cases {
        let guest = server(serve);
        assert_eq!(daemon.aegis(&["instance", "expose", "web", &format!("{guest}/tcp")]).code, 0);
        let endpoints = daemon.info("web").unwrap()["endpoints"].as_array().unwrap().len();
        let public = public_port(&daemon, "web", endpoints - 1);
        assert_eq!(witness(public, act), witness(guest, act), "{name}");
    }
}

#[test]
fn a_client_that_resets_is_a_reset_for_the_server() {
    let (tell, told) = std::sync::mpsc::channel();
    let guest = server(move |mut client| {
        let mut all = Vec::new();
        let ended = client.read_to_end(&mut all).map_err(|error| error.kind());
        tell.send((all, ended)).unwrap();
    });
    let daemon = daemon();
    start(&daemon, "web", &[format!("{guest}/tcp")]);
    let mut client = connect(public_port(&daemon, "web", 0));
    client.write_all(b"x").unwrap();
    eventually("it is connected", DEADLINE, || daemon.info("web").unwrap()["active_connections"] == 1);
    reset(client);
    let (_, ended) = told.recv_timeout(DEADLINE).unwrap();
    assert_eq!(ended, Err(ErrorKind::ConnectionReset));
}

#[test]
fn a_server_that_never_reads_holds_its_client_up_and_nothing_else() {
    let guest = server(|client| {
        std::thread::sleep(DEADLINE);
        drop(client);
    });
    let daemon = daemon();
    start(&daemon, "web", &[format!("{guest}/tcp")]);
    let port = public_port(&daemon, "web", 0);
    let flood = |port| -> JoinHandle<u64> {
        std::thread::spawn(move || {
            let mut client = connect(port);
            client.set_write_timeout(Some(std::time::Duration::from_secs(2))).unwrap();
            let mut sent = 0;
            while let Ok(count) = client.write(&[0; 64 << 10]) {
                sent += count as u64;
                if sent > 1 << 30 {
                    break;
                }
            }
            sent
        })
    };
    let floods: Vec<_> = (0..8).map(|_| flood(port)).collect();
    for flood in floods {
        let sent = flood.join().unwrap();
        assert!(sent < 64 << 20, "{sent} bytes were taken from a client whose server reads nothing");
    }
    assert_eq!(daemon.ok(&["exec", "web", "--", "echo", "well"]), "well\n");
}

#[test]
fn a_server_that_comes_up_soon_after_the_wake_is_waited_for() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let daemon = daemon();
    start(&daemon, "web", &[format!("{free}/tcp")]);
    let port = public_port(&daemon, "web", 0);
    let waiting = std::thread::spawn(move || ask(port));
    eventually("it waits", DEADLINE, || daemon.info("web").unwrap()["active_connections"] == 1);
    let listener = TcpListener::bind(("127.0.0.1", free)).unwrap();
    let (client, _) = listener.accept().unwrap();
    echo(client);
    assert_eq!(waiting.join().unwrap().unwrap(), "hello");
}

/// Memory of the daemon, KiB.
fn resident_kib(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn a_gigabyte_to_a_slow_reader_arrives_whole_and_costs_the_daemon_no_memory() {
    use sha2::{Digest, Sha256};
    const PIECES: u64 = 4096;
    const PIECE: usize = 256 << 10;
    let piece = |number: u64| {
        let mut bytes = vec![0; PIECE];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        bytes
    };
    let guest = server(move |mut client| {
        for number in 0..PIECES {
            client.write_all(&piece(number)).unwrap();
        }
    });
    let mut expected = Sha256::new();
    (0..PIECES).for_each(|number| expected.update(piece(number)));
    let daemon = daemon();
    start(&daemon, "web", &[format!("{guest}/tcp")]);
    let mut client = connect(public_port(&daemon, "web", 0));
    let before = resident_kib(&daemon);
    let (mut seen, mut buffer, mut total, mut most) = (Sha256::new(), vec![0; 1 << 20], 0, before);
    loop {
        if total % (1 << 20) < (64 << 10) {
            // The writer could do many times that.
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        match client.read(&mut buffer).unwrap() {
            0 => break,
            count => {
                seen.update(&buffer[..count]);
                total += count;
            }
        }
        if total % (64 << 20) < 1 << 20 {
            most = most.max(resident_kib(&daemon));
        }
    }
    assert_eq!(total as u64, PIECES * PIECE as u64);
    assert!(seen.finalize() == expected.finalize(), "the bytes differ");
    assert!(most < before + (32 << 10), "the daemon grew from {before} to {most} KiB");
}
