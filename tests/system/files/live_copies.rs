//! `aegis cp` of what lives, of what the kernel makes up, of holes; copies that are broken off; names and words of any bytes.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aegis_tests::{Daemon, Done, eventually, wait};

const WITHIN: Duration = Duration::from_secs(30);
/// More than anything holds here.
const HUGE: u64 = 60 << 30;

fn run(daemon: &Daemon, arguments: &[&[u8]]) -> Done {
    let mut command = daemon.command(&[]);
    command.args(arguments.iter().map(|argument| OsStr::from_bytes(argument)));
    wait(command.spawn().unwrap(), None)
}

/// Does something in the instance `box`.
fn silent(daemon: &Daemon, script: &str) {
    assert_eq!(daemon.shell("box", script), "", "{script}");
}

fn started(daemon: &Daemon, settings: &[&str]) {
    assert_ne!(daemon.ok(&[settings, &["sleep", "1000"]].concat()), "");
}

fn names(dir: &Path) -> Vec<String> {
    let mut all: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into()).collect();
    all.sort();
    all
}

/// Does something while files in a directory of the host come and go.
fn while_changing<T>(dir: &Path, work: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                (0..50).for_each(|n| drop(fs::write(dir.join(format!("x{n}")), "x")));
                (0..50).for_each(|n| drop(fs::remove_file(dir.join(format!("x{n}")))));
            }
        });
        let done = work();
        over.store(true, Ordering::Relaxed);
        done
    })
}

#[test]
fn a_tree_in_use_is_copied_without_what_goes() {
    let (daemon, dir) = (Daemon::start(), tempfile::tempdir().unwrap());
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let _box = daemon.instance("box", &["sleep", "1000"]);
    silent(
        &daemon,
        "mkdir -p /srv/busy/deep; cd /srv/busy; echo end > zz; head -c 3000000 /dev/zero > log
         (while :; do for n in $(seq 50); do : > deep/x$n; done; rm -f deep/x*; done) > /dev/null 2>&1 &
         (while :; do : > log; head -c 3000000 /dev/zero >> log; done) > /dev/null 2>&1 &",
    );
    let mut codes = Vec::new();
    for round in 0..12 {
        let to = at(&format!("out{round}"));
        let done = daemon.aegis(&["cp", "box:/srv/busy", &to]);
        assert!([0, 24].contains(&done.code), "{}: {}", done.code, done.err());
        assert_eq!(done.code == 24, done.err().contains("left out: "), "{}", done.err());
        assert!(done.err().lines().count() <= 21, "{}", done.err());
        assert_eq!(fs::read_to_string(Path::new(&to).join("zz")).unwrap(), "end\n");
        assert!(names(Path::new(&to)).iter().all(|name| ["deep", "log", "zz"].contains(&name.as_str())));
        codes.push(done.code);
    }
    assert!(codes.contains(&24), "{codes:?}");
    // The same from the host.
    fs::create_dir(at("busy")).unwrap();
    (0..200).for_each(|n| fs::write(dir.path().join(format!("busy/stays{n}")), "stays").unwrap());
    while_changing(&dir.path().join("busy"), || {
        for _ in 0..5 {
            let done = daemon.aegis(&["cp", &at("busy"), "box:/root/"]);
            assert!([0, 24].contains(&done.code), "{}: {}", done.code, done.err());
            assert_eq!(daemon.shell("box", "cat /root/busy/stays* | wc -c; rm -r /root/busy"), "1000");
        }
    });
}

