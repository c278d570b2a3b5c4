//! What happens when something dies: the daemon, a machine, a guest's kernel.

use std::time::Duration;

use aegis_tests::{DEADLINE, Daemon, Done, eventually};
use rustix::process::{Pid, Signal, kill_process};

#[test]
fn machines_outlive_the_daemon_and_their_logs_have_no_hole_and_no_repeat() {
    let daemon = Daemon::start();
    let others = if aegis_tests::short() { 2 } else { 9 };
    for number in 0..others {
        let _id = daemon.instance(&format!("quiet-{number}"), &["sleep", "1000"]);
    }
    let script = "i=0; while :; do i=$((i+1)); echo line $i; done";
    let id = daemon.instance("loud", &["sh", "-c", script]);
    std::thread::sleep(Duration::from_secs(1));
    daemon.crash();
    assert_eq!(daemon.machines().len(), others + 1);
    std::thread::sleep(Duration::from_secs(1));
    daemon.up();
    let list = daemon.ok(&["instance", "list", "--running"]);
    assert_eq!(list.matches("running").count(), others + 1, "{list}");
    assert_eq!(daemon.ok(&["exec", "quiet-0", "--", "echo", "here"]), "here\n");
    std::thread::sleep(Duration::from_secs(1));
    assert!(daemon.ok(&["instance", "pause", "loud"]).contains("paused"));
    let log = daemon.ok(&["logs", &id]);
    let numbers: Vec<u64> = log
        .lines()
        .filter_map(|line| line.strip_prefix("line "))
        .map(|number| number.parse().unwrap())
        .collect();
    assert!(numbers.len() > 1000, "{}", numbers.len());
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "a hole or a repeat");
}

#[test]
fn run_goes_on_after_a_crash_of_the_daemon_without_losing_a_byte() {
    let daemon = Daemon::start();
    let script = "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); echo line $i; done; exit 5";
    let child = daemon.spawn(&["run", "--", "sh", "-c", script]);
    let mut child = child;
    let mut stdout = child.stdout.take().unwrap();
    let begin = aegis_tests::read_exactly(&mut stdout, 7);
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        std::io::Read::read_to_end(&mut stdout, &mut text).unwrap();
        text
    });
    daemon.crash();
    daemon.up();
    let done = aegis_tests::wait(child, None);
    let text = String::from_utf8([begin, reader.join().unwrap()].concat()).unwrap();
    assert_eq!(done.code, 5, "{}", done.err());
    assert_eq!(text.lines().count(), 30_000);
    assert!(text.lines().enumerate().all(|(index, line)| line == format!("line {}", index + 1)));
    assert_eq!(daemon.ok(&["instance", "list"]).trim(), "No instances");
}

#[test]
fn a_machine_that_is_killed_is_noticed_at_once_and_harms_no_other() {
    let daemon = Daemon::start();
    let _one = daemon.instance("one", &["sleep", "1000"]);
    let one = daemon.machines();
    let _two = daemon.instance("two", &["sleep", "1000"]);
    kill_process(Pid::from_raw(one[0]).unwrap(), Signal::KILL).unwrap();
    // A second on a quiet host; this one may be anything but.
    eventually("it is stopped", Duration::from_secs(5), || daemon.state("one") == "stopped");
    let info = daemon.info("one").unwrap();
    assert_eq!(info["stop_reason"]["code"], "vmm_died");
    assert_eq!(daemon.ok(&["exec", "two", "--", "echo", "well"]), "well\n");
}

#[test]
fn a_kernel_panic_is_the_stated_reason_with_the_consoles_end() {
    let daemon = Daemon::start();
    let _id = daemon.instance("box", &["sleep", "1000"]);
    let script = "echo 1 > /proc/sys/kernel/sysrq; (sleep 0.3; echo c > /proc/sysrq-trigger) & :";
    let _gone = daemon.aegis(&["exec", "box", "--", "sh", "-c", script]);
    eventually("it is stopped", DEADLINE, || daemon.state("box") == "stopped");
    let reason = &daemon.info("box").unwrap()["stop_reason"];
    assert_eq!(reason["code"], "kernel_panic");
    assert!(reason["message"].as_str().unwrap().contains("sysrq"), "{reason}");
    assert!(!reason["console"].as_array().unwrap().is_empty());
}

#[test]
fn a_timeout_goes_on_over_a_crash_of_the_daemon() {
    let daemon = Daemon::start_with(&[("AEGIS_FAKE_GUEST", env!("CARGO_BIN_EXE_fake-guest"))]);
    let start =
        ["instance", "start", "--name", "box", "--workdir", "/tmp", "--timeout", "4s", "--", "sleep", "1000"];
    assert!(daemon.ok(&start).contains("Handle: box"));
    let started = daemon.info("box").unwrap()["started_at"].clone();
    assert!(started.is_string());
    daemon.crash();
    daemon.up();
    assert_eq!(daemon.info("box").unwrap()["started_at"], started);
    eventually("its time is up", aegis_tests::DEADLINE, || daemon.state("box") == "stopped");
    let info = daemon.info("box").unwrap();
    assert_eq!((&info["stop_reason"]["code"], &info["started_at"]), (&"timeout".into(), &started));
}

