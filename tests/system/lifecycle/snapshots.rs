//! Snapshots: instances go on, or boot, from where one of them was; a snapshot's disk is for good, its memory a cache.

use std::path::PathBuf;
use std::time::Duration;

use aegis_tests::{DEADLINE, Daemon, cut_short, eventually, flip_a_bit};
use serde_json::Value;

/// Counts on in memory, and writes the count to its disk at times.
const COUNTER: &str = "n=0; while true; do n=$((n+1)); echo $n > /tmp/m; mv /tmp/m /tmp/n; [ -e /root/first ] || echo $n > /root/first; sleep 0.05; done";

fn start(daemon: &Daemon, handle: &str, options: &[&str]) {
    let head = ["instance", "start", "--name", handle, "--memory", "160"];
    let _out = daemon.ok(&[&head, options, &["--", "sh", "-c", COUNTER]].concat());
}

fn count(daemon: &Daemon, handle: &str) -> u32 {
    daemon.shell(handle, "cat /tmp/n 2>/dev/null || echo 0").parse().unwrap()
}

/// Waits until it has counted so far.
fn counts_to(daemon: &Daemon, handle: &str, least: u32) {
    eventually("it counts on", DEADLINE, || count(daemon, handle) >= least);
}

fn take(daemon: &Daemon, arguments: &[&str]) -> Value {
    let out = daemon.ok(&[&["snapshot", "create", "--output", "json"], arguments].concat());
    serde_json::from_str(&out).unwrap()
}

fn machine_of(daemon: &Daemon, snapshot: &str) -> PathBuf {
    daemon.root().join("data/snapshots").join(snapshot).join("machine")
}

#[test]
fn an_instance_from_a_snapshot_goes_on_where_that_was_taken_also_much_later() {
    let daemon = Daemon::start();
    assert_eq!(daemon.ok(&["snapshot", "list"]), "No snapshots.\n");
    start(&daemon, "box", &[]);
    counts_to(&daemon, "box", 20);
    let taken = take(&daemon, &["box", "before"]);
    assert!(
        taken["running"].as_bool().unwrap() && taken["memory_bytes"].as_u64().unwrap() > 1 << 20,
        "{taken}"
    );
    counts_to(&daemon, "box", 40);
    let first = daemon.shell("box", "cat /root/first");
    // Neither the instance nor the daemon need be there any more.
    let _out = daemon.ok(&["instance", "delete", "box"]);
    daemon.crash();
    daemon.up();
    for handle in ["one", "two"] {
        let _out = daemon.ok(&["instance", "start", "--from", "before", "--name", handle]);
        assert_eq!(daemon.started_by(handle), "snapshot");
        assert!(count(&daemon, handle) >= 20, "it did not begin anew");
        assert_eq!(daemon.shell(handle, "cat /root/first; hostname"), format!("{first}\n{handle}"));
    }
    let ids = ["one", "two"].map(|handle| {
        daemon.shell(handle, "cat /proc/sys/kernel/random/boot_id; head -c 8 /dev/urandom | od -An -tx1")
    });
    assert_ne!(ids[0], ids[1]);
    let list = daemon.ok(&["snapshot", "list"]);
    assert!(list.contains("before") && list.contains("box") && list.lines().count() == 2, "{list}");
    assert!(daemon.ok(&["snapshot", "info", "before"]).contains("Memory"));
    assert_eq!(daemon.ok(&["snapshot", "delete", "before"]), "Snapshot before deleted\n");
    counts_to(&daemon, "one", 60);
    let gone = daemon.aegis(&["instance", "start", "--from", "before"]);
    assert!(gone.code == 1 && gone.err().contains("no snapshot"), "{}", gone.err());
    assert_eq!(std::fs::read_dir(daemon.root().join("data/snapshots")).unwrap().count(), 0);
}

