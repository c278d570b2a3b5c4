//! Daemons and monitors that are killed without notice while something is under way, at one moment after the other.

use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::bench::{Bench, eventually};

/// Moments of what takes as long as a boot, and of what takes as long as a pause or a copy of the memory, milliseconds.
const LONG: [u64; 3] = [100, 500, 2000];
const SHORT: [u64; 3] = [5, 60, 300];

/// Has `aegis` do something that is not waited for.
fn begin(bench: &Bench, arguments: &[&str]) -> Child {
    let mut command = bench.command(arguments);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("run aegis")
}

const START: &[&str] = &["instance", "start", "--name", "box", "--memory", "256m", "--", "sleep", "infinity"];

/// Kills a process, if it is still there.
fn kill(pid: i32) {
    let _gone = kill_process(Pid::from_raw(pid).expect("a pid"), Signal::KILL);
}

/// Whatever has become of `box`, it can be had: as it is, started again, or made. One whose daemon was killed while it booted may
/// still turn out not to have got anywhere; then it is stopped, and says so.
fn works_again(bench: &Bench) {
    eventually("box works", || {
        let known = bench.run(&["instance", "info", "box"]).status.success();
        if !known {
            bench.ok(START);
        } else if bench.info("box")["state"] == "stopped" {
            println!("         | box is stopped: {}", bench.info("box")["stop_reason"]["message"]);
            bench.ok(&["instance", "restart", "box"]);
        }
        bench.run(&["exec", "box", "--", "echo", "well"]).stdout == b"well\n"
    });
}

/// No machine is there that no instance has.
fn no_strays(bench: &Bench) {
    let of_box = bench.info("box")["pid"].as_i64();
    eventually("no machine is there but that of box", || {
        bench.monitors().iter().all(|pid| Some(i64::from(*pid)) == of_box)
    });
    bench.clear();
    eventually("no machine is there", || bench.monitors().is_empty());
}

pub(super) fn daemon_while_it_starts(bench: &Bench) {
    for moment in LONG {
        let mut starting = begin(bench, START);
        std::thread::sleep(Duration::from_millis(moment));
        bench.crash();
        starting.wait().expect("wait for it");
        works_again(bench);
        no_strays(bench);
    }
}

pub(super) fn monitor_while_it_starts(bench: &Bench) {
    for moment in LONG {
        let mut starting = begin(bench, START);
        std::thread::sleep(Duration::from_millis(moment));
        bench.monitors().into_iter().for_each(kill);
        starting.wait().expect("wait for it");
        // It may have been killed when the command had just been told that it runs.
        eventually("its end is noticed", || {
            let info = bench.info("box");
            let lives = |pid: i64| std::path::Path::new(&format!("/proc/{pid}")).exists();
            info["state"] == "stopped" || info["pid"].as_i64().is_some_and(lives)
        });
        works_again(bench);
        no_strays(bench);
    }
}

pub(super) fn daemon_while_it_pauses(bench: &Bench) {
    bench.start_box(&[]);
    bench.in_box("echo in memory > /tmp/kept");
    for moment in SHORT {
        let mut pausing = begin(bench, &["instance", "pause", "box"]);
        std::thread::sleep(Duration::from_millis(moment));
        bench.crash();
        pausing.wait().expect("wait for it");
        assert_eq!(bench.in_box("cat /tmp/kept"), "in memory");
    }
    no_strays(bench);
}

pub(super) fn daemon_while_it_hibernates(bench: &Bench) {
    bench.start_box(&[]);
    bench.in_box("echo in memory > /dev/shm/kept");
    for moment in SHORT.into_iter().chain([1000]) {
        let mut hibernating = begin(bench, &["instance", "hibernate", "box"]);
        std::thread::sleep(Duration::from_millis(moment));
        bench.crash();
        hibernating.wait().expect("wait for it");
        assert_eq!(bench.in_box("cat /dev/shm/kept"), "in memory", "after {moment} ms");
    }
    no_strays(bench);
}

pub(super) fn monitor_while_it_hibernates(bench: &Bench) {
    bench.start_box(&[]);
    bench.in_box("echo on disk > /kept; sync");
    for moment in SHORT {
        let monitor = bench.monitor("box");
        let mut hibernating = begin(bench, &["instance", "hibernate", "box"]);
        std::thread::sleep(Duration::from_millis(moment));
        kill(monitor);
        hibernating.wait().expect("wait for it");
        eventually("its end is noticed", || bench.info("box")["pid"] != monitor);
        works_again(bench);
        assert_eq!(bench.in_box("cat /kept"), "on disk");
    }
    no_strays(bench);
}

pub(super) fn daemon_while_it_wakes(bench: &Bench) {
    bench.start_box(&[]);
    bench.in_box("echo on disk > /kept; sync");
    for moment in SHORT.into_iter().chain([1000]) {
        bench.ok(&["instance", "hibernate", "box"]);
        let mut waking = begin(bench, &["exec", "box", "--", "true"]);
        std::thread::sleep(Duration::from_millis(moment));
        bench.crash();
        waking.wait().expect("wait for it");
        works_again(bench);
        assert_eq!(bench.in_box("cat /kept"), "on disk");
    }
    no_strays(bench);
}

pub(super) fn daemon_while_it_copies(bench: &Bench) {
    bench.start_box(&[]);
    bench.in_box("echo in memory > /dev/shm/kept");
    for moment in SHORT.into_iter().chain([1000]) {
        let mut copying = begin(bench, &["snapshot", "create", "box", "then"]);
        std::thread::sleep(Duration::from_millis(moment));
        bench.crash();
        copying.wait().expect("wait for it");
        assert_eq!(bench.in_box("cat /dev/shm/kept"), "in memory", "after {moment} ms");
        // It is there or it is not.
        let made = bench.run(&["snapshot", "delete", "then"]).status.success();
        let left = bench.json(&["snapshot", "list"]);
        assert_eq!(left.as_array().map(Vec::len), Some(0), "made: {made}, {left}");
    }
    no_strays(bench);
}
