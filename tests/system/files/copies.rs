//! `aegis cp`: files and trees between the host and a guest, both ways.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use aegis_tests::Daemon;

/// A tree with a bit of everything.
fn tree(at: &Path) {
    std::fs::create_dir_all(at.join("deep/er")).unwrap();
    std::fs::write(at.join("text"), "hello\n").unwrap();
    std::fs::write(at.join("deep/binary"), (0..=255).cycle().take(300_000).collect::<Vec<u8>>()).unwrap();
    std::fs::write(at.join("deep/er/empty"), "").unwrap();
    std::fs::write(at.join("run.sh"), "#!/bin/sh\necho ran\n").unwrap();
    std::fs::set_permissions(at.join("run.sh"), PermissionsExt::from_mode(0o755)).unwrap();
    symlink("deep/binary", at.join("link")).unwrap();
}

fn differences(a: &Path, b: &Path) -> String {
    let output =
        std::process::Command::new("diff").args(["-r", "--no-dereference"]).args([a, b]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_tree_goes_in_and_comes_out_the_same() {
    let (daemon, dir) = (Daemon::start(), tempfile::tempdir().unwrap());
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let _box = daemon.instance("box", &["sleep", "1000"]);
    tree(&dir.path().join("tree"));
    assert_eq!(daemon.ok(&["cp", &at("tree"), "box:/srv"]), "");
    assert_eq!(daemon.ok(&["exec", "box", "--", "/srv/tree/run.sh"]), "ran\n");
    let look = "stat -c '%a %U' /srv/tree/run.sh; readlink /srv/tree/link; cksum < /srv/tree/deep/binary";
    let told = daemon.ok(&["exec", "box", "--", "sh", "-c", look]);
    assert!(told.starts_with("755 root\ndeep/binary\n"), "{told}");
    assert_eq!(daemon.ok(&["cp", "box:/srv/tree", &at("back")]), "");
    assert_eq!(differences(&dir.path().join("tree"), &dir.path().join("back")), "");
    let mode = dir.path().join("back/run.sh").metadata().unwrap().mode();
    assert_eq!(mode & 0o777, 0o755);
    // Files, into directories and under other names; the contents of a directory; relative to the working directory.
    assert_eq!(daemon.ok(&["cp", &at("tree/text"), "box:/etc/motd"]), "");
    assert_eq!(daemon.ok(&["exec", "box", "--", "cat", "/etc/motd"]), "hello\n");
    assert_eq!(daemon.ok(&["cp", &at("tree/."), "box:"]), "");
    assert_eq!(daemon.ok(&["exec", "box", "--", "cat", "/workspace/text"]), "hello\n");
    std::fs::create_dir(dir.path().join("into")).unwrap();
    assert_eq!(daemon.ok(&["cp", "box:text", &at("into")]), "");
    assert_eq!(std::fs::read(dir.path().join("into/text")).unwrap(), b"hello\n");
    // Nothing of it is in the log.
    assert!(!daemon.ok(&["logs", "box"]).contains("AEGISCP"));
}

#[test]
fn a_copy_wakes_what_rests_and_belongs_to_the_commands_user() {
    let (daemon, dir) = (Daemon::start(), tempfile::tempdir().unwrap());
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let start = ["instance", "start", "--name", "box", "--user", "1000:1001", "--", "sleep", "1000"];
    assert_eq!(daemon.aegis(&start).code, 0);
    assert_eq!(daemon.aegis(&["instance", "pause", "box"]).code, 0);
    assert_eq!(daemon.ok(&["cp", file.to_str().unwrap(), "box:/srv/"]), "");
    assert_eq!(daemon.state("box"), "running");
    let owner = daemon.ok(&["exec", "box", "--user", "root", "--", "stat", "-c", "%u:%g", "/srv/file"]);
    assert_eq!(owner, "1000:1001\n");
}

#[test]
fn a_copy_boots_a_stopped_instance_without_running_its_command() {
    let (daemon, dir) = (Daemon::start(), tempfile::tempdir().unwrap());
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(dir.path().join("in"), "of the host").unwrap();
    let command = "echo ran >> /srv/ran; sleep 1000";
    let settings =
        ["instance", "start", "--name", "box", "--memory", "160", "--workspace", "w", "--user", "1000:1000"];
    let id = daemon.ok(&[&settings[..], &["--", "sh", "-c", "sleep 1000"]].concat());
    assert!(id.contains("box"));
    assert_eq!(daemon.aegis(&["instance", "stop", "box"]).code, 0);
    let boots = daemon.ok(&["logs", "box"]);
    for target in ["box:/srv/in", "box:/workspace/in", "box:relative"] {
        assert_eq!(daemon.ok(&["cp", &at("in"), target]), "");
    }
    assert_eq!(daemon.ok(&["cp", "box:/srv/in", &at("out")]), "");
    assert_eq!(std::fs::read_to_string(dir.path().join("out")).unwrap(), "of the host");
    assert_eq!(
        std::fs::read_to_string(daemon.root().join("data/workspaces/w/relative")).unwrap(),
        "of the host"
    );
    // Nothing of that is a run of the instance, and no machine is left.
    assert_eq!(daemon.state("box"), "stopped");
    assert_eq!(daemon.ok(&["logs", "box"]), boots);
    aegis_tests::eventually("no machine is left", std::time::Duration::from_secs(20), || {
        daemon.machines().is_empty()
    });
    assert_ne!(daemon.ok(&["instance", "start", "--name", "box"]), "");
    let owner = daemon.ok(&[
        "exec",
        "box",
        "--user",
        "root",
        "--",
        "stat",
        "-c",
        "%u %n",
        "/srv/in",
        "/workspace/in",
    ]);
    assert_eq!(owner, "1000 /srv/in\n1000 /workspace/in\n");
    // One whose command does work when it runs.
    let _twice = daemon.instance("twice", &["sh", "-c", command]);
    let ran = || daemon.aegis(&["exec", "twice", "--", "test", "-s", "/srv/ran"]).code == 0;
    aegis_tests::eventually("the command has run", std::time::Duration::from_secs(20), ran);
    assert_eq!(daemon.aegis(&["instance", "stop", "twice"]).code, 0);
    assert_eq!(daemon.ok(&["cp", "twice:/srv/ran", &at("ran")]), "");
    assert_eq!(std::fs::read_to_string(dir.path().join("ran")).unwrap(), "ran\n");
    // Disabled is off.
    assert_eq!(daemon.aegis(&["instance", "disable", "twice"]).code, 0);
    let disabled = daemon.aegis(&["cp", "twice:/srv/ran", &at("ran")]);
    assert!(disabled.code == 1 && disabled.err().contains("disabled"), "{}", disabled.err());
}

#[test]
fn a_start_waits_for_a_copy_and_a_removal_does_not() {
    let (daemon, dir) = (Daemon::start(), tempfile::tempdir().unwrap());
    let big = dir.path().join("big");
    // No holes: those take no time.
    std::fs::write(&big, vec![1; 400 << 20]).unwrap();
    let _box = daemon.instance("box", &["sleep", "1000"]);
    assert_eq!(daemon.aegis(&["instance", "stop", "box"]).code, 0);
    let copy = || daemon.spawn(&["cp", big.to_str().unwrap(), "box:/srv/big"]);
    let within = std::time::Duration::from_secs(30);
    let copying = copy();
    aegis_tests::eventually("the copy's machine is there", within, || !daemon.machines().is_empty());
    assert_ne!(daemon.ok(&["instance", "start", "--name", "box"]), "");
    assert_eq!(aegis_tests::wait(copying, None).code, 0);
    assert_eq!(daemon.ok(&["exec", "box", "--", "stat", "-c", "%s", "/srv/big"]), "419430400\n");
    assert_eq!(daemon.aegis(&["instance", "stop", "box"]).code, 0);
    let copying = copy();
    aegis_tests::eventually("the copy's machine is there", within, || !daemon.machines().is_empty());
    assert_eq!(daemon.aegis(&["instance", "delete", "box"]).code, 0);
    assert!(daemon.machines().is_empty());
    assert_ne!(aegis_tests::wait(copying, None).code, 0);
}

#[test]
fn what_cannot_be_copied_is_told_with_its_path() {
    let (daemon, dir) = (Daemon::start(), tempfile::tempdir().unwrap());
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let _box = daemon.instance("box", &["sleep", "1000"]);
    std::fs::write(dir.path().join("file"), vec![1; 5_000_000]).unwrap();
    for (arguments, code, words) in [
        ([at("absent").as_str(), "box:/srv"], 1, "absent: No such file"),
        (["box:/absent", &at("x")], 1, "/absent: No such file"),
        ([&at("file"), "box:/none/such"], 1, "No such file"),
        ([&at("file"), "box:/none/"], 1, "no such directory"),
        ([&at("file"), "box:/dev/full/x"], 1, "/dev/full"),
        (["box:/etc/hostname", &at("none/such/file")], 1, "none/such"),
        ([&at("file"), &at("other")], 2, "INSTANCE:PATH"),
        (["box:/a", "box:/b"], 2, "INSTANCE:PATH"),
        ([&at("file"), "nobody:/srv"], 1, "no instance"),
    ] {
        let done = daemon.aegis(&[&["cp"], &arguments[..]].concat());
        assert!(
            done.code == code && done.err().contains(words),
            "{arguments:?}: {} {}",
            done.code,
            done.err()
        );
        assert!(!Path::new(&at("x")).exists());
    }
    let full = daemon.aegis(&[
        "exec",
        "box",
        "--",
        "sh",
        "-c",
        "mkdir /tiny && mount -t tmpfs -o size=1m tmpfs /tiny",
    ]);
    assert_eq!(full.code, 0, "{}", full.err());
    let done = daemon.aegis(&["cp", &at("file"), "box:/tiny"]);
    assert!(done.code == 1 && done.err().contains("No space left"), "{}", done.err());
    let special = daemon.aegis(&["cp", "box:/dev", &at("dev")]);
    assert!(special.code == 0 && special.err().contains("left out: /dev/null"), "{}", special.err());
}

#[test]
fn an_image_needs_no_program_for_it() {
    use aegis_tests::registry::Layout;
    let (daemon, dir, layout) = (Daemon::start(), tempfile::tempdir().unwrap(), Layout::new());
    layout.busybox("1");
    assert_eq!(daemon.aegis(&["image", "load", "-i", layout.path()]).code, 0);
    let list = daemon.ok(&["image", "list", "--output", "json"]);
    let digest = list.split('"').find(|word| word.starts_with("sha256:")).unwrap().to_owned();
    let start = ["instance", "start", "--name", "box", "--image", &digest, "--", "/bin/sleep", "1000"];
    assert_eq!(daemon.aegis(&start).code, 0, "{}", daemon.report());
    tree(&dir.path().join("tree"));
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    assert_eq!(daemon.ok(&["cp", &at("tree"), "box:/tree"]), "");
    assert_eq!(daemon.ok(&["cp", "box:/tree", &at("back")]), "");
    assert_eq!(differences(&dir.path().join("tree"), &dir.path().join("back")), "");
}

#[test]
fn a_guest_chooses_no_place_on_the_host() {
    let (daemon, dir) = (Daemon::start(), tempfile::tempdir().unwrap());
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let _box = daemon.instance("box", &["sleep", "1000"]);
    for name in ["out", "ssh"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    // A link of the guest's is not made on the host, but followed in the guest.
    let link = format!("ln -s {} /results; ln -s /etc/hostname /name", at("ssh"));
    assert_eq!(daemon.aegis(&["exec", "box", "--", "sh", "-c", &link]).code, 0);
    let done = daemon.aegis(&["cp", "box:/results", &at("out")]);
    assert!(done.code == 1 && done.err().contains("/results: No such file"), "{} {}", done.code, done.err());
    assert_eq!(std::fs::read_dir(at("out")).unwrap().count(), 0);
    assert_eq!(daemon.ok(&["cp", "box:/name", &at("out")]), "");
    assert!(std::fs::symlink_metadata(at("out/name")).unwrap().is_file());
    let real = "rm /results; mkdir /results; echo KEY > /results/authorized_keys";
    assert_eq!(daemon.aegis(&["exec", "box", "--", "sh", "-c", real]).code, 0);
    // And one that is there all the same is not the user's.
    symlink("../ssh", dir.path().join("out/results")).unwrap();
    let done = daemon.aegis(&["cp", "box:/results", &at("out")]);
    assert!(done.code == 1 && done.err().contains("symbolic link is in the way"), "{}", done.err());
    assert_eq!(std::fs::read_dir(at("ssh")).unwrap().count(), 0);
    // What the user names himself may be a link.
    symlink("ssh", dir.path().join("mine")).unwrap();
    assert_eq!(daemon.ok(&["cp", "box:/results", &at("mine")]), "");
    assert_eq!(std::fs::read(dir.path().join("ssh/results/authorized_keys")).unwrap(), b"KEY\n");
}
