//! An instance can always be started, looked into and repaired: a full disk that grows, too many processes, a command that
//! does not exist, tables of names that users edit.

use aegis_tests::{DEADLINE, Daemon, eventually};

fn text(daemon: &Daemon, name: &str, field: &str) -> String {
    let shown = daemon.ok(&["instance", "info", name]);
    let line = shown.lines().find_map(|line| line.strip_prefix(&format!("{field}:")));
    line.unwrap_or_default().trim().to_owned()
}

#[test]
fn a_full_disk_is_shown_and_grows_and_keeps_what_is_on_it() {
    let daemon = Daemon::start();
    let start = ["instance", "start", "--name", "box", "--disk", "100m", "--", "sleep", "1000"];
    assert_eq!(daemon.aegis(&start).code, 0);
    assert!(text(&daemon, "box", "Disk").starts_with("100 MiB, "), "{}", text(&daemon, "box", "Disk"));
    let fill = "echo kept > /kept; sync; cat /dev/zero > /fill 2>/dev/null; df --output=avail / | tail -n1";
    assert_eq!(daemon.shell("box", fill).trim(), "0");
    assert_eq!(text(&daemon, "box", "Disk"), "100 MiB, 100% full");
    let pid = text(&daemon, "box", "Pid");
    assert!(std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().starts_with("qemu"), "{pid}");
    let grow = ["instance", "start", "--name", "box", "--disk", "400m"];
    let running = daemon.aegis(&grow);
    assert!(running.code == 1 && running.err().contains("aegis instance stop"), "{}", running.err());
    assert_eq!(
        daemon.aegis(&["instance", "restart", "box"]).code,
        0,
        "a full disk is no reason not to start"
    );
    assert_eq!(daemon.aegis(&["instance", "stop", "box"]).code, 0);
    assert_eq!(daemon.aegis(&["snapshot", "create", "box", "small"]).code, 0);
    let shrinks = daemon.aegis(&["instance", "start", "--name", "box", "--disk", "80m"]);
    assert!(shrinks.code != 0 && shrinks.err().contains("does not shrink"), "{}", shrinks.err());
    let huge = daemon.aegis(&["instance", "start", "--name", "box", "--disk", "100000g"]);
    assert!(huge.code != 0 && daemon.state("box") == "stopped", "{}", huge.err());
    assert_eq!(daemon.aegis(&grow).code, 0);
    assert!(text(&daemon, "box", "Disk").starts_with("400 MiB, "));
    let look = "cat /kept; stat -c %s /fill | head -c 1; echo; dd if=/dev/zero of=/more bs=1M count=200 2>/dev/null && echo room";
    assert!(daemon.shell("box", look).ends_with("\nroom"));
    assert_eq!(daemon.shell("box", "cat /kept"), "kept");
    // The same request with the same size, or with none, is for the same instance.
    assert_eq!(daemon.aegis(&["instance", "stop", "box"]).code, 0);
    for more in [vec![], vec!["--disk", "500m"]] {
        let again = [&["instance", "start", "--name", "box"], &more[..], &["--", "sleep", "1000"]].concat();
        let again = daemon.aegis(&again);
        assert_eq!(again.code, 0, "{}", again.err());
        assert_eq!(daemon.aegis(&["instance", "stop", "box"]).code, 0);
    }
    // An older disk grows to what the instance has now.
    assert_eq!(daemon.aegis(&["snapshot", "restore", "small"]).code, 0);
    assert_eq!(daemon.aegis(&["instance", "start", "--name", "box"]).code, 0);
    assert_eq!(
        daemon.shell("box", "cat /kept; dd if=/dev/zero of=/more bs=1M count=250 2>/dev/null && echo room"),
        "kept\nroom"
    );
    assert_eq!(daemon.aegis(&["instance", "stop", "box"]).code, 0);
    let id = daemon.info("box").unwrap()["id"].as_str().unwrap().to_owned();
    let disk =
        daemon.files_of(&id).into_iter().find(|path| path.extension().is_some_and(|end| end == "ext4"));
    aegis_tests::registry::tool("e2fsck", &["-fn", disk.unwrap().to_str().unwrap()]);
}

/// Takes each inode of the disk, and then each block.
const USE_UP: &str = r#"
import itertools, os
os.mkdir("/root/fill")
def more(number): os.close(os.open(f"/root/fill/{number}", os.O_CREAT | os.O_WRONLY))
try:
    for number in itertools.count(): more(number)
