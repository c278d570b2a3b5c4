//! Operations in each state, handles, what survives a stop.

use aegis_tests::Daemon;

#[test]
fn prune_deletes_what_has_been_stopped_for_long_and_nothing_else() {
    let daemon = Daemon::start_with(&[("AEGIS_FAKE_GUEST", env!("CARGO_BIN_EXE_fake-guest"))]);
    for name in ["prune", "paused", "stopped", "disabled"] {
        let started =
            daemon.ok(&["instance", "start", "--name", name, "--workdir", "/tmp", "--", "sleep", "1000"]);
        assert!(started.contains("Instance started"));
    }
    for (verb, name) in [("pause", "paused"), ("stop", "stopped"), ("disable", "disabled")] {
        assert_eq!(daemon.aegis(&["instance", verb, name]).code, 0);
    }
    let prune = |age: &str| daemon.aegis(&["instance", "prune", "--stopped-older-than", age]);
    assert_eq!(prune("7d").out(), "Pruned 0 stopped instances\n");
    assert_eq!(prune("1ms").out(), "Pruned 2 stopped instances\n");
    let states = ["prune", "paused", "stopped", "disabled"].map(|name| daemon.state(name));
    assert_eq!(states, ["running", "paused", "gone", "gone"]);
    assert_eq!(daemon.aegis(&["instance", "prune"]).code, 2, "an age is required");
    assert_eq!(prune("always").code, 2);
}

#[test]
fn each_operation_does_what_the_table_says() {
    let daemon = Daemon::start();
    let _id = daemon.instance("box", &["sleep", "1000"]);
    let fails = |arguments: &[&str], word: &str| {
        let done = daemon.aegis(arguments);
        assert_ne!(done.code, 0, "{arguments:?} succeeded: {}", done.out());
        assert!(done.err().contains(word), "{arguments:?}: {}", done.err());
    };
    fails(&["instance", "start", "--name", "box"], "running already");
    assert_eq!(daemon.ok(&["instance", "pause", "box"]), "Instance box paused\n");
    assert_eq!(daemon.state("box"), "paused");
    assert_eq!(daemon.ok(&["instance", "pause", "box"]), "Instance box paused\n");
    assert_eq!(daemon.ok(&["exec", "box", "--", "echo", "awake"]), "awake\n");
    assert_eq!(daemon.state("box"), "running");
    assert!(daemon.ok(&["instance", "pause", "box"]).contains("paused"));
    assert!(daemon.ok(&["instance", "start", "--name", "box"]).contains("Handle: box"));
    assert_eq!(daemon.state("box"), "running");
    assert_eq!(daemon.ok(&["instance", "resume", "box"]), "Instance box resumed\n");
    assert_eq!(daemon.ok(&["instance", "stop", "box"]), "Instance box stopped\n");
    assert_eq!(daemon.ok(&["instance", "stop", "box"]), "Instance box stopped\n");
    assert!(daemon.machines().is_empty());
    let info = daemon.info("box").unwrap();
    assert_eq!((info["state"].as_str(), info["enabled"].as_bool()), (Some("stopped"), Some(true)));
    assert_eq!(info["exit_code"], 143, "the command got SIGTERM");
    fails(&["instance", "pause", "box"], "stopped");
    fails(&["instance", "resume", "box"], "stopped");
    fails(&["exec", "box", "--", "true"], "stopped");
    assert!(daemon.ok(&["instance", "restart", "box"]).contains("restarted"));
    assert_eq!(daemon.state("box"), "running");
    assert_eq!(daemon.ok(&["instance", "disable", "box"]), "Instance box disabled\n");
    assert!(daemon.ok(&["instance", "list"]).contains("stopped (disabled)"));
    assert_eq!(daemon.ok(&["instance", "disable", "box"]), "Instance box disabled\n");
    assert!(daemon.ok(&["instance", "start", "--name", "box"]).contains("Instance started:"));
    assert_eq!(daemon.info("box").unwrap()["enabled"], true);
    assert_eq!(daemon.ok(&["instance", "delete", "box"]), "Instance box deleted\n");
    fails(&["instance", "delete", "box"], "no instance");
    fails(&["instance", "stop", "box"], "no instance");
}

