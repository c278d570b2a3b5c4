//! The machine that is ready before anybody asks: starts are quicker, and nobody sees another difference.

use std::time::Duration;

use aegis_tests::{DEADLINE, Daemon, eventually, is_alive};

use crate::lifecycle::templates::{OWN, again, alone, start_of};

/// A daemon that keeps a spare machine for so long, with a template.
fn keeping(time: &str) -> Daemon {
    let daemon = alone(&format!("[templates]\nspare = \"{time}\"\n"));
    assert_eq!(start_of(&daemon, "first", &[]), "boot");
    daemon
}

fn is_ready(daemon: &Daemon) -> bool {
    daemon.ok(&["template", "list"]).contains("ready")
}

fn await_spare(daemon: &Daemon) {
    eventually("a machine is ready", DEADLINE, || is_ready(daemon));
}

/// The process of the machine that is ready: it is stopped as a whole.
fn spare(daemon: &Daemon) -> i32 {
    let stopped = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    };
    let all: Vec<i32> = daemon.machines().into_iter().filter(stopped).collect();
    assert_eq!(all.len(), 1, "{all:?}");
    all[0]
}

/// What a program of the guest sees of its surroundings, that is the same in all machines of a kind.
const SURROUNDINGS: &str = "cat /proc/mounts; \
    ls -lan / /dev /run /run/aegis /tmp /mnt /workspace | grep -v -e ' tty' -e ' proc$' | sed 's/ [A-Z][a-z][a-z] .*[0-9] / /'; \
    cat /etc/resolv.conf /etc/hosts | sed \"s/$(hostname)/NAME/\"; \
    cat /proc/net/route; sort /proc/net/if_inet6; ls /sys/fs/cgroup; cat /sys/block/vd*/size; \
    all=$(for process in /proc/[0-9]*; do readlink $process/exe; done); echo \"$all\" | sort; ls /proc/1/fd | wc -l; env | sort | grep -v HOSTNAME";

#[test]
fn what_is_started_next_gets_the_machine_that_is_ready_and_sees_no_difference() {
    let daemon = keeping("1h");
    await_spare(&daemon);
    assert_eq!(start_of(&daemon, "second", &["--disk", "1g"]), "spare");
    await_spare(&daemon);
    assert_eq!(start_of(&daemon, "third", &["--disk", "1g"]), "spare");
    assert_eq!(start_of(&daemon, "booted", &["--disk", "1g", "--no-template"]), "boot");
    let seen = |handle: &str| daemon.shell(handle, SURROUNDINGS);
    let expected = seen("booted");
    for handle in ["second", "third"] {
        assert_eq!(seen(handle), expected, "{handle}");
    }
    let own = |handle: &str| daemon.ok(&["exec", handle, "--", "python3", "-c", OWN]);
    let (one, other) = (own("second"), own("third"));
    assert!(one.lines().zip(other.lines()).all(|(one, other)| one != other), "{one} {other}");
    // What is on a disk is its own, and stays.
    let _none = daemon.shell(
        "second",
        "echo second > /root/name; dd if=/dev/urandom of=/root/big bs=1M count=40 2>/dev/null; sync",
    );
    let sum = daemon.shell("second", "sha256sum < /root/big");
    assert_eq!(daemon.shell("third", "ls /root"), "");
    again(&daemon);
    assert_eq!(daemon.shell("second", "cat /root/name; sha256sum < /root/big"), format!("second\n{sum}"));
    let _stopped = daemon.ok(&["instance", "stop", "second"]);
    let _started = daemon.ok(&["instance", "start", "--name", "second"]);
    assert_eq!(daemon.shell("second", "cat /root/name; sha256sum < /root/big"), format!("second\n{sum}"));
    // It can do what every machine can.
    let _forked = daemon.ok(&["fork", "third"]);
    assert_eq!(daemon.shell("third-1", "hostname"), "third-1");
    let _rests = daemon.ok(&["instance", "hibernate", "third"]);
    assert_eq!(daemon.shell("third", "hostname"), "third");
}

#[test]
fn a_machine_that_is_ready_serves_its_kind_and_root_only() {
    let daemon = keeping("1h");
    await_spare(&daemon);
    let told = daemon.aegis(&["run", "--timings", "--memory", "192", "--", "true"]);
    assert!(told.err().contains("started by boot"), "{}", told.err());
    // The last kind that was started is the one that is expected.
    eventually("a machine of the other kind is ready", DEADLINE, || {
        let list = daemon.ok(&["template", "list"]);
        list.lines().any(|line| line.contains("192 MiB") && line.contains("ready"))
    });
    assert_eq!(start_of(&daemon, "small", &[]), "template");
    let told = daemon.aegis(&["run", "--timings", "--no-template", "--memory", "160", "--", "true"]);
    assert!(told.err().contains("started by boot"), "{}", told.err());
}