#[test]
fn what_the_kernel_makes_up_has_its_text_and_is_not_on_the_way() {
    let (daemon, dir) = (Daemon::start(), tempfile::tempdir().unwrap());
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let _box = daemon.instance("box", &["sleep", "1000"]);
    assert_eq!(daemon.ok(&["cp", "box:/proc/cpuinfo", &at("cpuinfo")]), "");
    assert!(fs::read_to_string(at("cpuinfo")).unwrap().contains("processor"));
    assert_eq!(daemon.ok(&["cp", "box:/sys/devices/system/cpu/online", &at("online")]), "");
    assert_eq!(fs::read_to_string(at("online")).unwrap(), "0\n");
    // Named itself it is copied, but for what can only be written; on the way it is left out, and told.
    let named = daemon.aegis(&["cp", "box:/proc/sys/vm", &at("vm")]);
    assert!(named.code == 23 && named.err().contains("vm/drop_caches: "), "{} {}", named.code, named.err());
    assert!(!fs::read(at("vm/swappiness")).unwrap().is_empty());
    silent(
        &daemon,
        "mkdir -p /srv/tree/p /srv/tree/s /srv/tree/d; cd /srv/tree; echo x > f; mkfifo pipe
         mount -t proc proc p; mount -t sysfs sysfs s; mount -t devtmpfs devtmpfs d",
    );
    let way = daemon.aegis(&["cp", "box:/srv/tree", &at("tree")]);
    assert_eq!(way.code, 0, "{}", way.err());
    for left in ["tree/p: ", "tree/s: ", "tree/d: ", "tree/pipe: a pipe"] {
        assert!(way.err().contains(left), "{left}: {}", way.err());
    }
    assert_eq!(names(&dir.path().join("tree")), ["f"]);
    let device = daemon.aegis(&["cp", "box:/dev/zero", &at("zero")]);
    assert!(device.code == 1 && device.err().contains("it is a device"), "{}", device.err());
    // The host's own, too.
    assert_eq!(daemon.ok(&["cp", "/proc/version", "box:/srv/version"]), "");
    assert_eq!(
        daemon.shell("box", "cat /srv/version"),
        fs::read_to_string("/proc/version").unwrap().trim_end()
    );
}

/// A file of [`HUGE`] bytes with data here and there.
fn sparse(path: &Path) {
    let file = File::create(path).unwrap();
    file.set_len(HUGE).unwrap();
    file.write_all_at(b"begin", 0).unwrap();
    file.write_all_at(&[b'm'; 100_000], HUGE / 2).unwrap();
    file.write_all_at(b"end", HUGE - 3).unwrap();
}

fn check_sparse(path: &Path) {
    let meta = fs::metadata(path).unwrap();
    assert_eq!(meta.len(), HUGE);
    assert!(meta.blocks() * 512 < 4 << 20, "{} blocks", meta.blocks());
    let (file, mut part) = (File::open(path).unwrap(), [0; 3]);
    for (at, wanted) in [(0, b"beg"), (HUGE / 4, b"\0\0\0"), (HUGE / 2 + 5, b"mmm"), (HUGE - 3, b"end")] {
        file.read_exact_at(&mut part, at).unwrap();
        assert_eq!(&part, wanted, "at {at}");
    }
}

