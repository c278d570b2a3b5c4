//! The same promises without a machine: the fake monitor keeps the trait honest, and its ports tell nothing of a host
//! that comes and goes.

use aegis_tests::{Daemon, eventually};

fn daemon() -> Daemon {
    Daemon::start_with(&[("AEGIS_FAKE_GUEST", env!("CARGO_BIN_EXE_fake-guest"))])
}

#[test]
fn an_instance_lives_its_whole_life_on_another_monitor() {
    let daemon = daemon();
    assert!(daemon.ok(&["status"]).contains("backend: fake"));
    let done =
        daemon.aegis(&["run", "--workdir", "/tmp", "--", "sh", "-c", "echo out; echo err >&2; exit 42"]);
    assert_eq!((done.code, done.out().as_str(), done.err().as_str()), (42, "out\n", "err\n"));
    let start = ["instance", "start", "--name", "box", "--workdir", "/tmp", "--", "sleep", "1000"];
    assert!(daemon.ok(&start).contains("Handle: box"));
    assert!(daemon.ok(&["instance", "pause", "box"]).contains("paused"));
    assert_eq!(daemon.ok(&["exec", "box", "--", "echo", "awake"]), "awake\n");
    assert!(daemon.ok(&["instance", "stop", "box"]).contains("stopped"));
    assert_eq!(daemon.info("box").unwrap()["exit_code"], 143);
    assert!(daemon.ok(&["instance", "restart", "box"]).contains("restarted"));
    assert!(daemon.ok(&["instance", "delete", "box"]).contains("deleted"));
    assert_eq!(daemon.ok(&["instance", "list"]).trim(), "No instances");
}

#[test]
fn a_host_that_comes_and_goes_unseen_loses_and_repeats_nothing() {
    let daemon = daemon();
    let script = "i=0; while :; do i=$((i+1)); echo line $i; done";
    let start = ["instance", "start", "--name", "loud", "--workdir", "/tmp", "--", "sh", "-c", script];
    assert!(daemon.ok(&start).contains("Handle: loud"));
    for _ in 0..4 {
        let size = || daemon.ok(&["logs", "loud"]).len();
        let before = size();
        eventually("it goes on", aegis_tests::DEADLINE, || size() > before + 50_000);
        daemon.crash();
        daemon.up();
    }
    assert!(daemon.ok(&["instance", "stop", "loud"]).contains("stopped"));
    let log = daemon.ok(&["logs", "loud"]);
    let numbers: Vec<u64> = log
        .lines()
        .filter_map(|line| line.strip_prefix("line "))
        .filter_map(|number| number.parse().ok())
        .collect();
    let holes: Vec<_> = numbers.windows(2).filter(|pair| pair[1] != pair[0] + 1).collect();
    assert!(numbers.len() > 10_000 && holes.is_empty(), "{} lines, {holes:?}", numbers.len());
    assert!(daemon.ok(&["instance", "delete", "loud"]).contains("deleted"));
}

#[test]
fn a_guest_of_another_era_is_refused_with_both_versions() {
    let daemon = Daemon::start_with(&[
        ("AEGIS_FAKE_GUEST", env!("CARGO_BIN_EXE_fake-guest")),
        ("AEGIS_FAKE_GUEST_STRANGER", "1"),
    ]);
    let done = daemon.aegis(&["instance", "start", "--name", "box", "--", "true"]);
    assert_eq!(done.code, 1);
    let expected = "host speaks protocol 1 to 9, guest 7000 to 9000";
    assert!(done.err().contains(expected), "{}", done.err());
    let info = daemon.info("box").unwrap();
    assert!(info["stop_reason"]["message"].as_str().unwrap().contains(expected), "{info}");
}

#[test]
fn a_guest_that_has_missed_what_was_said_is_asked_once_more() {
    let daemon = Daemon::start_with(&[
        ("AEGIS_FAKE_GUEST", env!("CARGO_BIN_EXE_fake-guest")),
        ("AEGIS_FAKE_GUEST_DEAF", "1"),
    ]);
    let done = daemon.aegis(&["run", "--workdir", "/tmp", "--", "echo", "heard"]);
    assert_eq!((done.code, done.out().as_str()), (0, "heard\n"), "{}", done.err());
}
