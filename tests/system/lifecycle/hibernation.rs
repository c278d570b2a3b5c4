//! Machines on disk: they cost nothing there, and go on as if nothing had been, or boot if they cannot.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aegis_tests::{DEADLINE, Daemon, cut_short, eventually, flip_a_bit};

use crate::lifecycle::idle::{becomes, now};

/// A server that remembers: how often it was asked, a file of the workspace that it keeps open, one that has no name any
/// more, and a child that counts on. It answers with all of that and its clock.
const SERVER: &str = r#"
import os, socket, subprocess, sys, time
kept = open("/workspace/kept", "a+")
nameless = open("/root/nameless", "w+"); os.unlink("/root/nameless")
child = subprocess.Popen([sys.executable, "-c", "import time\nn=0\nwhile True: n+=1; open('/tmp/n','w').write(str(n)); time.sleep(0.05)"])
ballast = os.urandom(8 << 20)
def on_term(*_):
    open("/root/ended", "w").write("in order"); os._exit(0)
import signal; signal.signal(signal.SIGTERM, on_term)
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("127.0.0.1", 80)); s.listen(64)
asked, last = 0, time.monotonic()
while True:
    c, _ = s.accept()
    asked += 1
    for f in (kept, nameless): f.write("x"); f.flush()
    nameless.seek(0); kept.seek(0)
    assert time.monotonic() >= last; last = time.monotonic()
    text = f"{asked} {len(kept.read())} {len(nameless.read())} {child.poll()} {sum(ballast)} {time.time()}"
    c.sendall(text.encode()); c.close()
"#;

fn start(daemon: &Daemon, handle: &str, options: &[&str]) -> u16 {
    let head = ["instance", "start", "--name", handle, "--memory", "192", "--expose", "80/tcp"];
    let _out = daemon.ok(&[&head, options, &["--", "python3", "-c", SERVER]].concat());
    let port = daemon.info(handle).unwrap()["endpoints"][0]["public_port"].as_u64().unwrap();
    u16::try_from(port).unwrap()
}

/// What the server answers: how often it was asked, the rest of what it remembers, and its clock.
fn ask(port: u16) -> (u32, String, f64) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let words: Vec<&str> = answer.split(' ').collect();
    assert_eq!(words.len(), 6, "{answer:?}");
    assert_eq!(
        (words[0], words[0]),
        (words[1], words[2]),
        "files are as long as it was asked often: {answer}"
    );
    (words[0].parse().unwrap(), words[3..5].join(" "), words[5].parse().unwrap())
}

/// Files with a machine's memory.
fn memories(daemon: &Daemon) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(daemon.root().join("data/disks")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "memory")).collect()
}

fn hibernate(daemon: &Daemon, handle: &str) -> PathBuf {
    assert_eq!(daemon.ok(&["instance", "hibernate", handle]), format!("Instance {handle} hibernated\n"));
    assert_eq!(daemon.state(handle), "hibernated");
    let all = memories(daemon);
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].clone()
}

#[test]
fn a_hibernated_instance_has_no_process_and_goes_on_where_it_was_with_the_clock_right() {
    let daemon = Daemon::start();
    let shared = tempfile::tempdir().unwrap();
    let port = start(&daemon, "web", &["--workspace", shared.path().to_str().unwrap()]);
    let (asked, remembered, _) = ask(port);
    assert_eq!(asked, 1);
    let count = |daemon: &Daemon| -> u64 {
        daemon.ok(&["exec", "web", "--", "cat", "/tmp/n"]).trim().parse().unwrap_or(0)
    };
    let counted = count(&daemon);
    for round in 2..5 {
        let file = hibernate(&daemon, "web");
        assert!(daemon.machines().is_empty());
        assert_eq!(daemon.ok(&["instance", "hibernate", "web"]), "Instance web hibernated\n");
        std::thread::sleep(Duration::from_secs(2));
        let before = now();
        let (asked, still, clock) = ask(port);
        assert_eq!((asked, &still), (round, &remembered));
        assert!((before - 0.1..=now() + 0.1).contains(&clock), "{before} {clock}");
        assert_eq!(daemon.state("web"), "running");
        assert!(!file.exists(), "what is on disk is as old as the machine");
    }
    eventually("its child goes on", DEADLINE, || count(&daemon) > counted + 5);
    let log = daemon.ok(&["logs", "web"]);
    assert_eq!(log.matches("[system] boot").count(), 1, "{log}");
    assert_eq!(std::fs::read_to_string(shared.path().join("kept")).unwrap(), "xxxx");
}

