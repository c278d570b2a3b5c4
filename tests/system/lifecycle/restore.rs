//! Restores under clients: they end, restored or refused, and never strike later.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aegis_tests::{DEADLINE, Daemon, eventually};

use crate::lifecycle::clients::{Client, KINDS, Kind, SERVER, kinds, start};
use crate::lifecycle::idle::becomes;

/// How long a restore may take, with machines that are emulated on a busy host.
const BOUND: Duration = Duration::from_secs(60);

fn count(daemon: &Daemon, handle: &str, kind: &str) -> usize {
    kinds(daemon, handle).iter().filter(|one| *one == kind).count()
}

#[test]
fn a_restore_ends_whoever_is_connected_and_comes_and_serves_them_restored() {
    let daemon = Daemon::start();
    start(&daemon, "s", &[]);
    drop(Client::served(&daemon, "s", Kind::Tcp));
    let _out = daemon.ok(&["snapshot", "create", "s", "m"]);
    let port = Kind::Tcp.port(&daemon.info("s").unwrap());
    let over = Arc::new(AtomicBool::new(false));
    let connected = Arc::new(AtomicUsize::new(0));
    let newcomers = {
        let (over, connected) = (Arc::clone(&over), Arc::clone(&connected));
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                // What is served and closed at once is of no interest here.
                drop(TcpStream::connect(("127.0.0.1", port)));
                connected.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(50));
            }
        })
    };
    for round in 1..=3 {
        let clients: Vec<_> = KINDS
            .into_iter()
            .map(|kind| {
                let mut client = Client::served(&daemon, "s", kind);
                std::thread::spawn(move || {
                    while client.hears() {}
                    client.says_more();
                })
            })
            .collect();
        let _out = daemon.shell("s", "echo later > /root/later; sync");
        let begun = Instant::now();
        let out = daemon.ok(&["snapshot", "restore", "m"]);
        assert!(begun.elapsed() < BOUND, "{:?}", begun.elapsed());
        assert!(out.ends_with("is running\n"), "{out}");
        assert_eq!(daemon.shell("s", "ls /root/later 2>/dev/null || echo none"), "none");
        assert_eq!(count(&daemon, "s", "restored"), round);
        for client in clients {
            client.join().unwrap();
        }
        drop(Client::served(&daemon, "s", Kind::Tcp));
    }
    over.store(true, Ordering::Relaxed);
    newcomers.join().unwrap();
    assert!(connected.load(Ordering::Relaxed) > 20);
}

#[test]
fn a_restore_that_was_given_up_before_it_began_never_happens() {
    let daemon = Daemon::start();
    let slow = format!(
        "import signal, time\nsignal.signal(signal.SIGTERM, lambda *a: (time.sleep(4), exit()))\n{SERVER}"
    );
    let line = ["instance", "start", "--name", "s", "--memory", "192", "--expose", "80/tcp"];
    let _out = daemon.ok(&[&line[..], &["--", "python3", "-c", &slow]].concat());
    drop(Client::served(&daemon, "s", Kind::Tcp));
    let _out = daemon.ok(&["snapshot", "create", "s", "m"]);
    let stopped = count(&daemon, "s", "stopping");
    let mut restore = daemon.spawn(&["snapshot", "restore", "m"]);
    eventually("it is being stopped", DEADLINE, || count(&daemon, "s", "stopping") > stopped);
    restore.kill().unwrap();
    let _killed = restore.wait().unwrap();
    becomes(&daemon, "s", "stopped");
    for _ in 0..3 {
        let _out = daemon.ok(&["instance", "start", "--name", "s"]);
        let _out = daemon.shell("s", "echo precious >> /root/after; sync");
        let _out = daemon.ok(&["instance", "stop", "s"]);
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(daemon.state("s"), "stopped");
    }
    let _out = daemon.ok(&["instance", "start", "--name", "s"]);
    assert_eq!(daemon.shell("s", "cat /root/after"), "precious\nprecious\nprecious");
    assert_eq!(count(&daemon, "s", "restored"), 0);
    // The same snapshot can be restored by somebody who waits for it.
    let _out = daemon.ok(&["snapshot", "restore", "m"]);
    assert_eq!(daemon.shell("s", "ls /root/after 2>/dev/null || echo none"), "none");
}

#[test]
fn a_restore_of_a_stopped_instance_whose_files_are_being_copied_is_refused_in_time() {
    let daemon = Daemon::start();
    start(&daemon, "s", &[]);
    drop(Client::served(&daemon, "s", Kind::Tcp));
    let _out = daemon.ok(&["snapshot", "create", "s", "m"]);
    let _out = daemon.ok(&["instance", "stop", "s"]);
    // A copy out of it that does not get on.
    let into = tempfile::tempdir().unwrap();
    let mut copy = daemon.spawn(&["cp", "s:/usr", into.path().to_str().unwrap()]);
    eventually("it is copied", DEADLINE, || std::fs::read_dir(into.path()).unwrap().count() > 0);
    let copying = rustix::process::Pid::from_child(&copy);
    rustix::process::kill_process(copying, rustix::process::Signal::STOP).unwrap();
    let begun = Instant::now();
    let refused = daemon.aegis(&["snapshot", "restore", "m"]);
    assert!(begun.elapsed() < BOUND, "{:?}", begun.elapsed());
    assert!(refused.code == 1 && refused.err().contains("in use"), "{}", refused.err());
    copy.kill().unwrap();
    let _killed = copy.wait().unwrap();
    eventually("it ends", DEADLINE, || daemon.machines().is_empty());
    assert_eq!((daemon.state("s").as_str(), count(&daemon, "s", "restored")), ("stopped", 0));
    let _out = daemon.ok(&["snapshot", "restore", "m"]);
    assert_eq!(daemon.state("s"), "running");
}

#[test]
fn a_fork_or_a_snapshot_that_was_given_up_leaves_nothing() {
    let daemon = Daemon::start();
    start(&daemon, "s", &[]);
    drop(Client::served(&daemon, "s", Kind::Tcp));
    let children = || daemon.ok(&["instance", "list"]).contains("child-");
    let mut fork = daemon.spawn(&["fork", "s", "--count", "6", "--name", "child"]);
    eventually("children come", DEADLINE, children);
    fork.kill().unwrap();
    let _killed = fork.wait().unwrap();
    eventually("none is left", DEADLINE, || !children() && daemon.machines().len() == 1);
    // One that would be taken of an instance that is just starting, by somebody who has gone.
    let _out = daemon.ok(&["instance", "restart", "s"]);
    let _out = daemon.ok(&["instance", "hibernate", "s"]);
    let mut snapshot = daemon.spawn(&["snapshot", "create", "s", "m"]);
    std::thread::sleep(Duration::from_millis(20));
    snapshot.kill().unwrap();
    let _killed = snapshot.wait().unwrap();
    drop(Client::served(&daemon, "s", Kind::Tcp));
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(daemon.ok(&["snapshot", "list"]), "No snapshots.\n");
    let left = std::fs::read_dir(daemon.root().join("data/snapshots")).map_or(0, Iterator::count);
    assert_eq!(left, 0);
}