#[test]
fn an_instance_is_put_back_to_where_it_was() {
    let daemon = Daemon::start();
    start(&daemon, "box", &[]);
    let _out = daemon.shell("box", "echo precious > /root/precious; echo then > /tmp/when");
    counts_to(&daemon, "box", 20);
    let _taken = take(&daemon, &["box", "good"]);
    let _out = daemon.shell("box", "rm /root/precious; echo bad > /root/bad; echo later > /tmp/when");
    for rest in ["resume", "pause", "hibernate", "stop"] {
        let _out = daemon.ok(&["instance", rest, "box"]);
        let out = daemon.ok(&["snapshot", "restore", "good"]);
        assert!(out.ends_with("is running\n"), "{out}");
        assert_eq!(daemon.started_by("box"), "snapshot", "{rest}");
        assert!(count(&daemon, "box") >= 20, "{rest}: it counts on from there");
        let found = daemon.shell("box", "cat /tmp/when /root/precious; ls /root/bad 2>/dev/null || true");
        assert_eq!(found, "then\nprecious", "{rest}");
    }
    let _out = daemon.ok(&["instance", "delete", "box"]);
    let refused = daemon.aegis(&["snapshot", "restore", "good"]);
    assert!(refused.code == 1 && refused.err().contains("no instance"), "{}", refused.err());
}

#[test]
fn memory_that_is_damaged_cut_short_missing_or_of_another_snapshot_costs_a_boot_and_nothing_else() {
    let daemon = Daemon::start();
    start(&daemon, "box", &[]);
    counts_to(&daemon, "box", 20);
    let first = daemon.shell("box", "cat /root/first");
    for name in ["cut", "bit", "missing", "another", "other"] {
        let _taken = take(&daemon, &["box", name]);
    }
    cut_short(&machine_of(&daemon, "cut"));
    flip_a_bit(&machine_of(&daemon, "bit"));
    std::fs::remove_file(machine_of(&daemon, "missing")).unwrap();
    std::fs::copy(machine_of(&daemon, "other"), machine_of(&daemon, "another")).unwrap();
    for name in ["cut", "bit", "missing", "another"] {
        let handle = format!("from-{name}");
        let _out = daemon.ok(&["instance", "start", "--from", name, "--name", &handle]);
        assert_ne!(daemon.started_by(&handle), "snapshot", "{name}");
        assert_eq!(daemon.shell(&handle, "cat /root/first"), first, "{name}: the disk is what it was");
    }
}

#[test]
fn without_memory_an_instance_boots_from_the_snapshots_disk() {
    let daemon = Daemon::start();
    start(&daemon, "box", &[]);
    counts_to(&daemon, "box", 5);
    let first = daemon.shell("box", "cat /root/first");
    let taken = take(&daemon, &["box", "--disk-only"]);
    assert_eq!((&taken["name"], &taken["running"]), (&Value::from("box-1"), &Value::from(false)));
    assert!(!machine_of(&daemon, "box-1").exists());
    counts_to(&daemon, "box", 10);
    let _out = daemon.ok(&["instance", "stop", "box"]);
    let taken = take(&daemon, &["box"]);
    assert_eq!((&taken["name"], &taken["running"]), (&Value::from("box-2"), &Value::from(false)));
    for name in ["box-1", "box-2"] {
        let handle = format!("from-{name}");
        let _out = daemon.ok(&["instance", "start", "--from", name, "--name", &handle]);
        assert_eq!(daemon.shell(&handle, "cat /root/first; hostname"), format!("{first}\n{handle}"));
    }
    let out = daemon.ok(&["snapshot", "restore", "box-1"]);
    assert!(out.ends_with("is stopped\n"), "{out}");
    let taken = daemon.aegis(&["snapshot", "create", "box", "box-1"]);
    assert!(taken.code == 1 && taken.err().contains("exists"), "{}", taken.err());
    let taken = daemon.aegis(&["snapshot", "create", "box", "../up"]);
    assert!(taken.code == 2, "{}", taken.err());
    let more = daemon.aegis(&["instance", "start", "--from", "box-1", "--memory", "300"]);
    assert!(more.code == 1 && more.err().contains("settings"), "{}", more.err());
}