#[test]
fn exec_wakes_it_and_stop_ends_it_in_good_order_and_delete_leaves_nothing() {
    let daemon = Daemon::start();
    let port = start(&daemon, "web", &[]);
    ask(port);
    hibernate(&daemon, "web");
    assert_eq!(daemon.ok(&["exec", "web", "--", "echo", "here"]), "here\n");
    hibernate(&daemon, "web");
    assert_eq!(daemon.ok(&["instance", "resume", "web"]), "Instance web resumed\n");
    assert_eq!(ask(port).0, 2);
    hibernate(&daemon, "web");
    let _stopped = daemon.ok(&["instance", "stop", "web"]);
    assert!(memories(&daemon).is_empty());
    let _started = daemon.ok(&["instance", "start", "--name", "web"]);
    assert_eq!(daemon.ok(&["exec", "web", "--", "cat", "/root/ended"]), "in order");
    let _file = hibernate(&daemon, "web");
    let id = daemon.info("web").unwrap()["id"].as_str().unwrap().to_owned();
    let _deleted = daemon.ok(&["instance", "delete", "web"]);
    assert_eq!(daemon.files_of(&id), Vec::<PathBuf>::new());
}

#[test]
fn what_nobody_uses_goes_to_disk_by_itself_and_is_stopped_in_the_end() {
    let daemon = Daemon::start();
    let port = start(&daemon, "web", &["--idle-pause", "1s", "--idle-hibernate", "1s", "--idle-stop", "1h"]);
    ask(port);
    becomes(&daemon, "web", "hibernated");
    assert_eq!(daemon.info("web").unwrap()["next_step"]["action"], "stop");
    assert_eq!(ask(port).0, 2);
    let _deleted = daemon.ok(&["instance", "delete", "web"]);
    let port = start(&daemon, "web", &["--idle-pause", "1s", "--idle-hibernate", "1s", "--idle-stop", "3s"]);
    ask(port);
    becomes(&daemon, "web", "stopped");
    assert!(memories(&daemon).is_empty());
    assert_eq!(daemon.ok(&["exec", "web", "--", "cat", "/root/ended"]), "in order");
}

#[test]
fn it_stays_on_disk_while_the_daemon_ends_and_another_one_comes() {
    let daemon = Daemon::start();
    let port = start(&daemon, "web", &[]);
    let (_, remembered, _) = ask(port);
    let file = hibernate(&daemon, "web");
    assert_eq!(daemon.aegis(&["down"]).code, 0);
    daemon.up();
    assert_eq!(daemon.state("web"), "hibernated");
    assert_eq!(ask(port).1, remembered);
    assert!(!file.exists());
    hibernate(&daemon, "web");
    daemon.crash();
    daemon.up();
    assert_eq!(daemon.state("web"), "hibernated");
    assert_eq!(ask(port).0, 3);
}

/// Kills the daemon so long after a command has begun, and has another one take over.
fn crash_during(daemon: &Daemon, arguments: &[&str], after: Duration) {
    let child = daemon.spawn(arguments);
    std::thread::sleep(after);
    daemon.crash();
    let _failed = aegis_tests::wait(child, None);
    daemon.up();
}

#[test]
fn a_daemon_that_dies_while_a_machine_goes_to_disk_or_comes_back_loses_nothing() {
    let daemon = Daemon::start();
    let port = start(&daemon, "web", &[]);
    let (mut times, remembered, _) = ask(port);
    let delays: &[u64] = if aegis_tests::short() { &[60, 160] } else { &[20, 60, 100, 140, 180, 220, 300] };
    for delay in delays {
        for verb in ["hibernate", "resume"] {
            crash_during(&daemon, &["instance", verb, "web"], Duration::from_millis(*delay));
            let state = daemon.state("web");
            assert!(
                ["running", "paused", "hibernated"].contains(&state.as_str()),
                "{verb} {delay} ms: {state}"
            );
            let machines = daemon.machines().len();
            assert_eq!(machines, usize::from(state != "hibernated"), "{verb} {delay} ms: {state}");
            assert_eq!(
                memories(&daemon).len(),
                usize::from(state == "hibernated"),
                "{verb} {delay} ms: {state}"
            );
            let (asked, still, _) = ask(port);
            times += 1;
            assert_eq!((asked, &still), (times, &remembered), "{verb} {delay} ms: {state}");
            if verb == "hibernate" {
                hibernate(&daemon, "web");
            }
        }
    }
}