except OSError as error: print(error.strerror)
if os.environ.get("BLOCKS"):
    with open("/root/fill/0", "wb", 0) as file:
        try:
            while file.write(bytes(1 << 12)): pass
        except OSError as error: print(error.strerror)
"#;

#[test]
fn a_disk_without_inodes_keeps_no_instance_from_starting() {
    let daemon = Daemon::start();
    let start = ["instance", "start", "--name", "box", "--disk", "100m", "--", "sleep", "1000"];
    assert_eq!(daemon.aegis(&start).code, 0);
    let copied = tempfile::tempdir().unwrap();
    let copy = || daemon.aegis(&["cp", "box:/etc/hostname", copied.path().to_str().unwrap()]);
    for (blocks, said) in
        [("", "No space left on device"), ("1", "No space left on device\nNo space left on device")]
    {
        let blocks = format!("BLOCKS={blocks}");
        let fill = ["exec", "--env", &blocks, "box", "--", "python3", "-c", USE_UP];
        assert_eq!(daemon.ok(&fill).trim(), said);
        assert_eq!(daemon.shell("box", "df --output=iavail / | tail -n1").trim(), "0");
        // Again and again: what a start takes is there for the next one.
        for _ in 0..3 {
            let restarted = daemon.aegis(&["instance", "restart", "box"]);
            assert_eq!(restarted.code, 0, "{}", restarted.err());
            assert_eq!(daemon.shell("box", "echo well; hostname"), "well\nbox");
        }
        let running = copy();
        assert_eq!(running.code, 0, "{}", running.err());
        assert_eq!(daemon.aegis(&["instance", "stop", "box"]).code, 0);
        let at_rest = copy();
        assert_eq!(at_rest.code, 0, "{}", at_rest.err());
        assert_eq!(daemon.aegis(&["instance", "start", "--name", "box"]).code, 0);
        // As somebody would who makes room: his own files, and then what the image has.
        assert_eq!(
            daemon.shell("box", "rm -r /root/fill /etc/issue && touch /new && rm /new && echo room"),
            "room"
        );
        assert_eq!(daemon.aegis(&["instance", "restart", "box"]).code, 0);
        assert_eq!(daemon.shell("box", "ls /etc/issue 2>/dev/null; : > /etc/issue; echo well"), "well");
    }
    assert_eq!(daemon.aegis(&["instance", "stop", "box"]).code, 0);
}

#[test]
fn who_starts_processes_without_end_is_bounded_and_can_be_looked_at_and_ended() {
    let daemon = Daemon::start();
    let _id = daemon.instance("box", &["sleep", "1000"]);
    let most: u64 = daemon.shell("box", "cat /sys/fs/cgroup/guest/pids.max").parse().unwrap();
    assert!((256..=32_768).contains(&most), "{most}");
    // Sleeping children, so that the processor is left to others. A shell that cannot start one ends.
    let bomb = "while :; do sh -c 'while :; do sleep 900 & done' 2>/dev/null; sleep 1; done";
    let mut bombing = daemon.spawn(&["exec", "box", "--", "sh", "-c", bomb]);
    let count = || {
        daemon.aegis(&["exec", "--timeout", "30s", "box", "--", "cat", "/sys/fs/cgroup/guest/pids.current"])
    };
    let full = || count().out().trim().parse::<u64>().is_ok_and(|now| now + 4 >= most);
    eventually("the group is full", DEADLINE, full);
    // Programs that start others find room, too.
    assert_eq!(daemon.shell("box", "for i in 1 2 3; do sh -c 'echo $((1 + 1))'; done | sort -u"), "2");
    let copied = tempfile::tempdir().unwrap();
    let copy = daemon.aegis(&["cp", "box:/etc/hostname", copied.path().to_str().unwrap()]);
    assert_eq!(copy.code, 0, "{}", copy.err());
    let stopped = daemon.aegis(&["instance", "stop", "box"]);
    assert_eq!(stopped.code, 0, "{}", stopped.err());
    let _ended = bombing.wait();
    assert_eq!(daemon.aegis(&["instance", "start", "--name", "box"]).code, 0);
    assert_eq!(daemon.shell("box", "echo well"), "well");
}

