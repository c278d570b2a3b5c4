//! Connections to what stands still: kept, counted, carried when it goes on, and ended by nothing deeper.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aegis_tests::{DEADLINE, eventually};
use serde_json::Value;

use crate::network::ports::{connect, count, daemon, echo, public_port, server, start};

#[test]
fn an_explicit_pause_keeps_connections_open_and_the_next_byte_wakes_it() {
    let daemon = daemon();
    let guest = server(echo);
    start(&daemon, "web", &[format!("{guest}/tcp")]);
    let mut client = connect(public_port(&daemon, "web", 0));
    let mut answer = [0; 1];
    for round in 0..3u8 {
        client.write_all(&[round]).unwrap();
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [round]);
        assert_eq!(daemon.aegis(&["instance", "pause", "web"]).code, 0);
        assert_eq!(daemon.state("web"), "paused");
        assert_eq!(daemon.info("web").unwrap()["active_connections"], 1);
    }
}

/// Asks and hears, over and over, until it is told to end; returns how often.
fn chat(port: u16, over: &AtomicBool) -> u64 {
    let mut client = connect(port);
    let mut count = 0u64;
    while !over.load(Ordering::Relaxed) {
        let mut answer = [0; 8];
        client.write_all(&count.to_le_bytes()).unwrap();
        client.read_exact(&mut answer).unwrap();
        assert_eq!(u64::from_le_bytes(answer), count);
        count += 1;
    }
    count
}

#[test]
fn a_pause_in_the_middle_of_requests_says_who_waits_stays_one_and_they_are_answered_when_it_goes_on() {
    let daemon = daemon();
    let guest = server(echo);
    start(&daemon, "web", &[format!("{guest}/tcp")]);
    let port = public_port(&daemon, "web", 0);
    let over = Arc::default();
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let over = Arc::clone(&over);
            std::thread::spawn(move || chat(port, &over))
        })
        .collect();
    eventually("they are connected", DEADLINE, || daemon.info("web").unwrap()["active_connections"] == 4);
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(100));
        let before = count(&daemon, "web", "running");
        let said = daemon.ok(&["instance", "pause", "web"]);
        assert_eq!(said, "Instance web paused; 4 clients are connected and wait until it goes on\n");
        std::thread::sleep(Duration::from_secs(1));
        let info: Value = daemon.info("web").unwrap();
        assert_eq!((&info["state"], count(&daemon, "web", "running")), (&Value::from("paused"), before));
        assert_eq!((&info["kept_awake_by"], &info["next_step"]), (&serde_json::json!([]), &Value::Null));
        assert!(info["condition"].as_str().unwrap().starts_with("paused with 4 connections open"), "{info}");
        assert_eq!(daemon.ok(&["instance", "resume", "web"]), "Instance web resumed\n");
    }
    over.store(true, Ordering::Relaxed);
    for client in clients {
        assert!(client.join().unwrap() > 5);
    }
}

#[test]
fn a_silent_connection_may_stop_counting_and_its_next_byte_wakes_the_instance() {
    let daemon = daemon();
    let guest = server(echo);
    let line = [
        "instance",
        "start",
        "--name",
        "web",
        "--workdir",
        "/tmp",
        "--expose",
        &format!("{guest}/tcp"),
        "--idle-pause",
        "500ms",
        "--idle-connections-after",
        "500ms",
        "--idle-hibernate",
        "never",
        "--idle-stop",
        "500ms",
        "--",
        "sleep",
        "1000",
    ];
    assert_eq!(daemon.aegis(&line).code, 0);
    let mut client = connect(public_port(&daemon, "web", 0));
    let mut answer = [0; 1];
    for round in 0..2u8 {
        client.write_all(&[round]).unwrap();
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [round]);
        eventually("it rests with the connection open", DEADLINE, || daemon.state("web") == "paused");
        assert_eq!(daemon.info("web").unwrap()["active_connections"], 1);
    }
    // It rests no deeper while the connection is open, and when that ends nothing is booted for it.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(daemon.state("web"), "paused");
    assert_eq!(count(&daemon, "web", "stopping"), 0);
    drop(client);
    eventually("it is stopped", DEADLINE, || daemon.state("web") == "stopped");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!((daemon.state("web").as_str(), count(&daemon, "web", "starting")), ("stopped", 1));
}