#[test]
fn holes_stay_holes_whichever_way_a_file_goes() {
    let (daemon, dir) = (Daemon::start(), tempfile::tempdir().unwrap());
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    sparse(&dir.path().join("disk"));
    fs::create_dir(at("shared")).unwrap();
    sparse(&dir.path().join("shared/disk"));
    let shared = at("shared");
    let start = ["instance", "start", "--name", "box", "--memory", "160", "--workspace", &shared, "--"];
    started(&daemon, &start);
    let timed = |arguments: &[&str]| {
        let begun = Instant::now();
        assert_eq!(daemon.ok(arguments), "");
        eprintln!("{arguments:?}: {:?}", begun.elapsed());
        assert!(begun.elapsed() < WITHIN, "{arguments:?}: {:?}", begun.elapsed());
    };
    let look = "stat -c '%s %b' /srv/disk | { read s b; test $b -lt 8192 && echo $s; }; tail -c 3 /srv/disk";
    timed(&["cp", &at("disk"), "box:/srv/disk"]);
    assert_eq!(daemon.shell("box", look), format!("{HUGE}\nend"));
    timed(&["cp", "box:/srv/disk", &at("back")]);
    check_sparse(&dir.path().join("back"));
    // Out of and into a directory that is shared, and by programs of the guest.
    timed(&["cp", "box:/workspace/disk", &at("of-shared")]);
    check_sparse(&dir.path().join("of-shared"));
    timed(&["cp", &at("disk"), "box:/workspace/again"]);
    check_sparse(&dir.path().join("shared/again"));
    timed(&["exec", "box", "--", "sh", "-c", "rm /srv/disk; cp /workspace/disk /srv/disk"]);
    assert_eq!(daemon.shell("box", look), format!("{HUGE}\nend"));
    // What a program has in memory and has not given to the file server is no hole.
    let mapped = "import mmap, os, subprocess, sys
f = open('/workspace/mapped', 'w+b'); f.truncate(1 << 20)
m = mmap.mmap(f.fileno(), 1 << 20); m[500000:500006] = b'mapped'
sys.stdout.write('ready\\n'); sys.stdout.flush(); sys.stdin.read()";
    let mut holder = daemon.command(&["exec", "-i", "box", "--", "python3", "-c", mapped]);
    let mut holder = holder.stdin(std::process::Stdio::piped()).spawn().unwrap();
    eventually("it is mapped", WITHIN, || {
        daemon.aegis(&["exec", "box", "--", "grep", "-q", "mapped", "/workspace/mapped"]).code == 0
    });
    timed(&["cp", "box:/workspace/mapped", &at("mapped")]);
    drop(holder.stdin.take());
    assert_eq!(wait(holder, None).code, 0);
    assert_eq!(&fs::read(at("mapped")).unwrap()[500_000..500_006], b"mapped");
    // At rest.
    assert_eq!(daemon.aegis(&["instance", "stop", "box"]).code, 0);
    timed(&["cp", &at("disk"), "box:/srv/rest"]);
    timed(&["cp", "box:/srv/rest", &at("rest")]);
    check_sparse(&dir.path().join("rest"));
}