#[test]
fn memory_with_secrets_is_sealed_and_only_taken_where_that_is_accepted() {
    let daemon = Daemon::start();
    let _out = daemon.ok(&["secret", "set", "TOKEN", "hush-hush-hush-hush"]);
    start(&daemon, "box", &["--secret", "TOKEN"]);
    counts_to(&daemon, "box", 5);
    let refused = daemon.aegis(&["snapshot", "create", "box"]);
    assert!(refused.code == 1 && refused.err().contains("--with-secrets"), "{}", refused.err());
    let _disk = take(&daemon, &["box", "disk", "--disk-only"]);
    let _taken = take(&daemon, &["box", "all", "--with-secrets"]);
    let file = std::fs::read(machine_of(&daemon, "all")).unwrap();
    let shows = |word: &[u8]| file.windows(word.len()).any(|part| part == word);
    assert!(!shows(b"hush-hush-hush-hush") && !shows(b"while true"), "it is on disk in clear");
    let _out = daemon.ok(&["instance", "start", "--from", "all", "--name", "copy"]);
    assert_eq!(daemon.started_by("copy"), "snapshot");
    assert_eq!(daemon.shell("copy", "echo $TOKEN"), "hush-hush-hush-hush");
    // With another master key nobody can read it any more; the disk is not sealed.
    let _out = daemon.ok(&["secret", "rekey"]);
    let _out = daemon.ok(&["instance", "start", "--from", "all", "--name", "later"]);
    assert_ne!(daemon.started_by("later"), "snapshot");
}

#[test]
fn directories_of_the_host_are_in_no_snapshot() {
    let daemon = Daemon::start();
    let shared = tempfile::tempdir().unwrap();
    start(&daemon, "box", &["--workspace", shared.path().to_str().unwrap()]);
    let script = "nohup sh -c 'exec 3>>/workspace/kept; while true; do hostname >&3; sleep 0.1; done' >/dev/null 2>&1 &";
    let _out = daemon.shell("box", script);
    eventually("it writes", DEADLINE, || shared.path().join("kept").exists());
    let _taken = take(&daemon, &["box", "shot"]);
    std::fs::write(shared.path().join("later"), "still here").unwrap();
    let refused = daemon.aegis(&["instance", "start", "--from", "shot"]);
    assert!(refused.code == 1 && refused.err().contains("--share-workspace"), "{}", refused.err());
    let _out = daemon.ok(&["instance", "start", "--from", "shot", "--share-workspace", "--name", "copy"]);
    assert_eq!(daemon.shell("copy", "cat /workspace/later"), "still here");
    eventually("a file that was open is written on", DEADLINE, || {
        std::fs::read_to_string(shared.path().join("kept")).unwrap().lines().any(|line| line == "copy")
    });
    let out = daemon.ok(&["snapshot", "restore", "shot"]);
    assert!(out.ends_with("is running\n"), "{out}");
    assert_eq!(daemon.shell("box", "cat /workspace/later"), "still here");
}

#[test]
fn a_daemon_that_dies_while_it_takes_or_restores_leaves_the_old_state_or_the_new() {
    let daemon = Daemon::start();
    start(&daemon, "box", &[]);
    counts_to(&daemon, "box", 20);
    let _out = daemon.shell("box", "echo old > /root/state");
    for (number, delay_ms) in [10, 50, 100, 200, 400].into_iter().enumerate() {
        let name = format!("s{number}");
        let taking = daemon.spawn(&["snapshot", "create", "box", &name]);
        std::thread::sleep(Duration::from_millis(delay_ms));
        daemon.crash();
        let _out = aegis_tests::wait(taking, None);
        daemon.up();
        counts_to(&daemon, "box", 20);
        let listed = daemon.ok(&["snapshot", "list", "--output", "json"]);
        if listed.contains(&format!("\"{name}\"")) {
            let _out = daemon.ok(&["instance", "start", "--from", &name, "--name", &name]);
            assert_eq!(daemon.shell(&name, "cat /root/state"), "old");
            let _out = daemon.ok(&["instance", "delete", &name]);
        }
    }
    let _taken = take(&daemon, &["box", "old"]);
    for delay_ms in [10, 50, 100, 200, 400] {
        let _out = daemon.shell("box", "echo new > /root/state; sync");
        let restoring = daemon.spawn(&["snapshot", "restore", "old"]);
        std::thread::sleep(Duration::from_millis(delay_ms));
        daemon.crash();
        let _out = aegis_tests::wait(restoring, None);
        daemon.up();
        let mut state = String::new();
        // It may run already, or still be on its way to its end.
        eventually("it can be started", DEADLINE, || {
            let _started = daemon.aegis(&["instance", "start", "--name", "box"]);
            let done = daemon.aegis(&["exec", "box", "--", "cat", "/root/state"]);
            state = done.out();
            done.code == 0
        });
        assert!(["old", "new"].contains(&state.trim()), "{delay_ms} ms: {state}");
    }
}