#[test]
fn what_stood_still_when_its_daemon_died_goes_to_disk_and_is_taken_as_ever() {
    let daemon = Daemon::start();
    let port = start(&daemon, "web", &["--idle-pause", "1s", "--idle-hibernate", "never"]);
    let (_, remembered, _) = ask(port);
    for (round, verbs) in
        [&["instance", "hibernate", "web"][..], &["snapshot", "create", "web"], &["fork", "web"]]
            .into_iter()
            .enumerate()
    {
        let _out = daemon.ok(&["instance", "pause", "web"]);
        daemon.crash();
        daemon.up();
        let _out = daemon.ok(verbs);
        let (asked, still, _) = ask(port);
        assert_eq!((asked as usize, &still), (round + 2, &remembered), "{verbs:?}");
    }
}

#[test]
fn a_stop_is_in_good_order_at_whatever_moment_of_the_way_to_disk_it_comes() {
    let daemon = Daemon::start();
    let dir = tempfile::tempdir().unwrap();
    let port = start(&daemon, "web", &[]);
    for delay_ms in [0, 10, 30, 60, 90, 120, 150, 250] {
        // It is up, and hears of its end.
        let mut answer = String::new();
        let _length = TcpStream::connect(("127.0.0.1", port)).unwrap().read_to_string(&mut answer).unwrap();
        let _out = daemon.ok(&["exec", "web", "--", "rm", "-f", "/root/ended"]);
        std::thread::scope(|scope| {
            // Whichever of the two is refused: it is stopped in the end.
            scope.spawn(|| daemon.aegis(&["instance", "hibernate", "web"]));
            std::thread::sleep(Duration::from_millis(delay_ms));
            let _out = daemon.ok(&["instance", "stop", "web"]);
        });
        assert_eq!(daemon.state("web"), "stopped", "{delay_ms} ms");
        let copied = dir.path().join(format!("ended-{delay_ms}"));
        let _out = daemon.ok(&["cp", "web:/root/ended", copied.to_str().unwrap()]);
        assert_eq!(std::fs::read_to_string(copied).unwrap(), "in order", "{delay_ms} ms");
        let _out = daemon.ok(&["instance", "start", "--name", "web"]);
    }
}

#[test]
fn a_stop_is_in_good_order_right_after_a_pause_and_while_one_is_under_way() {
    let daemon = Daemon::start();
    let dir = tempfile::tempdir().unwrap();
    let port = start(&daemon, "web", &[]);
    for round in 0..8 {
        // It is up, and hears of its end.
        let mut answer = String::new();
        let _length = TcpStream::connect(("127.0.0.1", port)).unwrap().read_to_string(&mut answer).unwrap();
        let _out = daemon.ok(&["exec", "web", "--", "rm", "-f", "/root/ended"]);
        if round % 2 == 0 {
            // The pause has been answered, and the kernel may not have carried it out yet.
            let _out = daemon.ok(&["instance", "pause", "web"]);
            let _out = daemon.ok(&["instance", "stop", "web"]);
        } else {
            std::thread::scope(|scope| {
                scope.spawn(|| daemon.aegis(&["instance", "pause", "web"]));
                let _out = daemon.ok(&["instance", "stop", "web"]);
            });
        }
        let copied = dir.path().join(format!("ended-{round}"));
        let _out = daemon.ok(&["cp", "web:/root/ended", copied.to_str().unwrap()]);
        assert_eq!(std::fs::read_to_string(copied).unwrap(), "in order", "round {round}");
        let _out = daemon.ok(&["instance", "start", "--name", "web"]);
    }
}

#[test]
fn one_that_cannot_go_to_disk_stays_paused_and_is_stopped_in_its_time() {
    let daemon = Daemon::start();
    let times = ["--idle-pause", "1s", "--idle-hibernate", "1s", "--idle-stop", "4s"];
    let port = start(&daemon, "web", &times);
    ask(port);
    let id = daemon.info("web").unwrap()["id"].as_str().unwrap().to_owned();
    // Something is in its place.
    std::fs::create_dir_all(daemon.root().join(format!("data/disks/{id}.memory/x"))).unwrap();
    becomes(&daemon, "web", "paused");
    let refused = daemon.aegis(&["instance", "hibernate", "web"]);
    assert!(refused.code == 1 && refused.err().contains("directory"), "{}", refused.err());
    assert_eq!(daemon.state("web"), "paused");
    becomes(&daemon, "web", "stopped");
    std::fs::remove_dir_all(daemon.root().join(format!("data/disks/{id}.memory"))).unwrap();
}