#[test]
fn a_machine_that_is_ready_goes_after_its_time_with_the_templates_and_with_the_daemon() {
    let daemon = keeping("2s");
    await_spare(&daemon);
    let pid = spare(&daemon);
    eventually("it is gone", DEADLINE, || !is_alive(pid) && !is_ready(&daemon));
    eventually("its files, too", DEADLINE, || daemon.files_of("inst-spare").is_empty());
    let daemon = keeping("1h");
    await_spare(&daemon);
    let pid = spare(&daemon);
    let _told = daemon.ok(&["template", "prune"]);
    eventually("it is gone", DEADLINE, || !is_alive(pid));
    assert_eq!(start_of(&daemon, "second", &[]), "boot");
    await_spare(&daemon);
    let pid = spare(&daemon);
    let _down = daemon.ok(&["down"]);
    assert!(!is_alive(pid));
    assert_eq!(daemon.files_of("inst-spare"), Vec::<std::path::PathBuf>::new());
    // Also one that is just being made.
    daemon.up();
    for delay in [260, 300, 400, 600] {
        let _told = daemon.ok(&["run", "--memory", "160", "--", "true"]);
        std::thread::sleep(Duration::from_millis(delay));
        let _down = daemon.ok(&["down"]);
        assert_eq!(daemon.machines(), Vec::<i32>::new(), "after {delay} ms");
        assert_eq!(daemon.files_of("inst-spare"), Vec::<std::path::PathBuf>::new(), "after {delay} ms");
        daemon.up();
    }
}

#[test]
fn a_machine_that_has_died_while_it_waited_costs_nothing_but_time() {
    let daemon = keeping("1h");
    await_spare(&daemon);
    let pid = rustix::process::Pid::from_raw(spare(&daemon)).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    eventually("that is noticed", DEADLINE, || !is_ready(&daemon));
    assert_eq!(start_of(&daemon, "second", &[]), "template");
    await_spare(&daemon);
    assert_eq!(start_of(&daemon, "third", &[]), "spare");
}

#[test]
fn a_daemon_that_dies_around_a_machine_that_is_ready_leaves_nothing_of_it() {
    let daemon = keeping("1h");
    // While it is made, and while it waits.
    for delay in [0, 300, 500, 700, 1500] {
        let _told = daemon.ok(&["run", "--memory", "160", "--", "true"]);
        std::thread::sleep(Duration::from_millis(delay));
        again(&daemon);
        assert_eq!(daemon.machines().len(), 1, "after {delay} ms");
        let left = daemon.files_of("inst-spare");
        assert!(left.is_empty(), "after {delay} ms: {left:?}");
    }
    // While it becomes an instance's.
    for delay in [10, 25, 40, 60, 90] {
        let _told = daemon.ok(&["run", "--memory", "160", "--", "true"]);
        await_spare(&daemon);
        let mut start = daemon
            .command(&["instance", "start", "--name", "taker", "--memory", "160", "--", "sleep", "1000"]);
        let mut start =
            start.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        again(&daemon);
        let _failed = start.wait().unwrap();
        let left = daemon.files_of("inst-spare");
        assert!(left.is_empty(), "after {delay} ms: {left:?}");
        // It was not begun, or is known to have failed, or is about to be; whoever wants it gets it.
        eventually("it works", DEADLINE, || {
            let wanted = ["instance", "start", "--name", "taker", "--memory", "160", "--", "sleep", "1000"];
            let _there = daemon.aegis(&wanted);
            daemon.aegis(&["exec", "taker", "--", "echo", "here"]).out() == "here\n"
        });
        // The next one may be ready already, or about to be.
        eventually("nobody else runs", DEADLINE, || {
            let ready = usize::from(!daemon.files_of("inst-spare").is_empty());
            daemon.machines().len() == 2 + ready
        });
        let _gone = daemon.ok(&["instance", "delete", "taker"]);
    }
}

#[test]
fn many_starts_at_once_are_served_whatever_is_ready() {
    let daemon = keeping("1h");
    await_spare(&daemon);
    let handles = ["a", "b", "c", "d", "e", "f"];
    let started: Vec<String> = std::thread::scope(|scope| {
        let all: Vec<_> =
            handles.map(|handle| scope.spawn(|| start_of(&daemon, handle, &[]))).into_iter().collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(started.iter().filter(|how| *how == "spare").count(), 1, "{started:?}");
    assert_eq!(started.iter().filter(|how| *how == "template").count(), 5, "{started:?}");
}
