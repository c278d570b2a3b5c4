//! `aegis run`: a command in a machine, its streams, its exit code, its end.

use std::io::Read;
use std::process::Child;
use std::time::{Duration, Instant};

use aegis_tests::{Daemon, eventually, wait};
use rustix::process::{Pid, Signal, kill_process};

#[test]
fn both_streams_arrive_on_their_descriptors_and_the_exit_code_is_the_commands() {
    let daemon = Daemon::start();
    let done = daemon.aegis(&["run", "--", "sh", "-c", "echo out; echo err >&2; exit 42"]);
    assert_eq!((done.code, done.out().as_str(), done.err().as_str()), (42, "out\n", "err\n"));
    let killed = daemon.aegis(&["run", "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(killed.code, 137);
    assert_eq!(daemon.ok(&["instance", "list"]).trim(), "No instances");
    assert!(daemon.machines().is_empty());
}

#[test]
fn a_command_that_cannot_be_executed_says_so_with_the_shells_codes() {
    let daemon = Daemon::start();
    let missing = daemon.aegis(&["run", "--", "no-such-command"]);
    assert_eq!(missing.code, 127);
    assert!(missing.err().contains("no-such-command"), "{}", missing.err());
    let unfit = daemon.aegis(&["run", "--", "/etc/passwd"]);
    assert_eq!(unfit.code, 126);
    assert!(unfit.err().contains("/etc/passwd"), "{}", unfit.err());
    let nobody = daemon.aegis(&["run", "--user", "nosuchuser", "--", "true"]);
    assert_eq!(nobody.code, 125);
    assert!(nobody.err().contains("nosuchuser"), "{}", nobody.err());
    assert_eq!(daemon.ok(&["instance", "list"]).trim(), "No instances");
}

#[test]
fn options_reach_the_guest() {
    let daemon = Daemon::start();
    let script =
        "id -un; pwd; echo $GREETING; nproc; grep MemTotal /proc/meminfo; df -m --output=size / | tail -1";
    let out = daemon.ok(&[
        "run",
        "--user",
        "nobody",
        "--workdir",
        "/tmp",
        "--env",
        "GREETING=good morning",
        "--cpus",
        "2",
        "--memory",
        "256",
        "--disk",
        "300",
        "--",
        "sh",
        "-c",
        script,
    ]);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(&lines[..4], ["nobody", "/tmp", "good morning", "2"]);
    let kilobytes: u64 = lines[4].split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!((180_000..262_144).contains(&kilobytes), "{kilobytes}");
    let disk: u64 = lines[5].trim().parse().unwrap();
    assert!((200..300).contains(&disk), "{disk}");
}

#[test]
fn the_base_root_file_system_has_what_agents_expect() {
    let daemon = Daemon::start();
    let script = "python -c 'print(6*7)' && python3 -m venv /tmp/v && pip --version >/dev/null && git --version >/dev/null \
        && curl --version >/dev/null && ip link show lo | grep -q UP && ps ax >/dev/null && ls /etc/ssl/certs/ca-certificates.crt \
        && getent hosts localhost >/dev/null && hostname && pwd && test -d /var/lib/dpkg/info";
    let done = daemon.aegis(&["run", "--name", "box", "--", "sh", "-c", script]);
    assert_eq!(done.code, 0, "{}", done.err());
    assert_eq!(done.out(), "42\n/etc/ssl/certs/ca-certificates.crt\nbox\n/workspace\n");
}

#[test]
fn interrupting_run_interrupts_the_command_and_deletes_the_instance() {
    let daemon = Daemon::start();
    let mut child = daemon.spawn(&[
        "run",
        "--",
        "sh",
        "-c",
        "trap 'echo interrupted; exit 7' INT; echo ready; while :; do sleep 0.1; done",
    ]);
    let mut ready = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let done = wait(child, None);
    assert_eq!((done.code, done.out().as_str()), (7, "interrupted\n"), "the command's own status");
    assert_eq!(daemon.ok(&["instance", "list"]).trim(), "No instances");
}

#[test]
fn a_second_interrupt_deletes_at_once() {
    let daemon = Daemon::start();
    let deaf = "trap '' INT; echo ready; while :; do sleep 0.1; done";
    let mut child = daemon.spawn(&["run", "--name", "deaf", "--", "sh", "-c", deaf]);
    let mut ready = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    // The first is in the guest, and changed nothing.
    assert_eq!(daemon.ok(&["exec", "deaf", "--", "echo", "alive"]), "alive\n");
    let told = aegis_tests::read_until(child.stderr.as_mut().unwrap(), "a second Ctrl-C ends it");
    assert_eq!(told.matches("the command goes on").count(), 1, "{told}");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let begun = Instant::now();
    assert_eq!(wait(child, None).code, 130);
    assert!(begun.elapsed() < Duration::from_secs(9), "that was the patience with one interrupt");
    assert_eq!(daemon.state("deaf"), "gone");
}

#[test]
fn an_instance_whose_run_has_vanished_is_deleted() {
    let daemon = Daemon::start();
    let mut child = daemon.spawn(&["run", "--name", "orphan", "--", "sh", "-c", "echo ready; sleep 1000"]);
    let mut ready = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the instance is deleted", Duration::from_secs(30), || daemon.state("orphan") == "gone");
    assert!(daemon.machines().is_empty());
}

#[test]
fn time_is_up_when_it_is_up() {
    let daemon = Daemon::start();
    let begun = Instant::now();
    let done = daemon.aegis(&["run", "--timeout", "2s", "--", "sleep", "1000"]);
    assert!(begun.elapsed() < Duration::from_secs(60));
    assert_eq!(done.code, 124, "{}", done.err());
    let box_ = daemon.instance("box", &["sleep", "1000"]);
    let done = daemon.aegis(&["exec", "--timeout", "1s", &box_, "--", "sleep", "1000"]);
    assert_eq!(done.code, 124);
}

#[test]
fn twenty_at_once_all_succeed() {
    if aegis_tests::short() {
        return;
    }
    let daemon = Daemon::start();
    let children: Vec<_> = (0..20)
        .map(|number| {
            daemon.spawn(&[
                "run",
                "--memory",
                "160",
                "--",
                "sh",
                "-c",
                &format!("echo {number}; exit {number}"),
            ])
        })
        .collect();
    for (number, child) in children.into_iter().enumerate() {
        let done = wait(child, None);
        assert_eq!(done.out(), format!("{number}\n"), "{}", done.err());
        assert_eq!(done.code, i32::try_from(number).unwrap());
    }
    assert!(daemon.machines().is_empty());
}

/// Tells all machines' processes something, those of machines that are ready for later starts as well. One that stands
/// still without having been paused is a guest that is stuck: it answers nothing.
fn signal_machines(daemon: &Daemon, signal: Signal) {
    for machine in daemon.machines() {
        // One that was only just ready may have ended.
        let _gone = kill_process(Pid::from_raw(machine).unwrap(), signal);
    }
}

#[test]
fn a_limit_of_time_holds_when_nobody_waits_any_more() {
    let daemon = Daemon::start();
    let box_ = daemon.instance("box", &["sleep", "1000"]);
    let script = "trap '' HUP; echo ready; while :; do sleep 0.2; done";
    let mut client = daemon.spawn(&["exec", "--timeout", "3s", &box_, "--", "sh", "-c", script]);
    let _ready = aegis_tests::read_until(client.stdout.as_mut().unwrap(), "ready");
    client.kill().unwrap();
    let _gone = client.wait();
    let left = || {
        daemon.shell("box", "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c 'tra[p]' || true")
    };
    assert_eq!(left().trim(), "1", "it does not mind being hung up");
    aegis_tests::eventually("it is ended", aegis_tests::DEADLINE, || left().trim() == "0");
}

#[test]
fn a_limit_of_time_and_a_signal_hold_whatever_the_guest_does() {
    let daemon = Daemon::start();
    let box_ = daemon.instance("box", &["sleep", "1000"]);
    let sleeper = || daemon.spawn(&["exec", &box_, "--", "sh", "-c", "echo ready; exec sleep 1000"]);
    let ready = |mut child: Child| {
        let _ready = aegis_tests::read_until(child.stdout.as_mut().unwrap(), "ready");
        child
    };
    let limited =
        daemon.spawn(&["exec", "--timeout", "4s", &box_, "--", "sh", "-c", "echo ready; exec sleep 1000"]);
    let (limited, terminated, interrupted) = (ready(limited), ready(sleeper()), ready(sleeper()));
    signal_machines(&daemon, Signal::STOP);
    let beginning = daemon.spawn(&["exec", &box_, "--", "true"]);
    let never_begun = daemon.spawn(&["exec", "--timeout", "4s", &box_, "--", "true"]);
    let running = daemon.spawn(&["run", "--", "sleep", "1000"]);
    kill_process(Pid::from_child(&terminated), Signal::TERM).unwrap();
    kill_process(Pid::from_child(&interrupted), Signal::INT).unwrap();
    let begun = Instant::now();
    assert_eq!(wait(terminated, None).code, 143);
    kill_process(Pid::from_child(&interrupted), Signal::INT).unwrap();
    kill_process(Pid::from_child(&beginning), Signal::INT).unwrap();
    assert_eq!(wait(interrupted, None).code, 130);
    assert_eq!(wait(beginning, None).code, 130);
    let limited = wait(limited, None);
    assert_eq!(limited.code, 124);
    assert!(limited.err().contains("time was up"), "{}", limited.err());
    assert_eq!(wait(never_begun, None).code, 124);
    assert!(begun.elapsed() < Duration::from_secs(29), "the guest's own limit for an answer is 30 s");
    kill_process(Pid::from_child(&running), Signal::INT).unwrap();
    assert_eq!(wait(running, None).code, 130);
    signal_machines(&daemon, Signal::CONT);
    assert_eq!(daemon.ok(&["exec", &box_, "--", "echo", "well"]), "well\n");
}
