//! A home that an earlier version made opens, and everything in it works.
//!
//! `fixtures/home-9bf8bc2.tar.xz` was made by the programs of commit 9bf8bc2: an image `box:1` (busybox), a secret, an instance
//! that was stopped, one that was hibernated (without the memory, which is a cache), one that was disabled and shares a
//! workspace, a snapshot, logs.

use std::path::Path;
use std::process::Command;

use aegis_tests::{DEADLINE, Daemon, eventually};

/// Waits until a file in an instance reads so. The instances' commands write these files again at each boot, so that a
/// reader may find one of them empty for a moment.
fn eventually_reads(daemon: &Daemon, name: &str, path: &str, content: &str) {
    let reads = || daemon.ok(&["exec", name, "--", "sh", "-c", &format!("cat {path} || true")]) == content;
    eventually(&format!("{path} in {name}"), DEADLINE, reads);
}

/// A daemon, not yet started, whose home is the old one.
fn old_home() -> Daemon {
    let daemon = Daemon::none();
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/home-9bf8bc2.tar.xz");
    let unpacked =
        Command::new("tar").arg("-C").arg(daemon.root()).arg("-xJf").arg(archive).status().unwrap();
    assert!(unpacked.success());
    daemon
}

#[test]
fn a_home_of_the_version_before_opens_and_everything_in_it_works() {
    let daemon = old_home();
    daemon.up();
    let list = daemon.ok(&["instance", "list"]);
    for word in ["kept", "slept", "shared", "disabled"] {
        assert!(list.contains(word), "{list}");
    }
    assert!(daemon.ok(&["logs", "kept"]).contains("said before"));
    assert!(daemon.ok(&["image", "list"]).contains("box:1"));
    assert!(daemon.ok(&["snapshot", "list"]).contains("before"));

    // What was stopped starts with its disk, its environment and its secret.
    drop(daemon.ok(&["instance", "start", "--name", "kept"]));
    eventually_reads(&daemon, "kept", "/kept", "written before\n");
    let said = daemon.ok(&["exec", "kept", "--", "sh", "-c", "echo $COLOUR $TOKEN"]);
    assert_eq!(said, "blue s3cret\n");
    drop(daemon.ok(&["exec", "kept", "--", "sh", "-c", "echo later > /later; sync"]));

    // What was hibernated goes on, or boots, from its disk.
    eventually_reads(&daemon, "slept", "/slept", "slept\n");

    // What was disabled waits for an explicit start, and sees its workspace.
    assert_ne!(daemon.aegis(&["exec", "shared", "--", "true"]).code, 0);
    drop(daemon.ok(&["instance", "start", "--name", "shared"]));
    eventually_reads(&daemon, "shared", "/workspace/note", "from the guest\n");

    // A snapshot of then is restored now, and started from.
    drop(daemon.ok(&["snapshot", "restore", "before"]));
    drop(daemon.ok(&["instance", "start", "--name", "kept"]));
    assert_ne!(daemon.aegis(&["exec", "kept", "--", "cat", "/later"]).code, 0);
    eventually_reads(&daemon, "kept", "/kept", "written before\n");
    drop(daemon.ok(&["instance", "hibernate", "shared"]));
    assert_eq!(daemon.ok(&["exec", "shared", "--", "cat", "/workspace/note"]), "from the guest\n");
    drop(daemon.ok(&["instance", "delete", "kept"]));
    drop(daemon.ok(&["instance", "delete", "slept"]));
    drop(daemon.ok(&["instance", "delete", "shared"]));
}
