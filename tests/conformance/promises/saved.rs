//! Machines that are saved, and those that lose their daemon or their monitor.

use std::path::Path;
use std::time::Duration;

use super::life::clock_error;
use super::network::{ask, serve};
use crate::bench::{Bench, eventually};

pub(super) fn hibernation(bench: &Bench) {
    bench.start_box(&[]);
    bench.in_box("echo in memory > /dev/shm/kept; echo on disk > /kept");
    let monitor = bench.monitor("box");
    bench.ok(&["instance", "hibernate", "box"]);
    assert_eq!(bench.info("box")["state"], "hibernated");
    assert!(!Path::new(&format!("/proc/{monitor}")).exists(), "its monitor is gone");
    assert_eq!(bench.in_box("cat /dev/shm/kept /kept"), "in memory\non disk");
}

pub(super) fn connection_wakes_hibernated(bench: &Bench) {
    let address = serve(bench, &[]);
    bench.ok(&["instance", "hibernate", "box"]);
    eventually("the server answers", || ask(&address) == "served");
    assert_eq!(bench.in_box("cat /proc/1/comm >/dev/null; echo well"), "well");
}

pub(super) fn clock_after_hibernation(bench: &Bench) {
    bench.start_box(&[]);
    bench.ok(&["instance", "hibernate", "box"]);
    std::thread::sleep(Duration::from_secs(3));
    assert!(clock_error(|| bench.in_box("date +%s")) <= 1);
}

pub(super) fn forks(bench: &Bench) {
    bench.start_box(&[]);
    bench.in_box("echo before > /dev/shm/kept; echo before > /kept");
    bench.ok(&["fork", "--count", "2", "box"]);
    let in_child = |name: &str, script: &str| bench.ok(&["exec", name, "--", "sh", "-c", script]);
    assert_eq!(in_child("box-1", "cat /dev/shm/kept /kept; hostname"), "before\nbefore\nbox-1");
    in_child("box-1", "echo changed > /kept; echo changed > /dev/shm/kept");
    assert_eq!(in_child("box-2", "cat /dev/shm/kept /kept; hostname"), "before\nbefore\nbox-2");
    assert_eq!(bench.in_box("cat /dev/shm/kept /kept; hostname"), "before\nbefore\nbox");
}

pub(super) fn random_forks(bench: &Bench) {
    bench.start_box(&[]);
    bench.ok(&["fork", "--count", "2", "box"]);
    let draw =
        |name: &str| bench.ok(&["exec", name, "--", "sh", "-c", "head -c 16 /dev/urandom | od -An -tx1"]);
    let drawn = ["box", "box-1", "box-2"].map(draw);
    assert!(drawn[0] != drawn[1] && drawn[1] != drawn[2] && drawn[0] != drawn[2], "{drawn:?}");
}

pub(super) fn snapshot_restore(bench: &Bench) {
    bench.start_box(&[]);
    bench.in_box("echo before > /dev/shm/kept; echo before > /kept");
    bench.ok(&["snapshot", "create", "box", "then"]);
    bench.in_box("echo after > /dev/shm/kept; rm /kept");
    bench.ok(&["snapshot", "restore", "then"]);
    assert_eq!(bench.in_box("cat /dev/shm/kept /kept"), "before\nbefore");
    bench.ok(&["snapshot", "delete", "then"]);
}

pub(super) fn start_from_snapshot(bench: &Bench) {
    bench.start_box(&[]);
    bench.in_box("echo before > /dev/shm/kept");
    bench.ok(&["snapshot", "create", "box", "then"]);
    bench.ok(&["instance", "start", "--from", "then", "--name", "other"]);
    assert_eq!(
        bench.ok(&["exec", "other", "--", "sh", "-c", "cat /dev/shm/kept; hostname"]),
        "before\nother"
    );
    bench.ok(&["snapshot", "delete", "then"]);
}

pub(super) fn disk_snapshot(bench: &Bench) {
    bench.start_box(&[]);
    bench.in_box("echo before > /kept");
    bench.ok(&["snapshot", "create", "--disk-only", "box", "then"]);
    bench.in_box("rm /kept");
    bench.ok(&["instance", "start", "--from", "then", "--name", "other"]);
    assert_eq!(bench.ok(&["exec", "other", "--", "cat", "/kept"]), "before");
    assert_eq!(bench.in_box("test -e /kept || echo gone"), "gone");
    bench.ok(&["snapshot", "delete", "then"]);
}

pub(super) fn template(bench: &Bench) {
    let started = || {
        let output = bench.run(&["run", "--memory", "192m", "--timings", "--", "hostname"]);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        (String::from_utf8_lossy(&output.stdout).trim().to_owned(), errors)
    };
    let first = started();
    let mut later = started();
    eventually("a machine comes from a template", || {
        later = started();
        !later.1.contains("started by boot")
    });
    assert!(!later.0.is_empty() && later.0 != first.0, "{later:?} beside {first:?}");
}

pub(super) fn daemon_crash(bench: &Bench) {
    bench.start_box(&[]);
    bench.in_box("echo $$ > /dev/null; echo kept > /tmp/kept");
    let before = bench.monitor("box");
    bench.crash();
    assert_eq!(bench.in_box("cat /tmp/kept"), "kept");
    assert_eq!(bench.monitor("box"), before);
    bench.ok(&["instance", "stop", "box"]);
}

pub(super) fn daemon_crash_paused(bench: &Bench) {
    bench.start_box(&[]);
    bench.ok(&["instance", "pause", "box"]);
    bench.crash();
    assert_eq!(bench.info("box")["state"], "paused");
    assert_eq!(bench.in_box("echo awake"), "awake");
}

pub(super) fn daemon_crash_hibernated(bench: &Bench) {
    bench.start_box(&[]);
    bench.in_box("echo in memory > /dev/shm/kept");
    bench.ok(&["instance", "hibernate", "box"]);
    bench.crash();
    assert_eq!(bench.in_box("cat /dev/shm/kept"), "in memory");
}

pub(super) fn monitor_killed(bench: &Bench) {
    bench.start_box(&[]);
    let monitor = bench.monitor("box");
    let pid = rustix::process::Pid::from_raw(monitor).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("kill it");
    bench.reaches("box", "stopped");
    let info = bench.info("box");
    assert!(!info["stop_reason"].is_null() || !info["reason"].is_null(), "{info}");
    bench.ok(&["instance", "restart", "box"]);
    assert_eq!(bench.in_box("echo again"), "again");
}

pub(super) fn panic(bench: &Bench) {
    bench.start_box(&[]);
    // The machine goes within the call.
    bench.run(&["exec", "box", "--", "sh", "-c", "echo c > /proc/sysrq-trigger"]);
    bench.reaches("box", "stopped");
    let info = bench.info("box").to_string();
    assert!(info.contains("panic"), "{info}");
}