#[test]
fn a_copy_that_is_broken_off_costs_nothing_that_was_there() {
    let (daemon, dir) = (Daemon::start(), tempfile::tempdir().unwrap());
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let _box = daemon.instance("box", &["sleep", "1000"]);
    silent(&daemon, "head -c 600000000 /dev/zero > /srv/big; mkdir /srv/in; echo precious > /srv/in/file");
    fs::create_dir(at("out")).unwrap();
    fs::write(at("out/file"), "precious").unwrap();
    let out = dir.path().join("out");
    let kept = || {
        assert_eq!(
            (names(&out), fs::read_to_string(at("out/file")).unwrap()),
            (vec!["file".to_owned()], "precious".to_owned())
        )
    };
    let half_done = || {
        let copying = daemon.spawn(&["cp", "box:/srv/big", &at("out/file")]);
        eventually("it is being written", WITHIN, || names(&out).len() == 2);
        copying
    };
    // Ctrl-C.
    let copying = half_done();
    rustix::process::kill_process(rustix::process::Pid::from_child(&copying), rustix::process::Signal::INT)
        .unwrap();
    let done = wait(copying, None);
    assert!(done.code == 130 && done.err().contains("interrupted"), "{} {}", done.code, done.err());
    kept();
    // The same the other way.
    File::create(at("big")).unwrap().write_all_at(&vec![1; 300 << 20], 0).unwrap();
    let copying = daemon.spawn(&["cp", &at("big"), "box:/srv/in/file"]);
    eventually("it is being written", WITHIN, || daemon.shell("box", "ls -A /srv/in | wc -l") == "2");
    rustix::process::kill_process(rustix::process::Pid::from_child(&copying), rustix::process::Signal::TERM)
        .unwrap();
    assert_eq!(wait(copying, None).code, 143);
    eventually("what was half done is gone", WITHIN, || daemon.shell("box", "ls -A /srv/in") == "file");
    assert_eq!(daemon.shell("box", "cat /srv/in/file"), "precious");
    // No room.
    silent(&daemon, "mkdir /tiny && mount -t tmpfs -o size=1m tmpfs /tiny && echo precious > /tiny/file");
    let done = daemon.aegis(&["cp", &at("big"), "box:/tiny/file"]);
    assert!(done.code == 1 && done.err().contains("No space left"), "{}", done.err());
    assert_eq!(daemon.shell("box", "ls -A /tiny; cat /tiny/file"), "file\nprecious");
    // At rest, and when the instance is stopped meanwhile.
    let copying = daemon.spawn(&["cp", &at("big"), "box:/srv/in/file"]);
    eventually("it is being written", WITHIN, || daemon.shell("box", "ls -A /srv/in | wc -l") == "2");
    assert_eq!(daemon.aegis(&["instance", "stop", "box"]).code, 0);
    assert_ne!(wait(copying, None).code, 0);
    let copying = daemon.spawn(&["cp", &at("big"), "box:/srv/in/file"]);
    eventually("its machine is there", WITHIN, || !daemon.machines().is_empty());
    std::thread::sleep(Duration::from_secs(3));
    rustix::process::kill_process(rustix::process::Pid::from_child(&copying), rustix::process::Signal::INT)
        .unwrap();
    assert_eq!(wait(copying, None).code, 130);
    assert_ne!(daemon.ok(&["instance", "start", "--name", "box"]), "");
    assert_eq!(daemon.shell("box", "ls -A /srv/in; cat /srv/in/file"), "file\nprecious");
    // The machine goes.
    let copying = half_done();
    for machine in daemon.machines() {
        let pid = rustix::process::Pid::from_raw(machine).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    assert_eq!(wait(copying, None).code, 1);
    kept();
}

#[test]
fn names_and_words_are_of_any_bytes() {
    let (daemon, dir) = (Daemon::start(), tempfile::tempdir().unwrap());
    let _box = daemon.instance("box", &["sleep", "1000"]);
    let at = |name: &[u8]| [dir.path().as_os_str().as_bytes(), b"/", name].concat();
    let (odd, long) = (b"odd-\xff\xfe\n", [b'l'; 255]);
    for name in [&odd[..], &long] {
        fs::write(OsStr::from_bytes(&at(name)), name).unwrap();
        let there = [b"box:/srv/", name].concat();
        let done = run(&daemon, &[b"cp", &at(name), &there]);
        assert_eq!(done.code, 0, "{}", done.err());
        fs::create_dir_all(dir.path().join("out")).unwrap();
        let done = run(&daemon, &[b"cp", &there, &at(b"out")]);
        assert_eq!(done.code, 0, "{}", done.err());
        assert_eq!(fs::read(OsStr::from_bytes(&at(&[b"out/", name].concat()))).unwrap(), name);
        // Into a directory, under its own name.
        let done = run(&daemon, &[b"cp", &at(name), b"box:/root"]);
        assert_eq!(done.code, 0, "{}", done.err());
    }
    assert_eq!(daemon.shell("box", "cat /root/odd* | od -An -tx1"), " 6f 64 64 2d ff fe 0a");
    // A list of users that is no text.
    silent(&daemon, "printf 'odd:x:77:78:\\377:/:/bin/sh\\n' >> /etc/passwd");
    assert_eq!(run(&daemon, &[b"cp", &at(&long), b"box:/srv/again"]).code, 0);
    // Words of commands.
    let print: [&[u8]; 6] = [b"--", b"sh", b"-c", b"printf %s \"$1\" | od -An -tx1", b"sh", b"a\xff\xc3("];
    let done = run(&daemon, &[&[&b"exec"[..], b"box"], &print[..]].concat());
    assert_eq!((done.code, done.out().as_str()), (0, " 61 ff c3 28\n"), "{}", done.err());
    let done = run(&daemon, &[&[&b"run"[..], b"--memory", b"160"], &print[..]].concat());
    assert_eq!((done.code, done.out().as_str()), (0, " 61 ff c3 28\n"), "{}", done.err());
    // Kept, told, and the same after the next start, also by the next daemon.
    let kept: [&[u8]; 6] =
        [b"--", b"sh", b"-c", b"printf %s \"$1\" >> /srv/words; sleep 1000", b"sh", b"\xff"];
    let done = run(
        &daemon,
        &[&[&b"instance"[..], b"start", b"--memory", b"160", b"--name", b"kept"], &kept[..]].concat(),
    );
    assert_eq!(done.code, 0, "{}", done.err());
    let info = daemon.info("kept").unwrap();
    assert_eq!(
        (info["command"][4].as_str(), info["command_base64"][4].as_str()),
        (Some("\u{fffd}"), Some("/w=="))
    );
    assert!(daemon.info("box").unwrap().get("command_base64").is_none());
    let words = || daemon.shell("kept", "od -An -tx1 /srv/words");
    eventually("it has run", WITHIN, || words() == " ff");
    daemon.crash();
    assert_eq!(daemon.aegis(&["up"]).code, 0);
    assert_eq!(daemon.aegis(&["instance", "restart", "kept"]).code, 0);
    eventually("it has run again", WITHIN, || words() == " ff ff");
}

#[test]
fn what_would_be_gone_at_the_next_start_is_refused() {
    let (daemon, dir) = (Daemon::start(), tempfile::tempdir().unwrap());
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(at("file"), "x").unwrap();
    fs::create_dir(at("shared")).unwrap();
    fs::write(at("shared/in"), "shared").unwrap();
    symlink("file", at("link")).unwrap();
    let shared = at("shared");
    let start = ["instance", "start", "--name", "box", "--memory", "160", "--workspace", &shared, "--"];
    started(&daemon, &start);
    silent(&daemon, "ln -s /tmp /srv/link; mkdir -p /var/tmp; ln -sfn /run /var/run; echo kept > /srv/kept");
    assert_eq!(daemon.ok(&["cp", &at("file"), "box:/tmp/running"]), "");
    assert_eq!(daemon.aegis(&["instance", "stop", "box"]).code, 0);
    for place in ["/tmp", "/tmp/x", "/run/x", "/dev/shm/x", "/dev/x", "/srv/link/", "/var/run/x", "/../tmp/."]
    {
        let done = daemon.aegis(&["cp", &at("file"), &format!("box:{place}")]);
        assert_eq!(done.code, 1, "{place}");
        assert!(done.err().contains("emptied at its next start"), "{place}: {}", done.err());
        assert!(done.err().contains("hint: copy it to another directory"), "{place}: {}", done.err());
    }
    for place in ["/srv/x", "/var/tmp/x", "/workspace/x", "relative"] {
        assert_eq!(daemon.ok(&["cp", &at("file"), &format!("box:{place}")]), "");
    }
    assert_eq!(names(&dir.path().join("shared")), ["in", "relative", "x"]);
    // The directory that it shares is gone: what is elsewhere can be had, what is there is told.
    fs::rename(at("shared"), at("aside")).unwrap();
    assert_eq!(daemon.ok(&["cp", "box:/srv/kept", &at("kept")]), "");
    assert_eq!(fs::read_to_string(at("kept")).unwrap(), "kept\n");
    assert_eq!(daemon.ok(&["cp", &at("file"), "box:/srv/more"]), "");
    let out = at("out");
    for copy in [
        ["box:/workspace/in", &out],
        ["box:in", &out],
        [&at("file"), "box:/workspace/"],
        [&at("file"), "box:y"],
    ] {
        let done = daemon.aegis(&[&["cp"], &copy[..]].concat());
        assert_eq!(done.code, 1, "{copy:?}");
        assert!(done.err().contains("does not exist any more"), "{copy:?}: {}", done.err());
    }
    assert_eq!(daemon.aegis(&["instance", "start", "--name", "box"]).code, 1);
    fs::rename(at("aside"), at("shared")).unwrap();
    assert_ne!(daemon.ok(&["instance", "start", "--name", "box"]), "");
    assert_eq!(daemon.shell("box", "cat /srv/more; ls /workspace"), "xin\nrelative\nx");
}
