//! The ladder, in real machines: what nobody uses rests, what is used does not, and it goes on as if nothing had been.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use aegis_tests::{DEADLINE, Daemon, eventually};

/// A server that answers each connection with its clock, and says when it begins to listen.
const SERVER: &str = r#"
import socket, sys, time
time.sleep(float(sys.argv[1]))
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("127.0.0.1", 80))
s.listen(4096)
while True:
    c, _ = s.accept()
    c.sendall(str(time.time()).encode())
    c.close()
"#;

fn start(daemon: &Daemon, handle: &str, options: &[&str], delay: &str) -> u16 {
    let head = ["instance", "start", "--name", handle, "--memory", "192", "--expose", "80/tcp"];
    let out = daemon.ok(&[&head, options, &["--", "python3", "-c", SERVER, delay]].concat());
    let line =
        out.lines().find(|line| line.starts_with(":80 ")).unwrap_or_else(|| panic!("no endpoint in {out}"));
    line.split([':', ' '])
        .filter_map(|word| word.parse().ok())
        .nth(1)
        .unwrap_or_else(|| panic!("no port in {line}"))
}

/// The guest's clock, as its server tells it.
fn ask(port: u16) -> f64 {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.parse().unwrap_or_else(|_| panic!("no time in {answer:?}"))
}

/// The host's clock, seconds since 1970.
pub(crate) fn now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()
}

/// An instance gets into a state.
pub(crate) fn becomes(daemon: &Daemon, handle: &str, state: &str) {
    eventually(&format!("{handle} is {state}"), DEADLINE, || daemon.state(handle) == state);
}

#[test]
fn what_nobody_uses_is_paused_then_stopped_and_each_time_the_next_connection_is_served() {
    let daemon = Daemon::start();
    let port = start(&daemon, "web", &["--idle-pause", "1s", "--idle-stop", "2s"], "0");
    ask(port);
    becomes(&daemon, "web", "paused");
    ask(port);
    assert_eq!(daemon.state("web"), "running");
    becomes(&daemon, "web", "stopped");
    let info = daemon.info("web").unwrap();
    assert_eq!((info["stop_reason"]["code"].as_str(), info["enabled"].as_bool()), (Some("idle"), Some(true)));
    assert_eq!(
        daemon.ok(&["exec", "web", "--", "echo", "awake"]),
        "awake\n",
        "an exec wakes what idleness stopped"
    );
    ask(port);
}

#[test]
fn the_clock_is_finer_than_its_ticks_however_busy_the_host_is() {
    let counters = "/sys/devices/system/clocksource/clocksource0/available_clocksource";
    if std::fs::read_to_string(counters).is_ok_and(|all| !all.contains("tsc")) {
        // A host that has found its own counter to be unreliable makes no guest rely on it.
        return;
    }
    let daemon = Daemon::start();
    // Several at once: a kernel that measures the processor's counter by itself then fails every few times.
    let script = "import time
seen = {time.monotonic_ns() for _ in range(20000)}
print(open('/sys/devices/system/clocksource/clocksource0/current_clocksource').read().strip(), len(seen) > 5000)";
    let all: Vec<_> = (0..6)
        .map(|_| daemon.spawn(&["run", "--memory", "128", "--", "python3", "-c", script]))
        .map(|child| std::thread::spawn(|| aegis_tests::wait(child, None)))
        .collect();
    for one in all {
        let done = one.join().unwrap();
        assert!(done.out().ends_with(" True\n"), "{}{}", done.out(), done.err());
    }
}

#[test]
fn the_clock_is_right_before_anything_in_the_guest_goes_on() {
    let daemon = Daemon::start();
    let port = start(&daemon, "web", &[], "0");
    ask(port);
    let longest = if std::env::var_os("SHORT").is_none() { 60 } else { 5 };
    for seconds in [2, longest] {
        assert_eq!(daemon.aegis(&["instance", "pause", "web"]).code, 0);
        std::thread::sleep(Duration::from_secs(seconds));
        let before = now();
        let told = ask(port);
        assert!(told > before - 0.5 && told < now() + 0.5, "the guest says {told}, and it is {}", now());
    }
}

