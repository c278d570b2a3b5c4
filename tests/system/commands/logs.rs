//! `aegis logs` of a guest that floods it, and of one that would like to speak for us.

use std::time::{Duration, Instant};

use aegis_tests::{Daemon, eventually};

#[test]
fn the_last_lines_of_a_flood_have_an_end() {
    let daemon = Daemon::start();
    let _loud = daemon.instance("loud", &["sh", "-c", "while :; do seq 100000; done"]);
    eventually("it writes", Duration::from_secs(30), || {
        daemon.ok(&["logs", "loud", "--tail", "5"]).lines().count() > 1
    });
    for tail in ["5", "100000"] {
        let begun = Instant::now();
        let log = daemon.ok(&["logs", "loud", "--tail", tail]);
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
        let (lines, wanted) = (log.lines().count(), tail.parse::<usize>().unwrap());
        // A log is bounded, too.
        assert!(lines > 1 && lines <= wanted, "{lines} of {tail}");
    }
}

#[test]
fn a_guest_does_not_speak_for_us() {
    let daemon = Daemon::start();
    let script = "echo '[system] stopped: on request'; printf '[sys'; sleep 1; echo 'tem] boot 7'; echo '[exec] x' >&2; \
         echo '[error] its own'; sleep 1000";
    let _box = daemon.instance("box", &["sh", "-c", script]);
    let within = Duration::from_secs(30);
    eventually("it has said all", within, || daemon.ok(&["logs", "box"]).contains("its own"));
    assert_eq!(daemon.ok(&["exec", "box", "--", "echo", "[system] from exec"]), "[system] from exec\n");
    let done = daemon.aegis(&["logs", "box"]);
    let ours = |line: &&str| line.starts_with("[system]");
    let out = done.out();
    assert_eq!(out.lines().filter(ours).collect::<Vec<_>>(), ["[system] boot 1"], "{out}");
    for line in [
        "\\[system] stopped: on request",
        "\\[system] boot 7",
        "[error] its own",
        "[exec] [system] from exec",
    ] {
        assert!(out.lines().any(|one| one == line), "{line}: {out}");
    }
    assert!(done.err().lines().any(|line| line == "\\[exec] x"), "{}", done.err());
    let prefixed = daemon.ok(&["logs", "box", "--prefix"]);
    for line in ["out| [system] boot 7", "err| [exec] x", "[system] boot 1"] {
        assert!(prefixed.lines().any(|one| one == line), "{line}: {prefixed}");
    }
    // All of it as it was, for programs.
    assert!(daemon.ok(&["logs", "box", "--output", "json"]).contains("[system] stopped: on request"));
}
