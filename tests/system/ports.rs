//! Ports: exposed, kept, taken, withdrawn; and whoever connects wakes what rests.
//!
//! On the fake monitor a guest's ports are this host's: the servers are the tests' own, so that they see everything.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;

use aegis_tests::{DEADLINE, Daemon, eventually};
use serde_json::Value;

pub(crate) fn daemon() -> Daemon {
    Daemon::start_with(&[
        ("AEGIS_FAKE_GUEST", env!("CARGO_BIN_EXE_fake-guest")),
        ("AEGIS_LOG", "info,aegis_router=debug"),
    ])
}

/// Starts an instance that sleeps, with these ports.
pub(crate) fn start(daemon: &Daemon, handle: &str, exposes: &[String]) {
    let mut arguments = vec!["instance", "start", "--name", handle, "--workdir", "/tmp"];
    for expose in exposes {
        arguments.extend(["--expose", expose]);
    }
    arguments.extend(["--", "sleep", "1000"]);
    assert!(daemon.ok(&arguments).contains("Instance started"));
}

/// A server in the place of the guest's: serves each connection by `serve`, in a thread of its own.
pub(crate) fn server(serve: impl Fn(TcpStream) + Clone + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // A short queue that overflows makes the kernel reset connections, and that is nothing to be tested here.
    rustix::net::listen(&listener, 4096).unwrap();
    let port = listener.local_addr().unwrap().port();
    // Ends with the test.
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let serve = serve.clone();
            std::thread::spawn(move || serve(client));
        }
    });
    port
}

pub(crate) fn echo(mut client: TcpStream) {
    let mut reading = client.try_clone().unwrap();
    let _gone = std::io::copy(&mut reading, &mut client);
    let _gone = client.shutdown(Shutdown::Write);
}

pub(crate) fn public_port(daemon: &Daemon, handle: &str, at: usize) -> u16 {
    let info: Value = daemon.info(handle).unwrap();
    info["endpoints"][at]["public_port"].as_u64().unwrap().try_into().unwrap()
}

pub(crate) fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// What comes back for a line, on a connection of its own.
pub(crate) fn ask(port: u16) -> std::io::Result<String> {
    let mut stream = connect(port);
    stream.write_all(b"hello")?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn kinds(daemon: &Daemon, handle: &str) -> Vec<String> {
    let out = daemon.ok(&["events", handle, "--output", "json"]);
    let events = out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.map(|event| event["kind"].as_str().unwrap().to_owned()).collect()
}

pub(crate) fn count(daemon: &Daemon, handle: &str, kind: &str) -> usize {
    kinds(daemon, handle).iter().filter(|one| *one == kind).count()
}

#[test]
fn a_connection_wakes_what_is_paused_and_what_is_stopped_and_not_what_is_disabled() {
    let daemon = daemon();
    let guest = server(echo);
    start(&daemon, "web", &[format!("{guest}/tcp")]);
    let port = public_port(&daemon, "web", 0);
    assert_eq!(ask(port).unwrap(), "hello");
    for verb in ["pause", "stop"] {
        assert_eq!(daemon.aegis(&["instance", verb, "web"]).code, 0);
        assert_eq!(ask(port).unwrap(), "hello", "after {verb}");
        assert_eq!(daemon.state("web"), "running");
    }
    assert_eq!(daemon.aegis(&["instance", "disable", "web"]).code, 0);
    let refused = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert!(daemon.ok(&["instance", "info", "web"]).contains("closed: the instance is disabled"));
    assert_eq!(daemon.aegis(&["instance", "start", "--name", "web"]).code, 0);
    assert_eq!((public_port(&daemon, "web", 0), ask(port).unwrap().as_str()), (port, "hello"));
}

#[test]
fn a_natural_exit_leaves_the_port_open_and_the_next_connection_starts_the_command_again() {
    let daemon = daemon();
    let guest = server(echo);
    let expose = format!("{guest}/tcp");
    let line = [
        "instance",
        "start",
        "--name",
        "brief",
        "--workdir",
        "/tmp",
        "--expose",
        &expose,
        "--",
        "sleep",
        "0.2",
    ];
    assert_eq!(daemon.aegis(&line).code, 0);
    eventually("its command has ended", DEADLINE, || daemon.state("brief") == "stopped");
    assert_eq!(
        daemon.aegis(&["exec", "brief", "--", "true"]).code,
        125,
        "an exec does not start what has ended"
    );
    assert_eq!(ask(public_port(&daemon, "brief", 0)).unwrap(), "hello");
    assert_eq!(count(&daemon, "brief", "starting"), 2);
}

#[test]
fn a_daemon_that_ends_boots_nothing_for_whoever_connects_then() {
    let daemon = daemon();
    let port = server(echo);
    let expose = format!("{port}/tcp");
    let slow = "trap 'sleep 1; exit' TERM; while :; do sleep 0.1; done";
    let start =
        ["instance", "start", "--name", "box", "--workdir", "/tmp", "--expose", &expose, "--", "sh", "-c"];
    assert!(daemon.ok(&[&start[..], &[slow]].concat()).contains("Instance started"));
    let public = public_port(&daemon, "box", 0);
    assert_eq!(ask(public).unwrap(), "hello");
    let mut down = daemon.spawn(&["down"]);
    let mut clients = Vec::new();
    while down.try_wait().unwrap().is_none() {
        // Refused as soon as the port is closed.
        clients.extend(TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], public))));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(clients.len() > 10, "{}", clients.len());
    assert_eq!(aegis_tests::wait(down, None).code, 0);
    drop(clients);
    daemon.up();
    assert_eq!(daemon.state("box"), "stopped");
    assert_eq!(count(&daemon, "box", "starting"), 1);
    // It is not forgotten that it is enabled.
    assert_eq!(ask(public).unwrap(), "hello");
}