#[test]
fn processes_stand_still_before_their_machine_and_go_on_after_its_clock_is_right() {
    let daemon = Daemon::start_with(&[("AEGIS_FAKE_GUEST", env!("CARGO_BIN_EXE_fake-guest"))]);
    let start = ["instance", "start", "--name", "box", "--workdir", "/tmp", "--", "sleep", "1000"];
    assert_eq!(daemon.aegis(&start).code, 0);
    for verb in ["pause", "resume"] {
        assert_eq!(daemon.aegis(&["instance", verb, "box"]).code, 0);
    }
    let report = daemon.report();
    let traces: Vec<&str> = report.lines().filter_map(|line| line.strip_prefix("trace: ")).collect();
    assert_eq!(traces, ["clock", "thaw", "freeze", "clock", "thaw"]);
    // In a real guest all but the harness are then in a group that stands still; those of a group of the guest's own stay there.
    let daemon = Daemon::start();
    let own = "mkdir /sys/fs/cgroup/own; sh -c 'echo $$ > /sys/fs/cgroup/own/cgroup.procs; exec sleep infinity' & exec sleep infinity";
    let id = daemon.instance("box", &["sh", "-c", own]);
    let look = "cd /sys/fs/cgroup; for g in guest/frozen own; do cat $g/cgroup.freeze; wc -l < $g/cgroup.procs; done; cat /proc/1/cgroup";
    let there = "until grep -q . /sys/fs/cgroup/own/cgroup.procs; do sleep 0.1; done";
    assert_eq!(daemon.aegis(&["exec", &id, "--", "sh", "-c", there]).code, 0);
    for _ in 0..2 {
        assert_eq!(daemon.aegis(&["instance", "pause", &id]).code, 0);
        assert_eq!(daemon.ok(&["exec", &id, "--", "sh", "-c", look]), "0\n1\n0\n1\n0::/guest\n");
    }
    // One that is frozen ends as properly as any: by SIGTERM, not killed when its time is up.
    assert_eq!(daemon.aegis(&["instance", "stop", &id]).code, 0);
    assert_eq!(daemon.info(&id).unwrap()["exit_code"], 143);
}

#[test]
fn a_server_that_comes_up_late_is_told_of_by_the_kernel_and_served_from_then_on() {
    let daemon = Daemon::start();
    let port = start(&daemon, "slow", &[], "2.5");
    let told = ask(port);
    assert!(told > 0.0);
    let consoles = daemon.report();
    assert!(!consoles.contains("cannot see what listens"), "{consoles}");
}

#[test]
fn a_thousand_connections_to_a_real_machine_wake_it_once_and_all_are_served() {
    let daemon = Daemon::start();
    let port = start(&daemon, "web", &[], "0");
    ask(port);
    for (verb, kind) in [("pause", "running"), ("stop", "starting")] {
        let count =
            |kind: &str| daemon.ok(&["events", "web"]).lines().filter(|line| line.contains(kind)).count();
        assert_eq!(daemon.aegis(&["instance", verb, "web"]).code, 0);
        let before = count(kind);
        let clients: Vec<_> = (0..1000).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
        for mut client in clients {
            client.set_read_timeout(Some(DEADLINE)).unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            assert!(answer.parse::<f64>().is_ok(), "{answer:?} after {verb}");
        }
        assert_eq!(count(kind), before + 1, "after {verb}");
    }
}

#[test]
fn what_is_used_stays_awake_and_info_says_by_what() {
    let daemon = Daemon::start();
    let port = start(&daemon, "web", &["--idle-pause", "1s", "--idle-stop", "never"], "0");
    ask(port);
    let awake_for = || daemon.info("web").unwrap()["kept_awake_by"].to_string();
    // An exec that sleeps.
    let mut exec = daemon.spawn(&["exec", "web", "--", "sleep", "4"]);
    eventually("it is counted", DEADLINE, || awake_for() == "[\"1 exec\"]");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(daemon.state("web"), "running");
    assert!(exec.wait().unwrap().success());
    becomes(&daemon, "web", "paused");
    // A program in the guest that asks for it.
    let lease = "curl -s --unix-socket /run/aegis/api.sock -d '{\"ttl_ms\":4000,\"reason\":\"training\"}' http://x/v1/keepalive";
    assert!(daemon.ok(&["exec", "web", "--", "sh", "-c", lease]).contains("\"held\":true"));
    eventually("it is told", DEADLINE, || awake_for() == "[\"a lease: training\"]");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(daemon.state("web"), "running");
    becomes(&daemon, "web", "paused");
    // Following its log is no use of it.
    let mut follower = daemon.spawn(&["logs", "web", "--follow"]);
    ask(port);
    becomes(&daemon, "web", "paused");
    follower.kill().unwrap();
    follower.wait().unwrap();
}

#[test]
fn work_in_the_guest_keeps_it_awake_and_sleep_does_not() {
    let daemon = Daemon::start();
    let run = |handle: &str, script: &str| {
        let head = [
            "instance",
            "start",
            "--name",
            handle,
            "--memory",
            "160",
            "--idle-pause",
            "7s",
            "--idle-stop",
            "never",
        ];
        assert_eq!(daemon.aegis(&[&head[..], &["--", "sh", "-c", script]].concat()).code, 0);
    };
    run("busy", "while :; do :; done");
    run("calm", "while :; do sleep 1; done");
    becomes(&daemon, "calm", "paused");
    assert_eq!(daemon.state("busy"), "running");
    assert_eq!(daemon.aegis(&["instance", "stop", "busy"]).code, 0);
}