/// A way to spoil a file, and its name.
type Spoil<'a> = (&'a str, &'a dyn Fn(&Path));

#[test]
fn memory_that_is_cut_short_damaged_missing_or_of_another_disk_is_refused_and_nothing_else_is_lost() {
    let daemon = Daemon::start();
    let port = start(&daemon, "web", &[]);
    let remove = |file: &Path| std::fs::remove_file(file).unwrap();
    let other_disk = |file: &Path| {
        let mut disk = std::fs::File::options().append(true).open(file.with_extension("ext4")).unwrap();
        disk.flush().unwrap();
        disk.set_modified(std::time::SystemTime::now()).unwrap();
    };
    let spoils: [Spoil<'_>; 4] =
        [("cut", &cut_short), ("flip", &flip_a_bit), ("remove", &remove), ("other disk", &other_disk)];
    for (name, spoil) in spoils {
        ask(port);
        let script = format!("echo '{name}' > /root/note");
        let _written = daemon.ok(&["exec", "web", "--", "sh", "-c", &script]);
        let file = hibernate(&daemon, "web");
        spoil(&file);
        // It boots, and its server begins anew; what was written is there though nobody had synced it.
        assert_eq!(daemon.ok(&["exec", "web", "--", "cat", "/root/note"]), format!("{name}\n"));
        assert!(!file.exists());
        let _cleared = daemon.ok(&["exec", "web", "--", "sh", "-c", ": > /workspace/kept"]);
        let _restarted = daemon.ok(&["instance", "restart", "web"]);
        assert_eq!(ask(port).0, 1, "{name}");
    }
}

#[test]
fn an_instance_with_secrets_never_goes_to_disk() {
    let daemon = Daemon::start();
    let set = daemon.aegis_with_input(&["secret", "set", "TOKEN", "-"], b"swordfish\n".to_vec());
    assert_eq!(set.code, 0);
    let times = ["--secret", "TOKEN", "--idle-pause", "1s", "--idle-hibernate", "1s", "--idle-stop", "5s"];
    let port = start(&daemon, "web", &times);
    ask(port);
    let refused = daemon.aegis(&["instance", "hibernate", "web"]);
    assert!(refused.code == 1 && refused.err().contains("holds secrets"), "{}", refused.err());
    assert_eq!(daemon.state("web"), "running");
    becomes(&daemon, "web", "paused");
    assert_eq!(daemon.info("web").unwrap()["next_step"]["action"], "stop");
    becomes(&daemon, "web", "stopped");
    assert!(memories(&daemon).is_empty());
}

#[test]
fn an_exec_that_runs_is_hung_up_when_its_instance_goes_to_disk_and_keeps_nothing_awake() {
    let daemon = Daemon::start();
    let _id = daemon.instance("box", &["sleep", "1000"]);
    let plain = daemon.spawn(&["exec", "box", "--", "sh", "-c", "echo runs > /tmp/plain; sleep 1000"]);
    let line = ["exec", "-i", "box", "--", "sh", "-c", "echo runs > /tmp/fed; cat"];
    let mut fed = daemon.command(&line).stdin(std::process::Stdio::piped()).spawn().unwrap();
    let stdin = fed.stdin.take().unwrap();
    let both = "test -s /tmp/plain -a -s /tmp/fed";
    eventually("both run", DEADLINE, || daemon.aegis(&["exec", "box", "--", "sh", "-c", both]).code == 0);
    let _out = daemon.ok(&["instance", "hibernate", "box"]);
    for exec in [plain, fed] {
        let done = aegis_tests::wait(exec, None);
        assert!(
            done.code != 0 && done.err().contains("the instance stopped"),
            "{}: {}",
            done.code,
            done.err()
        );
    }
    drop(stdin);
    assert_eq!(daemon.shell("box", "echo awake"), "awake");
    eventually("nothing keeps it awake", DEADLINE, || {
        daemon.ok(&["instance", "info", "box"]).contains("Awake for:   -")
    });
}