#[test]
fn a_thousand_connections_wake_it_once_and_all_are_served() {
    // Both ends of each are here.
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let daemon = daemon();
    let guest = server(echo);
    start(&daemon, "web", &[format!("{guest}/tcp")]);
    let port = public_port(&daemon, "web", 0);
    for (verb, event) in [("pause", "running"), ("stop", "starting")] {
        assert_eq!(daemon.aegis(&["instance", verb, "web"]).code, 0);
        let before = count(&daemon, "web", event);
        let mut clients: Vec<TcpStream> = (0..1000).map(|_| connect(port)).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            client.write_all(&number.to_be_bytes()).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        }
        for (number, client) in clients.iter_mut().enumerate() {
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).unwrap();
            assert_eq!(answer, number.to_be_bytes(), "after {verb}");
        }
        assert_eq!(count(&daemon, "web", event), before + 1, "after {verb}");
    }
}

#[test]
fn a_port_that_is_taken_is_refused_with_the_name_of_its_holder_and_nothing_is_created() {
    let daemon = daemon();
    start(&daemon, "first", &["80".to_owned()]);
    let port = public_port(&daemon, "first", 0);
    let done = daemon.aegis(&[
        "instance",
        "start",
        "--name",
        "second",
        "--expose",
        &format!("{port}:80"),
        "--",
        "true",
    ]);
    assert_eq!(done.code, 1);
    let expected = format!("port 127.0.0.1:{port} is taken by port 80 of the instance \"first\"");
    assert!(done.err().contains(&expected), "{}", done.err());
    assert_eq!(daemon.state("second"), "gone");
    let own = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = own.local_addr().unwrap().port();
    let done = daemon.aegis(&["instance", "expose", "first", &format!("{port}:81")]);
    assert_eq!(done.code, 1);
    assert!(done.err().contains(&format!("(pid {})", std::process::id())), "{}", done.err());
    assert_eq!(daemon.info("first").unwrap()["endpoints"].as_array().unwrap().len(), 1);
}

#[test]
fn ports_are_exposed_and_withdrawn_in_every_state_and_contradictions_are_refused() {
    let daemon = daemon();
    let guest = server(echo);
    start(&daemon, "box", &[]);
    for verb in ["resume", "pause", "stop", "disable"] {
        assert_eq!(daemon.aegis(&["instance", verb, "box"]).code, 0, "{verb}");
        let line = daemon.ok(&["instance", "expose", "box", &format!("{guest}/tcp")]);
        let port = public_port(&daemon, "box", 0);
        assert!(line.starts_with(&format!(":{guest} → 127.0.0.1:{port} (tcp)")), "{line}");
        assert_eq!(
            daemon.ok(&["instance", "expose", "box", &format!("{port}:{guest}/tcp")]),
            line,
            "once is enough"
        );
        for contradiction in [format!("{guest}/http"), format!("{}:{guest}/tcp", port ^ 1)] {
            let done = daemon.aegis(&["instance", "expose", "box", &contradiction]);
            assert!(done.code == 1 && done.err().contains("is exposed as"), "{}", done.err());
        }
        if verb != "disable" {
            assert_eq!(ask(port).unwrap(), "hello", "{verb}");
        }
        for _ in 0..2 {
            assert_eq!(daemon.aegis(&["instance", "unexpose", "box", &guest.to_string()]).code, 0);
        }
        assert!(TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).is_err());
    }
    let done = daemon.aegis(&["instance", "expose", "box", "80:http"]);
    assert_eq!(done.code, 2);
    assert!(done.err().contains("80/http"), "{}", done.err());
}

#[test]
fn random_ports_stay_over_stop_crash_and_restart_and_a_lost_one_is_shown_and_not_replaced() {
    let daemon = daemon();
    let guest = server(echo);
    start(&daemon, "web", &[format!("{guest}/tcp"), "81".to_owned(), "82-84".to_owned()]);
    let ports = |daemon: &Daemon| (0..5).map(|at| public_port(daemon, "web", at)).collect::<Vec<u16>>();
    let before = ports(&daemon);
    assert_eq!(daemon.aegis(&["instance", "stop", "web"]).code, 0);
    daemon.crash();
    daemon.up();
    assert_eq!(ports(&daemon), before);
    assert_eq!(ask(before[0]).unwrap(), "hello", "the first connection after a crash is served");
    daemon.crash();
    // The dead daemon's last thread may hold it for a moment.
    let mut thief = None;
    eventually("the port is free", DEADLINE, || {
        thief = TcpListener::bind(("127.0.0.1", before[1])).ok();
        thief.is_some()
    });
    daemon.up();
    assert_eq!(ports(&daemon), before);
    let info = daemon.info("web").unwrap();
    let problem = info["endpoints"][1]["problem"].as_str().unwrap().to_owned();
    assert!(problem.contains(&format!("(pid {})", std::process::id())), "{problem}");
    assert_eq!(info["endpoints"][0]["problem"], Value::Null);
    assert_eq!(ask(before[0]).unwrap(), "hello", "and so is one to a machine that outlived it");
    drop(thief);
    assert!(daemon.ok(&["instance", "expose", "web", "81"]).contains(&before[1].to_string()));
    assert_eq!(daemon.info("web").unwrap()["endpoints"][1]["problem"], Value::Null);
}

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