#[test]
fn a_run_with_ports_rests_without_ending_and_its_client_hears_it_again() {
    let daemon = Daemon::start();
    let script = "echo up; python3 -c '
import socket
s = socket.socket(); s.bind((\"127.0.0.1\", 80)); s.listen(9)
c, _ = s.accept(); c.recv(9); c.close()
c, _ = s.accept(); c.recv(9); c.close()
'; echo over";
    let mut child = daemon.spawn(&[
        "run",
        "--memory",
        "160",
        "--name",
        "job",
        "--expose",
        "80/tcp",
        "--idle-pause",
        "1s",
        "--",
        "sh",
        "-c",
        script,
    ]);
    becomes(&daemon, "job", "paused");
    let port = daemon.info("job").unwrap()["endpoints"][0]["public_port"].as_u64().unwrap();
    let poke = || {
        let mut stream = TcpStream::connect(("127.0.0.1", u16::try_from(port).unwrap())).unwrap();
        stream.write_all(b"x").unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
    };
    poke();
    becomes(&daemon, "job", "paused");
    poke();
    assert!(child.wait().unwrap().success());
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "up\nover\n");
    let mut heard = String::new();
    child.stderr.take().unwrap().read_to_string(&mut heard).unwrap();
    assert!(heard.contains(&format!("Serving on tcp://127.0.0.1:{port}")), "{heard}");
}

#[test]
fn a_command_that_fails_is_executed_again_and_a_stop_is_the_end_of_that() {
    let daemon = Daemon::start_with(&[("AEGIS_FAKE_GUEST", env!("CARGO_BIN_EXE_fake-guest"))]);
    let start = [
        "instance",
        "start",
        "--name",
        "loop",
        "--workdir",
        "/tmp",
        "--restart",
        "on-failure",
        "--",
        "sh",
        "-c",
        "exit 3",
    ];
    assert_eq!(daemon.aegis(&start).code, 0);
    eventually("it is called a crash loop", DEADLINE, || {
        daemon.info("loop").unwrap()["condition"].as_str().is_some_and(|text| text.starts_with("crash loop"))
    });
    assert_eq!(daemon.aegis(&["instance", "stop", "loop"]).code, 0);
    let boots = || daemon.ok(&["events", "loop"]).lines().filter(|line| line.contains("starting")).count();
    let before = boots();
    assert!(before >= 3);
    assert_eq!(daemon.info("loop").unwrap()["restart_at"], serde_json::Value::Null);
    daemon.crash();
    daemon.up();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!((boots(), daemon.state("loop").as_str()), (before, "stopped"));
    let once =
        ["instance", "start", "--name", "once", "--workdir", "/tmp", "--restart", "on-failure", "--", "true"];
    assert_eq!(daemon.aegis(&once).code, 0);
    becomes(&daemon, "once", "stopped");
    assert_eq!(daemon.info("once").unwrap()["restart_at"], serde_json::Value::Null);
}

#[test]
fn an_instance_whose_lifetime_is_over_is_disabled_for_good() {
    let daemon = Daemon::start_with(&[("AEGIS_FAKE_GUEST", env!("CARGO_BIN_EXE_fake-guest"))]);
    let line = |handle| {
        [
            "instance",
            "start",
            "--name",
            handle,
            "--workdir",
            "/tmp",
            "--max-lifetime",
            "2s",
            "--",
            "sleep",
            "1000",
        ]
    };
    assert_eq!(daemon.aegis(&line("brief")).code, 0);
    eventually("its lifetime is over", DEADLINE, || daemon.info("brief").unwrap()["enabled"] == false);
    becomes(&daemon, "brief", "stopped");
    assert_eq!(daemon.info("brief").unwrap()["stop_reason"]["code"], "lifetime");
    let done = daemon.aegis(&["instance", "start", "--name", "brief"]);
    assert!(done.code == 1 && done.err().contains("lifetime is over"), "{}", done.err());
    // Also over a daemon that was away meanwhile.
    assert_eq!(daemon.aegis(&line("other")).code, 0);
    daemon.crash();
    std::thread::sleep(Duration::from_secs(2));
    daemon.up();
    becomes(&daemon, "other", "stopped");
    let run = daemon.aegis(&["run", "--workdir", "/tmp", "--max-lifetime", "1s", "--", "sleep", "1000"]);
    assert_eq!(run.code, 124, "{}", run.err());
}
