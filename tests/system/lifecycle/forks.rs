//! Forks: children go on where their parent stands, as somebody else, and share with it what they were said to share.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use aegis_tests::{DEADLINE, Daemon, eventually};
use serde_json::Value;

use crate::lifecycle::idle::now;

/// A server that counts what it is asked, from numbers that it had before it was forked. Asked `wait` it holds the
/// connection, and writes down how that ends.
const SERVER: &str = r#"
import os, socket, sys, threading, time
print("begun", flush=True)
ballast = os.urandom(8 << 20)
asked, last = 0, time.monotonic()
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("", 80)); s.listen(64)
def hold(c):
    c.sendall(b"held\n")
    try:
        rest = c.recv(100)
        open("/root/held", "w").write("heard " + rest.decode() if rest else "closed")
        c.sendall(rest)
    except OSError:
        open("/root/held", "w").write("closed")
    c.close()
while True:
    c, _ = s.accept()
    word = c.recv(4)
    if word == b"wait":
        threading.Thread(target=hold, args=(c,)).start(); continue
    asked += 1
    assert time.monotonic() >= last; last = time.monotonic()
    print("asked", asked, flush=True)
    c.sendall(f"{asked} {sum(ballast)} {os.urandom(8).hex()} {socket.gethostname()} {time.time()}".encode()); c.close()
"#;

/// What the random numbers of a new program begin with (`AT_RANDOM`).
const AT_RANDOM: &str = "import ctypes; l = ctypes.CDLL(None); l.getauxval.restype = ctypes.c_ulong; \
                         print(ctypes.string_at(ctypes.c_void_p(l.getauxval(25)), 16).hex())";

fn start(daemon: &Daemon, handle: &str, options: &[&str]) -> u16 {
    let head = ["instance", "start", "--name", handle, "--memory", "192", "--expose", "80/tcp"];
    let _out = daemon.ok(&[&head, options, &["--", "python3", "-u", "-c", SERVER]].concat());
    port_of(daemon, handle)
}

