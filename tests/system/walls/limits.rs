//! Everything is bounded: logs, consoles, disks.

use std::process::Command;

use aegis_tests::{DEADLINE, Daemon, eventually};

#[test]
fn a_flood_of_output_keeps_the_log_within_its_size() {
    if aegis_tests::short() {
        return;
    }
    let daemon = Daemon::start();
    let id = daemon.instance("flood", &["sh", "-c", "head -c 80000000 /dev/zero; echo end"]);
    eventually("it stops", DEADLINE, || daemon.state("flood") == "stopped");
    let dir = daemon.root().join("data/logs").join(&id);
    let size: u64 =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!((40 << 20..54 << 20).contains(&size), "{size} bytes");
    assert!(daemon.aegis(&["logs", &id, "--tail", "5"]).out().contains("end\n"));
}

/// A small file system of its own, for a home that fills up. Needs root.
struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    fn mount(size: &str) -> Option<SmallDisk> {
        let dir = tempfile::Builder::new().prefix("aegis-small").tempdir_in("/tmp").unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(dir.path())
            .status()
            .is_ok_and(|status| status.success());
        mounted.then_some(SmallDisk { dir })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("-l").arg(self.dir.path()).status();
    }
}

#[test]
fn a_full_host_disk_is_a_matter_of_the_instance_that_fills_it_and_of_nobody_else() {
    let Some(small) = SmallDisk::mount("120m") else {
        // Only root can make a small disk; everybody else skips this.
        return;
    };
    let daemon = Daemon::start_in(small.dir.path());
    let _calm = daemon.instance("calm", &["sleep", "1000"]);
    let _greedy = daemon.instance("greedy", &["sleep", "1000"]);
    let fill = "dd if=/dev/zero of=/fill bs=1M count=400 conv=fsync";
    let filling = daemon.spawn(&["exec", "greedy", "--", "sh", "-c", fill]);
    eventually("it stands still", DEADLINE, || daemon.state("greedy") == "paused");
    assert_eq!(daemon.ok(&["exec", "calm", "--", "echo", "well"]), "well\n");
    assert!(daemon.ok(&["instance", "delete", "greedy"]).contains("deleted"));
    let done = aegis_tests::wait(filling, None);
    assert_ne!(done.code, 0, "all of it fitted on a full disk: {}", done.err());
    daemon.crash();
    daemon.up();
    assert_eq!(daemon.state("calm"), "running", "the registry is consistent");
}