#[test]
fn a_paused_machine_is_found_paused_after_a_crash() {
    let daemon = Daemon::start();
    let _id = daemon.instance("box", &["sleep", "1000"]);
    assert!(daemon.ok(&["instance", "pause", "box"]).contains("paused"));
    daemon.crash();
    daemon.up();
    assert_eq!(daemon.state("box"), "paused");
    assert_eq!(daemon.ok(&["exec", "box", "--", "echo", "awake"]), "awake\n");
    for pause in [true, false] {
        if pause {
            assert!(daemon.ok(&["instance", "pause", "box"]).contains("paused"));
        }
        daemon.crash();
        daemon.up();
        assert!(daemon.ok(&["instance", "stop", "box"]).contains("stopped"));
        assert_eq!(daemon.info("box").unwrap()["exit_code"], 143, "the command got its SIGTERM");
        assert!(daemon.ok(&["instance", "start", "--name", "box"]).contains("box"));
    }
}

#[test]
fn a_daemon_that_ends_stops_its_machines_unless_told_otherwise() {
    let daemon = Daemon::start();
    let _id = daemon.instance("box", &["sleep", "1000"]);
    assert!(daemon.ok(&["down", "--keep-instances"]).contains("aegisd stopped"));
    assert_eq!(daemon.machines().len(), 1);
    daemon.up();
    assert_eq!(daemon.state("box"), "running");
    let pid = daemon.pid();
    daemon.signal(Signal::TERM);
    eventually("the daemon ends", DEADLINE, || !aegis_tests::is_alive(pid));
    assert!(daemon.machines().is_empty());
    daemon.up();
    let info = daemon.info("box").unwrap();
    assert_eq!((info["state"].as_str(), info["enabled"].as_bool()), (Some("stopped"), Some(true)));
    assert_eq!(info["stop_reason"]["message"], "daemon stopped");
    assert!(daemon.ok(&["logs", "box"]).contains("[system] boot 1"), "logs stay");
}

#[test]
fn a_machine_that_no_record_knows_is_ended_and_swept_away() {
    let daemon = Daemon::start();
    let id = daemon.instance("box", &["sleep", "1000"]);
    daemon.crash();
    for suffix in ["", "-wal", "-shm"] {
        let _absent = std::fs::remove_file(daemon.root().join(format!("data/aegis.db{suffix}")));
    }
    daemon.up();
    assert!(daemon.machines().iter().all(|pid| !aegis_tests::is_alive(*pid)));
    assert_eq!(daemon.files_of(&id), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_disable_that_a_crash_cut_short_is_carried_out_by_the_next_daemon() {
    let daemon = Daemon::start_with(&[("AEGIS_FAKE_GUEST", env!("CARGO_BIN_EXE_fake-guest"))]);
    let stubborn = "trap '' TERM; while :; do sleep 1; done";
    let start = ["instance", "start", "--name", "box", "--workdir", "/tmp", "--", "sh", "-c", stubborn];
    assert_eq!(daemon.aegis(&start).code, 0);
    let mut disable = daemon.spawn(&["instance", "disable", "box"]);
    eventually("it has begun", DEADLINE, || daemon.info("box").unwrap()["enabled"] == false);
    assert_eq!(daemon.state("box"), "running", "it is under way");
    daemon.crash();
    assert!(!disable.wait().unwrap().success());
    daemon.up();
    eventually("it is done", DEADLINE, || daemon.state("box") == "stopped");
    assert_eq!(daemon.info("box").unwrap()["enabled"], false);
}

/// Processor time that QEMU has used when its guest boots, and is far from up; clock ticks (`proc_pid_stat(5)`).
const INTO_THE_BOOT: u64 = 30;

fn cpu_ticks(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

/// A guest with two emulated processors whose monitor is killed while it boots, so many times. Returns the killed ones.
fn boot_with_deaths(daemon: &Daemon, deaths: usize) -> (Done, Vec<i32>) {
    let child = daemon.spawn(&["run", "--no-template", "--cpus", "2", "--", "echo", "fine"]);
    let mut killed = Vec::new();
    while killed.len() < deaths {
        eventually("another machine boots", DEADLINE, || {
            let is_next = |pid: &i32| !killed.contains(pid) && cpu_ticks(*pid) >= INTO_THE_BOOT;
            let next = daemon.machines().into_iter().find(is_next);
            killed.extend(next);
            next.is_some_and(|pid| kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).is_ok())
        });
    }
    (aegis_tests::wait(child, None), killed)
}

#[test]
fn a_guest_with_several_emulated_processors_that_is_lost_as_it_boots_is_booted_again_but_not_for_ever() {
    let daemon = Daemon::start();
    if !daemon.ok(&["status"]).contains("accelerator: tcg") {
        eprintln!(
            "not with hardware virtualisation: there a machine that dies is not lost to a fault of emulation"
        );
        return;
    }
    let (done, _) = boot_with_deaths(&daemon, 1);
    assert_eq!((done.code, done.out().as_str()), (0, "fine\n"), "{}", done.err());
    let (done, killed) = boot_with_deaths(&daemon, 3);
    assert!(done.code != 0 && done.err().contains("while booting"), "{killed:?}: {}", done.err());
    assert!(daemon.machines().is_empty(), "a fourth was booted");
}