fn port_of(daemon: &Daemon, handle: &str) -> u16 {
    let port = daemon.info(handle).unwrap()["endpoints"][0]["public_port"].as_u64().unwrap();
    u16::try_from(port).unwrap()
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// What a server says of itself.
#[derive(Debug)]
struct Answer {
    asked: u32,
    ballast: String,
    random: String,
    host: String,
    time: f64,
}

fn ask(port: u16) -> Answer {
    let mut stream = connect(port);
    stream.write_all(b"ask ").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let words: Vec<&str> = text.split(' ').collect();
    assert_eq!(words.len(), 5, "{text:?}");
    Answer {
        asked: words[0].parse().unwrap(),
        ballast: words[1].to_owned(),
        random: words[2].to_owned(),
        host: words[3].to_owned(),
        time: words[4].parse().unwrap(),
    }
}

fn fork(daemon: &Daemon, handle: &str, options: &[&str]) -> Value {
    let out = daemon.ok(&[&["fork", handle, "--output", "json"], options].concat());
    serde_json::from_str(&out).unwrap()
}

fn all_different(what: &str, values: &[String]) {
    let set: BTreeSet<&String> = values.iter().collect();
    assert_eq!(set.len(), values.len(), "{what}: {values:?}");
}

#[test]
fn children_go_on_where_their_parent_stands_with_names_numbers_and_a_clock_of_their_own() {
    let daemon = Daemon::start();
    let parent = start(&daemon, "web", &[]);
    assert_eq!(ask(parent).asked, 1);
    let hook = "printf '#!/bin/sh\\necho $1 > /root/became\\n' > /etc/aegis/resume.d/10-note";
    let _ready = daemon.shell(
        "web",
        &format!(
            "mkdir -p /etc/aegis/resume.d; {hook}; chmod +x /etc/aegis/resume.d/10-note; \
             echo {:032} > /etc/machine-id; cat /proc/sys/kernel/random/boot_id",
            7
        ),
    );
    let reply = fork(&daemon, "web", &["--count", "3", "--expose", "80/tcp"]);
    let children: Vec<String> = reply["instances"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["handle"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(children, ["web-1", "web-2", "web-3"]);
    let before = ask(parent);
    assert_eq!(before.asked, 2, "the parent goes on");

    let everyone: Vec<String> = std::iter::once("web".to_owned()).chain(children.clone()).collect();
    let each = |script: &str| everyone.iter().map(|handle| daemon.shell(handle, script)).collect::<Vec<_>>();
    let answers: Vec<Answer> = children.iter().map(|child| ask(port_of(&daemon, child))).collect();
    for (answer, child) in answers.iter().zip(&children) {
        assert_eq!(
            (answer.asked, &answer.ballast),
            (2, &before.ballast),
            "it goes on where its parent stood"
        );
        assert_eq!(&answer.host, child);
        assert!((answer.time - now()).abs() < 5.0, "{answer:?}");
        assert_eq!(daemon.started_by(child), "fork");
    }
    all_different("random numbers", &answers.iter().map(|answer| answer.random.clone()).collect::<Vec<_>>());
    all_different("the kernel's", &each("head -c 16 /dev/urandom | od -An -tx1"));
    all_different("of new programs", &each(&format!("python3 -c '{AT_RANDOM}'")));
    all_different("boot ids", &each("cat /proc/sys/kernel/random/boot_id"));
    all_different("machine ids", &each("cat /etc/machine-id"));
    all_different("UUIDs", &each("cat /proc/sys/kernel/random/uuid"));
    assert_eq!(each("hostname"), everyone);
    assert_eq!(each("cat /etc/hostname"), everyone);
    assert_eq!(each("cat /root/became 2>/dev/null || echo nothing"), ["nothing", "fork", "fork", "fork"]);
    let once = each("cat /proc/sys/kernel/random/boot_id");
    assert_eq!(once, each("cat /proc/sys/kernel/random/boot_id"), "the same as long as it is up");

    // Each has a disk and a log of its own.
    let _written = daemon.shell("web-1", "echo mine > /root/mine");
    assert_eq!(each("cat /root/mine 2>/dev/null || echo none"), ["none", "mine", "none", "none"]);
    let log = daemon.ok(&["logs", "web-2"]);
    assert!(log.contains("asked 2") && !log.contains("begun") && !log.contains("asked 1"), "{log}");
    let log = daemon.ok(&["logs", "web"]);
    assert!(log.contains("begun") && log.contains("asked 2"), "{log}");

    // Forks of forks, and names that are taken are passed over.
    let reply = fork(&daemon, "web-1", &["--name", "web"]);
    assert_eq!(reply["instances"][0]["handle"], "web-4");
    assert_eq!(daemon.shell("web-4", "cat /root/mine"), "mine");
    let ids = [
        daemon.shell("web-1", "cat /proc/sys/kernel/random/boot_id"),
        daemon.shell("web-4", "cat /proc/sys/kernel/random/boot_id"),
    ];
    all_different("boot ids of a fork of a fork", &ids);
    // They are instances as others are.
    let _out = daemon.ok(&["instance", "restart", "web-2"]);
    assert_eq!(daemon.shell("web-2", "cat /root/became"), "fork");
    let _out = daemon.ok(&["instance", "delete", "web", "web-1", "web-2", "web-3", "web-4"]);
    eventually("nothing is left", DEADLINE, || daemon.machines().is_empty());
    assert_eq!(std::fs::read_dir(daemon.root().join("data/snapshots")).unwrap().count(), 0);
}

#[test]
fn connections_stay_with_the_parent_and_children_see_them_closed() {
    let daemon = Daemon::start();
    let port = start(&daemon, "web", &[]);
    let mut held = connect(port);
    held.write_all(b"wait").unwrap();
    let mut word = [0; 5];
    held.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"held\n");
    let mut command =
        daemon.command(&["exec", "-i", "web", "--", "sh", "-c", "echo here; read x; echo got $x; sleep 1"]);
    let mut running = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
    let mut out = running.stdout.take().unwrap();
    assert_eq!(aegis_tests::read_until(&mut out, "here\n"), "here\n");

    let _reply = fork(&daemon, "web", &[]);
    // In the child nobody is at the other end.
    eventually("the child sees it closed", DEADLINE, || {
        daemon.shell("web-1", "cat /root/held 2>/dev/null || true") == "closed"
    });
    eventually("the child's copy of the exec is hung up", DEADLINE, || {
        daemon.shell("web-1", "pgrep -f 'read [x]' || echo gone") == "gone"
    });
    // In the parent nothing has happened.
    assert_eq!(daemon.shell("web", "cat /root/held 2>/dev/null || echo held"), "held");
    held.write_all(b"more").unwrap();
    let mut rest = String::new();
    held.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "more");
    running.stdin.take().unwrap().write_all(b"word\n").unwrap();
    assert_eq!(aegis_tests::read_until(&mut out, "\n"), "got word\n");
    drop(out);
    assert_eq!(aegis_tests::wait(running, None).code, 0);
}

#[test]
fn what_rests_is_woken_to_be_forked_and_what_is_stopped_is_not() {
    let daemon = Daemon::start();
    let port = start(&daemon, "web", &[]);
    for (number, rest) in ["pause", "hibernate"].into_iter().enumerate() {
        let asked = ask(port).asked;
        let _out = daemon.ok(&["instance", rest, "web"]);
        let name = format!("of-{rest}");
        let _reply = fork(&daemon, "web", &["--name", &name, "--expose", "80/tcp"]);
        assert_eq!(ask(port_of(&daemon, &format!("{name}-1"))).asked, asked + 1, "{number}");
        assert_eq!(daemon.state("web"), "running");
    }
    let _out = daemon.ok(&["instance", "stop", "web"]);
    let refused = daemon.aegis(&["fork", "web"]);
    assert_eq!(refused.code, 1);
    assert!(refused.err().contains("stopped"), "{}", refused.err());
}

#[test]
fn directories_of_the_host_and_secrets_are_shared_only_where_that_is_accepted() {
    let daemon = Daemon::start();
    let shared = tempfile::tempdir().unwrap();
    let _out = daemon.ok(&["secret", "set", "TOKEN", "hush-hush"]);
    let _port = start(&daemon, "web", &["--workspace", shared.path().to_str().unwrap()]);
    let refused = daemon.aegis(&["fork", "web"]);
    assert!(refused.code == 1 && refused.err().contains("--share-workspace"), "{}", refused.err());
    let script = "exec 3>>/workspace/kept; while true; do echo $(hostname) >&3; sleep 0.1; done";
    let _out =
        daemon.ok(&["exec", "web", "--", "sh", "-c", &format!("nohup sh -c '{script}' >/dev/null 2>&1 &")]);
    let _reply = fork(&daemon, "web", &["--share-workspace"]);
    let kept = shared.path().join("kept");
    eventually("both write to files that were open", DEADLINE, || {
        let text = std::fs::read_to_string(&kept).unwrap_or_default();
        text.lines().any(|line| line == "web-1") && text.ends_with('\n')
    });
    std::fs::write(shared.path().join("seen"), "by both").unwrap();
    assert_eq!(daemon.shell("web-1", "cat /workspace/seen"), "by both");

    let _port = start(&daemon, "safe", &["--secret", "TOKEN"]);
    let refused = daemon.aegis(&["fork", "safe"]);
    assert!(refused.code == 1 && refused.err().contains("--with-secrets"), "{}", refused.err());
    assert_eq!(daemon.info("safe-1"), None);
    let _reply = fork(&daemon, "safe", &["--with-secrets"]);
    assert_eq!(
        daemon.shell("safe-1", "tr '\\0' '\\n' < /proc/$(pgrep -o python3)/environ | grep TOKEN"),
        "TOKEN=hush-hush"
    );
}

#[test]
fn a_child_that_does_not_become_itself_boots_from_its_disk() {
    let daemon = Daemon::start();
    let parent = start(&daemon, "web", &[]);
    assert_eq!(ask(parent).asked, 1);
    let script = "mkdir -p /etc/aegis/resume.d; printf '#!/bin/sh\\necho no key >&2; exit 3\\n' > /etc/aegis/resume.d/x; \
                  chmod +x /etc/aegis/resume.d/x; echo kept > /root/kept";
    let _out = daemon.shell("web", script);
    let _reply = fork(&daemon, "web", &["--expose", "80/tcp"]);
    assert_ne!(daemon.started_by("web-1"), "fork");
    let log = daemon.ok(&["logs", "web-1"]);
    assert!(log.contains("/etc/aegis/resume.d/x failed (3): no key"), "{log}");
    assert_eq!(ask(port_of(&daemon, "web-1")).asked, 1, "its command was executed anew");
    assert_eq!(daemon.shell("web-1", "cat /root/kept"), "kept");
    assert_eq!(ask(parent).asked, 2);
}

#[test]
fn what_a_hook_starts_in_the_background_goes_on() {
    let daemon = Daemon::start();
    let parent = start(&daemon, "web", &[]);
    assert_eq!(ask(parent).asked, 1);
    let hook =
        "#!/bin/sh\nwhile :; do echo line; echo line >&2; date +%s%N > /root/ticks; sleep 0.1; done &\n";
    let script = format!(
        "mkdir -p /etc/aegis/resume.d; printf '%s' '{hook}' > /etc/aegis/resume.d/x; chmod +x /etc/aegis/resume.d/x"
    );
    let _out = daemon.shell("web", &script);
    let _reply = fork(&daemon, "web", &[]);
    assert_eq!(daemon.started_by("web-1"), "fork");
    for _ in 0..3 {
        let look = || daemon.shell("web-1", "cat /root/ticks 2>/dev/null; true");
        let before = look();
        eventually("it ticks", DEADLINE, || look() > before);
    }
}

#[test]
fn children_are_members_of_their_parents_groups_with_addresses_of_their_own() {
    let daemon = Daemon::start();
    let _port = start(&daemon, "web", &["--group", "crew"]);
    let _reply = fork(&daemon, "web", &["--count", "2"]);
    let address =
        |handle: &str| daemon.shell(handle, "ip -4 addr show eth0 | grep -o '198\\.19[0-9.]*' | head -1");
    all_different("addresses", &["web", "web-1", "web-2"].map(address));
    let script = |of: &str| {
        format!(
            "python3 -c \"import socket; c=socket.create_connection(('{of}.crew', 80)); c.sendall(b'ask '); print(c.recv(1000).decode().split()[3])\""
        )
    };
    for (from, to) in [("web", "web-1"), ("web-1", "web"), ("web-2", "web-1")] {
        assert_eq!(daemon.shell(from, &script(to)), to, "{from} asks {to}");
    }
}

#[test]
fn a_daemon_that_dies_while_it_forks_leaves_the_parent_well_and_nothing_half_made() {
    let daemon = Daemon::start();
    let port = start(&daemon, "web", &[]);
    for (number, delay_ms) in [5, 30, 60, 100, 150, 250, 400].into_iter().enumerate() {
        let asked = ask(port).asked;
        let forking = daemon.spawn(&["fork", "web", "--count", "2", "--name", &format!("f{number}")]);
        std::thread::sleep(Duration::from_millis(delay_ms));
        daemon.crash();
        let _out = aegis_tests::wait(forking, None);
        daemon.up();
        assert_eq!(ask(port).asked, asked + 1, "{delay_ms} ms: the parent goes on where it was");
        let list: Value =
            serde_json::from_str(&daemon.ok(&["instance", "list", "--output", "json"])).unwrap();
        let children: Vec<String> = list
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|one| one["handle"].as_str())
            .filter(|handle| *handle != "web")
            .map(str::to_owned)
            .collect();
        for child in children {
            // Whatever became of it: it can be started, and is itself.
            let _running = daemon.aegis(&["instance", "start", "--name", &child]);
            assert_eq!(daemon.shell(&child, "hostname"), child, "{delay_ms} ms");
            let _out = daemon.ok(&["instance", "delete", &child]);
        }
        let left = std::fs::read_dir(daemon.root().join("data/snapshots")).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{delay_ms} ms");
        eventually("no machine is left but the parent's", DEADLINE, || daemon.machines().len() == 1);
    }
}