#[test]
fn the_root_survives_a_stop_and_volatile_directories_do_not() {
    let daemon = Daemon::start();
    let _id = daemon.instance("box", &["sleep", "1000"]);
    let script = "echo kept > /etc/kept && echo kept > /var/lib/kept && echo lost > /tmp/lost && echo lost > /run/lost && echo lost > /dev/shm/lost && rm /etc/issue";
    assert_eq!(daemon.ok(&["exec", "box", "--", "sh", "-c", script]), "");
    assert!(daemon.ok(&["instance", "restart", "box"]).contains("restarted"));
    let look = "cat /etc/kept /var/lib/kept; ls /tmp/lost /run/lost /dev/shm/lost /etc/issue 2>/dev/null; date +%Y; dmesg | grep -ci 'recovering\\|orphan' || true";
    let out = daemon.ok(&["exec", "box", "--", "sh", "-c", look]);
    let host_year = std::process::Command::new("date").arg("+%Y").output().unwrap().stdout;
    assert_eq!(out, format!("kept\nkept\n{}0\n", String::from_utf8_lossy(&host_year)), "clean, and on time");
}

#[test]
fn a_handle_that_exists_is_started_as_it_is_or_refused() {
    let daemon = Daemon::start();
    let start = |extra: &[&str]| daemon.aegis(&[&["instance", "start", "--name", "box"], extra].concat());
    assert_eq!(start(&["--memory", "160", "--", "sleep", "1000"]).code, 0);
    assert!(daemon.ok(&["instance", "stop", "box"]).contains("stopped"));
    for other in [
        &["--", "sleep", "999"][..],
        &["--memory", "200"],
        &["--env", "A=B", "--memory", "160", "--", "sleep", "1000"],
    ] {
        let done = start(other);
        assert_eq!(done.code, 1, "{other:?}: {}", done.out());
        assert!(done.err().contains("exists"), "{}", done.err());
    }
    assert_eq!(daemon.aegis(&["run", "--name", "box", "--", "true"]).code, 125);
    assert_eq!(start(&["--memory", "160", "--", "sleep", "1000"]).code, 0, "equal to what is stored");
    assert!(daemon.ok(&["instance", "stop", "box"]).contains("stopped"));
    assert_eq!(start(&[]).code, 0);
    let taken = daemon.aegis(&["run", "--name", "box", "--", "true"]).err();
    assert!(
        taken.contains("exists, and is running") && taken.contains("aegis instance delete box"),
        "{taken}"
    );
    assert!(daemon.ok(&["instance", "stop", "box"]).contains("stopped"));
    let stopped = daemon.aegis(&["exec", "box", "--", "true"]).err();
    assert!(stopped.contains("start it with: aegis instance restart box"), "{stopped}");
    let missing = daemon.aegis(&["instance", "start", "--name", "other"]);
    assert_eq!(missing.code, 1);
    assert!(missing.err().contains("no instance"), "{}", missing.err());
}

