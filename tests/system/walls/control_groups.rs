//! An instance's processes are in a control group of its own, where one is delegated to the daemon.
//!
//! Needs root and a hierarchy of version 2, alone or beside version 1. Where that has no controllers (as beside version 1)
//! the groups are there without bounds, and that is told; bounds are tested in `aegis-jail`.

use std::path::{Path, PathBuf};

use aegis_tests::{DEADLINE, Daemon, eventually};

/// A group below the root of the hierarchy, which goes with this.
struct Delegated(PathBuf);

impl Delegated {
    fn make() -> Option<Delegated> {
        let mounts = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
        let root = mounts.into_iter().find(|path| path.join("cgroup.procs").is_file())?;
        let path = root.join(format!("aegis-system-{}", std::process::id()));
        std::fs::create_dir(&path).ok().map(|()| Delegated(path))
    }

    fn members(&self, instance: &str) -> Vec<i32> {
        let members = std::fs::read_to_string(self.0.join(format!("aegis-{instance}/cgroup.procs")));
        members.unwrap_or_default().lines().map(|line| line.parse().unwrap()).collect()
    }

    fn groups(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).unwrap().flatten();
        let groups = entries.filter(|entry| entry.path().is_dir());
        groups.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        for group in self.groups() {
            let _in_use = std::fs::remove_dir(self.0.join(group));
        }
        let _in_use = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn an_instance_has_a_group_of_its_own_as_long_as_it_runs() {
    let Some(delegated) = Delegated::make() else { return };
    let settings = format!("[confinement]\ncgroup = {:?}\n[templates]\nspare = \"off\"\n", delegated.0);
    let daemon = Daemon::start_configured(&settings, &[]);
    let shared = tempfile::tempdir().unwrap();
    let workspace = shared.path().to_str().unwrap();
    let start = ["instance", "start", "--name", "box", "--workspace", workspace, "--", "sleep", "1000"];
    let _out = daemon.ok(&start);
    let id = daemon.info("box").unwrap()["id"].as_str().unwrap().to_owned();
    let machine = daemon.machines()[0];
    // QEMU, the file server, the gateway.
    let members = delegated.members(&id);
    assert!(members.len() == 3 && members.contains(&machine), "{members:?} {machine}");
    let said = daemon.ok(&["instance", "info", "box"]);
    assert!(said.contains("cgroup (") || said.contains("cgroup memory pids cpu"), "{said}");
    // Another daemon finds the group, and the last of an instance takes it along.
    daemon.crash();
    daemon.up();
    assert_eq!(delegated.members(&id).len(), 3);
    let _out = daemon.ok(&["instance", "restart", "box"]);
    assert_eq!(delegated.members(&id).len(), 3);
    let _out = daemon.ok(&["instance", "delete", "box"]);
    eventually("the group is gone", DEADLINE, || !delegated.groups().contains(&format!("aegis-{id}")));
}

#[test]
fn a_group_that_cannot_be_used_keeps_the_daemon_from_starting_and_so_does_one_that_is_required() {
    let daemon = Daemon::start();
    assert_eq!(daemon.aegis(&["down"]).code, 0);
    for (settings, said) in [
        ("[confinement]\ncgroup = \"/proc\"\n", "[confinement] cgroup: it is no control group of version 2"),
        ("[confinement]\ncgroup = \"/nonexistent\"\n", "[confinement] cgroup: No such file"),
        ("[confinement]\nrequire = [\"cgroup\"]\n", "this host has no cgroup"),
    ] {
        std::fs::write(daemon.root().join("config.toml"), settings).unwrap();
        let refused = daemon.aegis(&["up"]);
        assert!(refused.code != 0 && refused.err().contains(said), "{settings}: {}", refused.err());
    }
}