/// Memory of an instance as `aegis stats` has it, MiB.
fn memory_mib(daemon: &Daemon, handle: &str) -> u64 {
    let all: Value = serde_json::from_str(&daemon.ok(&["stats", "--output", "json"])).unwrap();
    let found = all.as_array().unwrap().iter().find(|one| one["name"] == handle || one["handle"] == handle);
    found.unwrap_or_else(|| panic!("{handle} is not in {all}"))["memory_bytes"].as_u64().unwrap() >> 20
}

/// Memory that a process has resident, whoever else has it, MiB: in pages of 4 KiB.
fn resident_mib(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() / 256
}

#[test]
fn what_children_take_of_the_hosts_memory_adds_up() {
    let daemon = Daemon::start();
    let port = start(&daemon, "web", &[]);
    assert_eq!(ask(port).asked, 1);
    let _reply = fork(&daemon, "web", &["--count", "3", "--expose", "80/tcp"]);
    let children = ["web-1", "web-2", "web-3"];
    for child in children {
        // It reads all that it has in common with its siblings.
        assert_eq!(ask(port_of(&daemon, child)).asked, 2);
    }
    let together: u64 = ["web"].iter().chain(&children).map(|handle| memory_mib(&daemon, handle)).sum();
    let apart: u64 = daemon.machines().into_iter().map(resident_mib).sum();
    assert!(together < apart, "what is shared counts once: {together} of {apart} MiB");
    let before = children.map(|child| memory_mib(&daemon, child));
    let script =
        "nohup python3 -c 'import os, time; kept = os.urandom(60 << 20); time.sleep(1000)' >/dev/null 2>&1 &";
    let _out = daemon.shell("web-1", script);
    eventually("what a child writes to is its own", DEADLINE, || {
        memory_mib(&daemon, "web-1") >= before[0] + 50
    });
    assert!(memory_mib(&daemon, "web-2") < before[1] + 25, "{before:?}");
}
