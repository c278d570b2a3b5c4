//! Events: what happened to instances, in order, each once, over daemons and deletions.

use std::process::Stdio;

use aegis_tests::{Daemon, read_until, wait};
use serde_json::Value;

fn daemon() -> Daemon {
    Daemon::start_with(&[("AEGIS_FAKE_GUEST", env!("CARGO_BIN_EXE_fake-guest"))])
}

fn start(daemon: &Daemon, name: &str, script: &str) {
    let started =
        daemon.ok(&["instance", "start", "--name", name, "--workdir", "/tmp", "--", "sh", "-c", script]);
    assert!(started.contains("Instance started"));
}

fn told(daemon: &Daemon, arguments: &[&str]) -> Vec<Value> {
    let text = daemon.ok(&[&["events", "--output", "json"], arguments].concat());
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["kind"].as_str().unwrap()).collect()
}

#[test]
fn everything_that_happens_to_an_instance_is_told_once_and_outlives_it() {
    let daemon = daemon();
    start(&daemon, "box", "exec sleep 1000");
    for verb in ["pause", "resume"] {
        assert_eq!(daemon.aegis(&["instance", verb, "box"]).code, 0);
    }
    daemon.crash();
    daemon.up();
    start(&daemon, "other", "exec sleep 1000");
    for verb in ["stop", "disable", "delete"] {
        assert_eq!(daemon.aegis(&["instance", verb, "box"]).code, 0);
    }
    let all = told(&daemon, &[]);
    let numbers: Vec<u64> = all.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
    let mine = told(&daemon, &["box"]);
    let expected =
        "created starting machine_started running paused running stopping stopped disabled deleted";
    assert_eq!(kinds(&mine).join(" "), expected);
    assert_eq!(mine[7]["stop_reason"]["code"], "stopped");
    assert!(mine.iter().all(|event| event["handle"] == "box"));
    let id = mine[0]["instance_id"].as_str().unwrap();
    assert_eq!(told(&daemon, &[id]), mine);
}

#[test]
fn a_follower_hears_what_happens_and_can_go_on_where_it_was() {
    let daemon = daemon();
    start(&daemon, "before", "exec sleep 1000");
    let last = told(&daemon, &[]).last().unwrap()["seq"].to_string();
    let mut follower = daemon.spawn(&["events", "--follow", "--after", &last]);
    // Not at once: the news of a quick exit may overtake that of the start.
    start(&daemon, "box", "sleep 1; exit 3");
    let heard = read_until(follower.stdout.as_mut().unwrap(), "code 3\n");
    assert!(!heard.contains("before") && heard.contains("  box  created\n"), "{heard}");
    // The daemon does not wait for its listeners.
    assert_eq!(daemon.aegis(&["down"]).code, 0);
    assert_eq!(wait(follower, None).code, 0);
    daemon.up();
    let missed: Vec<Value> = told(&daemon, &["--after", &last]);
    assert_eq!(kinds(&missed)[..4], ["created", "starting", "machine_started", "running"]);
}

#[test]
fn the_api_speaks_server_sent_events_and_takes_the_last_id() {
    let daemon = daemon();
    start(&daemon, "box", "exec sleep 1000");
    let ask = |arguments: &[&str]| {
        let output = std::process::Command::new("curl")
            .args(["-si", "--unix-socket"])
            .arg(daemon.root().join("aegisd.sock"))
            .args(arguments)
            .stderr(Stdio::null())
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let all = ask(&["http://x/v1/events?after=0&follow=false"]);
    assert!(all.contains("content-type: text/event-stream"), "{all}");
    assert!(all.contains("id: 1\nevent: created\ndata: {\"seq\":1,"), "{all}");
    let rest = ask(&["-H", "Last-Event-ID: 1", "http://x/v1/events?follow=false"]);
    assert!(!rest.contains("id: 1\n") && rest.contains("id: 2\nevent: starting\n"), "{rest}");
    let refused = ask(&["-H", "Last-Event-ID: yesterday", "http://x/v1/events"]);
    assert!(refused.starts_with("HTTP/1.1 400") && refused.contains("invalid_argument"), "{refused}");
}