#[test]
fn a_name_whose_command_never_ran_is_free_for_the_next_attempt() {
    let daemon = Daemon::start();
    let start = |command: &str| daemon.aegis(&["instance", "start", "--name", "box", "--", command, "1000"]);
    for _ in 0..2 {
        let failed = start("nosuchcmd");
        assert!(failed.code != 0 && failed.err().contains("not found"), "{}", failed.err());
    }
    let first = daemon.info("box").unwrap()["id"].clone();
    let started = start("sleep");
    assert_eq!(started.code, 0, "{}", started.err());
    assert_ne!(daemon.info("box").unwrap()["id"], first);
    // What has been copied to one is somebody's.
    let copied = |what: &[&str]| daemon.ok(&[&["instance", "start", "--name", "kept", "--"], what].concat());
    let failed = daemon.aegis(&["instance", "start", "--name", "kept", "--", "/root/work"]);
    assert!(failed.code != 0 && failed.err().contains("not found"), "{}", failed.err());
    let work = daemon.root().join("work");
    std::fs::write(&work, "#!/bin/sh\nsleep 1000\n").unwrap();
    std::fs::set_permissions(&work, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let _copied = daemon.ok(&["cp", work.to_str().unwrap(), "kept:/root/work"]);
    let taken = daemon.aegis(&["instance", "start", "--name", "kept", "--", "/root/work", "more"]);
    assert!(taken.code != 0 && taken.err().contains("exists"), "{}", taken.err());
    let _started = copied(&["/root/work"]);
    assert_eq!(daemon.shell("kept", "cat /root/work | wc -l").trim(), "2");
    // Once it has run, another command is another instance.
    assert_eq!(daemon.aegis(&["instance", "stop", "box"]).code, 0);
    let taken = start("true");
    assert!(taken.code != 0 && taken.err().contains("exists"), "{}", taken.err());
}

#[test]
fn what_users_write_into_the_tables_of_names_stays() {
    let daemon = Daemon::start();
    let _id = daemon.instance("box", &["sleep", "1000"]);
    let before = daemon.shell("box", "cat /etc/resolv.conf");
    assert!(before.starts_with("nameserver "), "{before}");
    assert_eq!(daemon.shell("box", "cat /etc/hostname"), "box");
    let edit = "echo '10.1.2.3 db' >> /etc/hosts; printf 'nameserver 9.9.9.9\\n' > /etc/resolv.conf; echo own > /etc/hostname";
    let _done = daemon.shell("box", edit);
    let look = "getent hosts db; cat /etc/resolv.conf /etc/hostname; getent hosts $(hostname) | wc -l";
    let expected = "10.1.2.3        db\nnameserver 9.9.9.9\nown\n1";
    for verb in ["restart", "hibernate", "restart"] {
        assert_eq!(daemon.aegis(&["instance", verb, "box"]).code, 0);
        assert_eq!(daemon.shell("box", look), expected, "after {verb}");
    }
    let forked = daemon.aegis(&["fork", "box", "--name", "other"]);
    assert_eq!(forked.code, 0, "{}", forked.err());
    assert_eq!(daemon.shell("other-1", look), expected, "in a fork");
    assert_eq!(daemon.aegis(&["instance", "restart", "other-1"]).code, 0);
    assert_eq!(daemon.shell("other-1", look), expected, "in a fork that was started again");
    // What is gone is written again.
    let _done = daemon.shell("box", "rm /etc/hosts /etc/resolv.conf /etc/hostname");
    assert_eq!(daemon.aegis(&["instance", "restart", "box"]).code, 0);
    assert_eq!(daemon.shell("box", "cat /etc/resolv.conf"), before);
    assert_eq!(daemon.shell("box", "cat /etc/hostname"), "box");
    // What is copied there is as good as written.
    let copied = tempfile::tempdir().unwrap();
    let file = copied.path().join("hostname");
    std::fs::write(&file, "copied\n").unwrap();
    assert_eq!(daemon.aegis(&["instance", "stop", "box"]).code, 0);
    assert_eq!(daemon.aegis(&["cp", file.to_str().unwrap(), "box:/etc/hostname"]).code, 0);
    assert_eq!(daemon.aegis(&["instance", "start", "--name", "box"]).code, 0);
    assert_eq!(daemon.shell("box", "cat /etc/hostname"), "copied");
    assert_eq!(daemon.shell("box", "getent hosts $(hostname) | wc -l"), "1");
}
