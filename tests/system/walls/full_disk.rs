//! What a host's full disk does: guests that fill it stand still before it is full, the daemon lives, starts and deletes.
//!
//! Each test has a small file system of its own, which takes root; for others they say that they were skipped.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use std::time::Duration;

use aegis_tests::{DEADLINE, Daemon, eventually, wait};
use rustix::process::{Pid, Signal, kill_process};

const MIB: usize = 1 << 20;

/// A small file system of its own, for a home that fills up.
struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    fn mount(options: &str) -> Option<SmallDisk> {
        if !rustix::process::geteuid().is_root() {
            let _mute = writeln!(std::io::stderr(), "SKIPPED: a small disk takes root");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("aegis-full").tempdir_in("/tmp").unwrap();
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(dir.path()).status();
        assert!(mount.unwrap().success(), "a small disk");
        Some(SmallDisk { dir })
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Takes so much of it, or all that there is.
    fn take(&self, name: &str, bytes: usize) -> PathBuf {
        let path = self.path().join(name);
        let mut file = std::fs::File::create(&path).unwrap();
        // Whole pieces first, then what is smaller than one.
        for piece in [MIB, 4096] {
            let mut taken = usize::try_from(file.metadata().unwrap().len()).unwrap();
            while taken < bytes && file.write_all(&vec![1; piece.min(bytes - taken)]).is_ok() {
                taken += piece;
            }
        }
        path
    }

    fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.path()).unwrap();
        stat.f_bavail * stat.f_frsize
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

fn condition(daemon: &Daemon, name: &str) -> String {
    daemon.info(name).unwrap()["condition"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_guest_that_fills_the_host_stands_still_before_it_is_full_and_loses_nothing() {
    let Some(small) = SmallDisk::mount("size=320m") else { return };
    let daemon = Daemon::start_in(small.path());
    let ballast = small.take("ballast", 120 * MIB);
    let _id = daemon.instance("clock", &["sh", "-c", "while :; do date; sleep 0.2; done"]);
    let fill =
        "dd if=/dev/zero of=/fill bs=1M count=200 2>/dev/null && sync && wc -c < /fill && md5sum < /fill";
    let filler = daemon.instance("filler", &["sh", "-c", &format!("sleep 2; {fill}; sleep 1000")]);
    let waiting = daemon.spawn(&["exec", "filler", "--", "sleep", "1000"]);
    eventually("it is paused", DEADLINE, || daemon.state("filler") == "paused");
    assert!(small.free() > 4 * MIB as u64, "{} bytes are left", small.free());
    // It says why, everywhere.
    let why = condition(&daemon, "filler");
    assert!(why.starts_with("paused: the host's disk is full (") && why.contains("fills it"), "{why}");
    assert!(daemon.ok(&["logs", &filler]).contains("[system] paused: the host's disk is full"));
    assert!(daemon.ok(&["events", "filler"]).contains("disk_full"));
    assert!(daemon.ok(&["status"]).contains("disk: full: "));
    // Also to whoever waits for something in it, and lets go of that who asks for it twice.
    for _ in 0..2 {
        std::thread::sleep(Duration::from_millis(500));
        kill_process(Pid::from_child(&waiting), Signal::INT).unwrap();
    }
    let waited = wait(waiting, None);
    assert_eq!(waited.code, 130);
    assert!(waited.err().contains("aegis: paused: the host's disk is full"), "{}", waited.err());
    // Nobody else is concerned.
    assert_eq!(daemon.state("clock"), "running");
    assert_eq!(daemon.ok(&["exec", "clock", "--", "echo", "well"]), "well\n");
    // Nothing is begun, and it does not go on, not with another daemon either.
    daemon.crash();
    daemon.up();
    assert_eq!(condition(&daemon, "filler"), why);
    let begin: [&[&str]; 5] = [
        &["instance", "resume", "filler"],
        &["exec", "filler", "--", "true"],
        &["instance", "start", "--name", "more", "--", "true"],
        &["snapshot", "create", "clock"],
        &["instance", "restart", "clock"],
    ];
    for arguments in begin {
        let done = daemon.aegis(arguments);
        assert!(
            done.code != 0 && done.err().contains("the host's disk is full"),
            "{arguments:?}: {}",
            done.err()
        );
        assert!(done.err().contains("aegis instance delete"), "{}", done.err());
    }
    std::fs::remove_file(ballast).unwrap();
    eventually("there is room", DEADLINE, || condition(&daemon, "filler").contains("room again"));
    let _done = daemon.ok(&["instance", "resume", "filler"]);
    // Of 200 MiB of zeroes.
    let whole = "209715200\n3566de3a97906edb98d004d6b947ae9b  -\n";
    eventually("all of it is there", DEADLINE, || daemon.ok(&["logs", &filler]).contains(whole));
    assert_eq!(condition(&daemon, "filler"), "");
    let _done = daemon.ok(&["instance", "delete", "filler"]);
}

#[test]
fn what_the_daemon_writes_itself_leaves_room_for_guests() {
    let Some(small) = SmallDisk::mount("size=320m") else { return };
    let daemon = Daemon::start_in(small.path());
    let _id = daemon.instance("writer", &["sleep", "1000"]);
    let _started =
        daemon.ok(&["instance", "start", "--name", "full", "--memory", "768m", "--", "sleep", "1000"]);
    let _filled = daemon
        .shell("full", "mkdir /mem; mount -t tmpfs -o size=300m none /mem; head -c 230m /dev/urandom > /mem/noise && md5sum /mem/noise > /mem/sum");
    let _ballast = small.take("ballast", 100 * MIB);
    let archive = small_archive_of_much(daemon.root());
    let tries: [&[&str]; 4] = [
        &["instance", "hibernate", "full"],
        &["snapshot", "create", "full", "snap"],
        &["fork", "full"],
        &["image", "load", "-i", archive.to_str().unwrap()],
    ];
    for arguments in tries {
        let done = daemon.aegis(arguments);
        // A fork shares its memory with what it is of, and may do with what there is.
        let may_do = arguments[0] == "fork" && done.code == 0;
        assert!(
            may_do || (done.code != 0 && done.err().contains("nearly full")),
            "{arguments:?}: {}",
            done.err()
        );
        assert!(small.free() > 16 * MIB as u64, "{arguments:?} leaves {} bytes", small.free());
        let _written = daemon.shell("writer", "head -c 1m /dev/urandom > /noise && sync /noise");
    }
    // What was given up has taken nothing, and goes on.
    assert!(small.free() > 100 * MIB as u64, "{} bytes", small.free());
    assert_eq!(daemon.shell("full", "md5sum -c /mem/sum").trim(), "/mem/noise: OK");
    assert!(daemon.ok(&["image", "list"]).contains("No images"));
}

/// An image whose archive is small and whose layer is not.
fn small_archive_of_much(dir: &Path) -> PathBuf {
    let script = r#"
import gzip, hashlib, io, json, sys, tarfile
def add(archive, name, data):
    info = tarfile.TarInfo(name); info.size = len(data); archive.addfile(info, io.BytesIO(data))
layer = io.BytesIO()
with tarfile.open(fileobj=layer, mode='w') as archive: add(archive, 'much', b'x' * (400 << 20))
layer = layer.getvalue()
config = json.dumps({'architecture': sys.argv[2], 'os': 'linux', 'rootfs': {'type': 'layers', 'diff_ids': ['sha256:' + hashlib.sha256(layer).hexdigest()]}}).encode()
with tarfile.open(sys.argv[1], 'w') as archive:
    add(archive, 'layer.tar', gzip.compress(layer, 1))
    add(archive, 'config.json', config)
    add(archive, 'manifest.json', json.dumps([{'Config': 'config.json', 'RepoTags': ['much:1'], 'Layers': ['layer.tar']}]).encode())
"#;
    let archive = dir.join("much.tar");
    let processor = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let made = Command::new("python3").args(["-c", script]).arg(&archive).arg(processor).status();
    assert!(made.unwrap().success());
    archive
}

#[test]
fn a_daemon_on_a_full_disk_starts_lists_and_deletes() {
    let Some(small) = SmallDisk::mount("size=200m") else { return };
    let daemon = Daemon::start_in(small.path());
    let reserve = daemon.root().join("data/reserve/space");
    eventually("there is a reserve", DEADLINE, || reserve.exists());
    let greedy = daemon.instance("greedy", &["sleep", "1000"]);
    let _done = daemon.ok(&["exec", "greedy", "--", "dd", "if=/dev/zero", "of=/fill", "bs=1M", "count=30"]);
    let first = small.take("first", usize::MAX);
    assert!(daemon.ok(&["instance", "list"]).contains("greedy"), "it lives");
    daemon.crash();
    // What the crash left, too: the pid file's room, for one.
    let second = small.take("second", usize::MAX);
    assert_eq!(small.free(), 0);
    daemon.up();
    assert!(!reserve.exists(), "the reserve was given up");
    assert!(daemon.ok(&["instance", "list"]).contains("greedy"));
    let doctor = daemon.aegis(&["doctor"]);
    assert!(doctor.out().contains("no reserve"), "{}", doctor.out());
    let _done = daemon.ok(&["instance", "delete", "greedy"]);
    eventually("its disk is free", DEADLINE, || small.free() > 20 * MIB as u64);
    assert_eq!(daemon.files_of(&greedy), Vec::<PathBuf>::new());
    for taken in [first, second] {
        std::fs::remove_file(taken).unwrap();
    }
    eventually("there is a reserve again", DEADLINE, || reserve.exists());
    daemon.crash();
    daemon.up();
    assert!(!daemon.ok(&["instance", "list"]).contains("greedy"), "it stays deleted");
    let _id = daemon.instance("next", &["sleep", "1000"]);
    let _done = daemon.ok(&["down"]);
}

#[test]
fn a_disk_without_inodes_is_full_and_a_disk_larger_than_the_host_is_refused() {
    let Some(small) = SmallDisk::mount("size=300m,nr_inodes=700") else { return };
    let daemon = Daemon::start_in(small.path());
    let refused = daemon.aegis(&["instance", "start", "--disk", "64g", "--", "true"]);
    assert!(refused.code != 0 && refused.err().contains("overcommit"), "{}", refused.err());
    let many = small.path().join("many");
    std::fs::create_dir(&many).unwrap();
    let made = (0..).take_while(|n| std::fs::File::create(many.join(n.to_string())).is_ok()).count();
    assert!(made > 100);
    let refused = daemon.aegis(&["instance", "start", "--", "true"]);
    assert!(refused.code != 0 && refused.err().contains("0 inodes are free"), "{}", refused.err());
    daemon.crash();
    daemon.up();
    assert!(daemon.ok(&["status"]).contains("inodes free"));
    std::fs::remove_dir_all(many).unwrap();
    let _done = daemon.ok(&["down"]);
    let settings = daemon.root().join("config.toml");
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(settings, format!("{text}\n[disk]\novercommit = true\n")).unwrap();
    daemon.up();
    assert_eq!(daemon.ok(&["run", "--disk", "64g", "--memory", "160", "--", "echo", "well"]), "well\n");
}

#[test]
fn the_daemons_own_log_is_bounded() {
    let daemon = Daemon::none();
    let data = daemon.root().join("data");
    std::fs::create_dir(&data).unwrap();
    let (log, older) = (data.join("aegisd.log"), data.join("aegisd.log.1"));
    std::fs::write(&log, vec![b'x'; 17 * MIB]).unwrap();
    std::fs::write(&older, "of an earlier time").unwrap();
    daemon.up();
    assert_eq!(std::fs::metadata(&older).unwrap().len(), 17 * MIB as u64);
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.contains("serving") && text.len() < MIB, "{} bytes", text.len());
}