#[test]
fn a_command_that_ends_leaves_its_exit_code_reason_and_log() {
    let daemon = Daemon::start();
    let id = daemon.instance("brief", &["sh", "-c", "echo hello; echo oops >&2; exit 3"]);
    aegis_tests::eventually("it stops", aegis_tests::DEADLINE, || daemon.state("brief") == "stopped");
    let text = daemon.ok(&["instance", "info", "brief"]);
    assert!(text.contains("Exit code:   3"), "{text}");
    assert!(text.contains("the command exited with code 3"), "{text}");
    let labels: Vec<&str> =
        text.lines().filter_map(|line| line.split_once(':').map(|(label, _)| label)).collect();
    let expected = [
        "ID",
        "State",
        "Handle",
        "Command",
        "Ports",
        "Endpoints",
        "Connections",
        "Created",
        "Last Active",
        "Enabled",
        "Image",
        "Workspace",
        "Secrets",
        "Kit",
        "Exit code",
        "Reason",
        "Router",
        "Since",
        "Next step",
        "Awake for",
        "Restart",
        "Lives until",
        "Condition",
        "Confinement",
        "Disk",
        "Pid",
    ];
    assert_eq!(labels, expected);
    let logs = daemon.aegis(&["logs", &id]);
    assert!(logs.out().contains("hello\n") && logs.out().contains("[system] boot 1\n"), "{}", logs.out());
    assert!(logs.out().contains("exit code 3"), "{}", logs.out());
    assert_eq!(logs.err(), "oops\n");
    assert!(!logs.out().contains('\x1b'), "no colour outside a terminal");
}

#[test]
fn a_failed_boot_keeps_the_record_and_its_reason() {
    let daemon = Daemon::start();
    let done = daemon.aegis(&["instance", "start", "--name", "bad", "--", "no-such-command"]);
    assert_eq!(done.code, 1);
    assert!(done.err().contains("no-such-command"), "{}", done.err());
    let info = daemon.info("bad").unwrap();
    assert_eq!(
        (info["state"].as_str(), info["stop_reason"]["code"].as_str()),
        (Some("stopped"), Some("command_not_found"))
    );
    assert!(daemon.machines().is_empty());
}

#[test]
fn running_out_of_memory_is_the_stated_reason() {
    let daemon = Daemon::start();
    let script = "x = bytearray()\nwhile True: x.extend(bytes(1 << 22))";
    let _id = daemon.instance("hungry", &["python3", "-c", script]);
    aegis_tests::eventually("it stops", aegis_tests::DEADLINE, || daemon.state("hungry") == "stopped");
    let info = daemon.info("hungry").unwrap();
    assert_eq!(
        (info["exit_code"].as_i64(), info["stop_reason"]["code"].as_str()),
        (Some(137), Some("out_of_memory"))
    );
}

/// The kernel frees ahead of need when it finds its memory in pieces, unless it is told not to; meanwhile it also kills.
#[test]
fn nothing_is_taken_from_a_guest_whose_memory_is_free_but_in_pieces() {
    let daemon = Daemon::start();
    let start = ["instance", "start", "--name", "pieces", "--memory", "512m", "--", "sleep", "infinity"];
    assert!(daemon.ok(&start).contains("Handle: pieces"));
    // Every other block of what is free belongs to a process, then pipes take pages that cannot be moved.
    let script = r#"
import fcntl, mmap, os
def number(path, name): return int(next(l for l in open(path) if l.startswith(name)).split()[1])
for root, _, names in os.walk('/usr/lib/python3.11'):
    for name in names: open(os.path.join(root, name), 'rb').read()
size = 250 << 20
held = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, size, 4096): held[at] = 1
for at in range(0, size, 131072): held.madvise(mmap.MADV_DONTNEED, at, 65536)
pipes = []
while number('/proc/meminfo', 'MemFree:') > 100_000 and len(pipes) < 400:
    pipes.append(os.pipe())
    fcntl.fcntl(pipes[-1][1], fcntl.F_SETPIPE_SZ, 1 << 20)
    os.write(pipes[-1][1], bytes(1 << 20))
print(len(pipes) > 50, number('/proc/vmstat', 'pgsteal_kswapd'), number('/proc/vmstat', 'oom_kill '))
"#;
    let script = script.replace("fcntl.F_SETPIPE_SZ", "1031");
    assert_eq!(daemon.ok(&["exec", "pieces", "--", "python3", "-c", &script]), "True 0 0\n");
}

#[test]
fn a_machine_that_cannot_boot_says_why_and_leaves_a_stopped_record() {
    let daemon = Daemon::start();
    std::fs::create_dir(daemon.root().join("kernel")).unwrap();
    std::fs::write(daemon.root().join("kernel/vmlinux"), "no kernel").unwrap();
    let done = daemon.aegis(&["instance", "start", "--name", "bad", "--", "true"]);
    assert_eq!(done.code, 1);
    assert!(done.err().contains("kernel") && done.err().contains("aegis doctor"), "{}", done.err());
    let info = daemon.info("bad").unwrap();
    assert_eq!(
        (info["state"].as_str(), info["stop_reason"]["code"].as_str()),
        (Some("stopped"), Some("vmm_died"))
    );
    std::fs::remove_file(daemon.root().join("kernel/vmlinux")).unwrap();
    assert!(
        daemon.ok(&["instance", "start", "--name", "bad"]).contains("Handle: bad"),
        "with a kernel it boots"
    );
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_guest_that_does_not_come_up_in_time_is_ended_with_that_reason() {
    let daemon = Daemon::none();
    std::fs::create_dir(daemon.root().join("kernel")).unwrap();
    std::fs::write(daemon.root().join("kernel/initramfs.cpio"), sleeping_initramfs()).unwrap();
    let up = daemon.command(&["up"]).env("AEGIS_BOOT_TIMEOUT", "4").status().unwrap();
    assert!(up.success());
    let done = daemon.aegis(&["instance", "start", "--name", "mute", "--", "true"]);
    assert_eq!(done.code, 1);
    assert!(done.err().contains("within 4 seconds"), "{}", done.err());
    let info = daemon.info("mute").unwrap();
    assert_eq!(
        (info["state"].as_str(), info["stop_reason"]["code"].as_str()),
        (Some("stopped"), Some("boot_timeout"))
    );
    assert!(daemon.machines().is_empty());
}

#[cfg(target_arch = "x86_64")]
/// An initramfs whose `/init` never answers: the least program that stays, a header and `jmp .`.
fn sleeping_initramfs() -> Vec<u8> {
    let code: [u8; 2] = [0xEB, 0xFE];
    let mut elf = vec![0x7F, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    elf.extend(2u16.to_le_bytes());
    elf.extend(62u16.to_le_bytes());
    elf.extend(1u32.to_le_bytes());
    for field in [0x40_0078u64, 64, 0] {
        elf.extend(field.to_le_bytes());
    }
    elf.extend(0u32.to_le_bytes());
    for field in [64u16, 56, 1, 64, 0, 0] {
        elf.extend(field.to_le_bytes());
    }
    elf.extend(1u32.to_le_bytes());
    elf.extend(5u32.to_le_bytes());
    for field in [0u64, 0x40_0000, 0x40_0000, 122, 122, 0x1000] {
        elf.extend(field.to_le_bytes());
    }
    elf.extend(code);
    let mut archive = Vec::new();
    for (name, mode, content) in [("init", 0o100_755u32, &elf[..]), ("TRAILER!!!", 0, &[])] {
        let head = format!(
            "070701{:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}",
            0,
            0,
            0,
            1,
            0,
            content.len(),
            0,
            0,
            0,
            0,
            name.len() + 1,
            0
        );
        archive.extend_from_slice(head.as_bytes());
        archive.extend_from_slice(name.as_bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive
}

#[test]
fn exec_waits_for_an_instance_that_is_starting() {
    let daemon = Daemon::start();
    let child = daemon.spawn(&["instance", "start", "--name", "box", "--", "sleep", "1000"]);
    aegis_tests::eventually("it exists", aegis_tests::DEADLINE, || daemon.state("box") != "gone");
    assert_eq!(daemon.ok(&["exec", "box", "--", "echo", "ready"]), "ready\n");
    assert_eq!(aegis_tests::wait(child, None).code, 0);
}
