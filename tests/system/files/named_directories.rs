//! A directory of the host is the one that was named, whatever guests do to the way to it.

use std::path::{Path, PathBuf};
use std::process::Command;

use aegis_tests::{DEADLINE, Daemon, eventually};
use rustix::process::{Pid, Signal, kill_process};

use crate::files::workspaces::{server, start};

/// Starts an instance that sees a directory below one that another instance writes.
fn start_below(daemon: &Daemon, project: &Path) {
    let (project, data) = (project.display(), project.join("data"));
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("marker"), "original").unwrap();
    start(daemon, "owner", &project.to_string(), &[]);
    let mount = format!("{}:/data", data.display());
    let _out =
        daemon.ok(&["instance", "start", "--name", "victim", "--mount", &mount, "--", "sleep", "1000"]);
}

#[test]
fn a_link_that_a_guest_has_put_where_a_directory_is_named_is_not_followed_also_when_the_guest_is_gone() {
    let (daemon, dir) = (Daemon::start(), tempfile::tempdir().unwrap());
    let root = dir.path().canonicalize().unwrap();
    std::fs::create_dir_all(root.join("p/data")).unwrap();
    std::fs::create_dir_all(root.join("private")).unwrap();
    std::fs::write(root.join("private/key"), "hidden").unwrap();
    std::os::unix::fs::symlink("private", root.join("own")).unwrap();
    let (project, data) = (root.join("p").display().to_string(), root.join("p/data").display().to_string());
    let link = format!("rmdir /workspace/data; ln -s {} /workspace/data", root.join("private").display());
    let _done = daemon.ok(&["run", "--workspace", &project, "--", "sh", "-c", &link]);
    let mount = format!("{data}:/data");
    let tries = [
        &["--workspace", &project, "--mount", &mount][..],
        &["--mount", &mount],
        &["--workspace", &data],
        &["--workspace", &format!("{data}/../private")],
    ];
    let refused = |settings: &[&str]| {
        let words = [&["run"], settings, &["--", "cat", "/data/key", "/workspace/key"]].concat();
        let done = daemon.aegis(&words);
        assert!(
            done.code == 125 && !done.out().contains("hidden"),
            "{words:?}: {}{}",
            done.out(),
            done.err()
        );
        assert!(
            done.err().contains("where a guest could put it") && done.err().contains("realpath"),
            "{}",
            done.err()
        );
    };
    tries.iter().for_each(|settings| refused(settings));
    daemon.crash();
    daemon.up();
    refused(&["--mount", &mount]);
    // Within a workspace by name, by its path.
    let _done = daemon.ok(&["run", "--workspace", "kept", "--", "ln", "-s", &project, "way"]);
    let kept = daemon.root().join("data/workspaces/kept/way");
    refused(&["--workspace", &kept.display().to_string()]);
    // A link of the user's own is followed, as ever.
    let own = root.join("own").display().to_string();
    assert_eq!(daemon.ok(&["run", "--workspace", &own, "--", "cat", "key"]), "hidden");
}

#[test]
fn a_guest_that_exchanges_a_directory_of_another_mount_gets_an_error_and_no_other_directory() {
    let (daemon, dir) = (Daemon::start(), tempfile::tempdir().unwrap());
    let project = dir.path().canonicalize().unwrap().join("p");
    std::fs::create_dir_all(project.join("evil/etc")).unwrap();
    start_below(&daemon, &project);
    assert_eq!(daemon.ok(&["exec", "victim", "--", "cat", "/data/marker"]), "original");
    let _taken = daemon.ok(&["snapshot", "create", "victim", "before"]);
    let owner = |script: &str| daemon.shell("owner", &format!("cd /workspace; {script}"));
    let exchanges = [
        "ln -s / data",
        "ln -s evil data",
        "mkdir data",
        "mv evil data",
        "echo file > data",
        "ln -s ../p/kept data",
    ];
    let _moved = owner("mv data kept");
    for exchange in exchanges {
        let _exchanged = owner(exchange);
        for way in [
            &["instance", "restart", "victim"][..],
            &["instance", "start", "--name", "victim"],
            &["instance", "start", "--name", "copy", "--from", "before", "--share-workspace"],
            &["exec", "victim", "--", "ls", "/data/etc"],
        ] {
            let done = daemon.aegis(way);
            assert_ne!(done.code, 0, "{exchange}, {way:?}: {}", done.out());
            assert!(!done.out().contains("passwd"), "{exchange}, {way:?}: {}", done.out());
        }
        let refused = daemon.aegis(&["instance", "restart", "victim"]).err();
        assert!(refused.contains("cannot be mounted at /data"), "{exchange}: {refused}");
        let _back = owner("rm -rf data; mkdir -p evil/etc");
    }
    let _back = owner("mv kept data");
    let _started = daemon.ok(&["instance", "start", "--name", "victim"]);
    assert_eq!(daemon.ok(&["exec", "victim", "--", "cat", "/data/marker"]), "original");
    // Nor does the server that takes another's place, or one that wakes from disk.
    let _moved = owner("mv data kept; ln -s / data");
    let id = daemon.info("victim").unwrap()["id"].as_str().unwrap().to_owned();
    let server = Pid::from_raw(server(&id).unwrap()).unwrap();
    kill_process(server, Signal::KILL).unwrap();
    let listed = daemon.aegis(&["exec", "victim", "--", "ls", "/data/"]);
    assert!(!listed.out().contains("etc"), "{}", listed.out());
    eventually("it is stopped", DEADLINE, || daemon.state("victim") == "stopped");
    let reason = daemon.info("victim").unwrap()["stop_reason"]["message"].to_string();
    assert!(reason.contains("is not the directory any more"), "{reason}");
}

#[test]
fn a_directory_that_was_made_anew_is_seen_by_an_instance_that_is_started_with_it_once_more() {
    let (daemon, dir) = (Daemon::start(), tempfile::tempdir().unwrap());
    let project = dir.path().canonicalize().unwrap().join("p");
    let make = |text: &str| {
        std::fs::create_dir(&project).unwrap();
        std::fs::write(project.join("file"), text).unwrap();
    };
    make("first");
    let workspace = project.to_str().unwrap();
    let start = ["instance", "start", "--name", "box", "--workspace", workspace, "--", "sleep", "1000"];
    let _out = daemon.ok(&start);
    let _out = daemon.ok(&["exec", "box", "--", "sh", "-c", "echo kept > /root/kept"]);
    // As a new clone of a repository does.
    std::fs::remove_dir_all(&project).unwrap();
    make("second");
    let refused = daemon.aegis(&["instance", "restart", "box"]).err();
    assert!(refused.contains("start it with --workspace or --mount once more"), "{refused}");
    let by_name = daemon.aegis(&["instance", "start", "--name", "box"]);
    assert_ne!(by_name.code, 0, "its name alone names no directory");
    let _out = daemon.ok(&["instance", "start", "--name", "box", "--workspace", workspace]);
    assert_eq!(daemon.ok(&["exec", "box", "--", "cat", "/workspace/file", "/root/kept"]), "secondkept\n");
    let _out = daemon.ok(&["instance", "restart", "box"]);
    // All that it was started with does as well; another directory does not.
    std::fs::remove_dir_all(&project).unwrap();
    make("third");
    let _out = daemon.ok(&["instance", "stop", "box"]);
    let other = daemon.aegis(&["instance", "start", "--name", "box", "--workspace", "other"]);
    assert!(other.err().contains("exists"), "{}", other.err());
    let _out = daemon.ok(&start);
    assert_eq!(daemon.ok(&["exec", "box", "--", "cat", "/workspace/file"]), "third");
}

#[test]
fn renames_under_way_lead_nowhere_else() {
    let (daemon, dir) = (Daemon::start(), tempfile::tempdir().unwrap());
    let project = dir.path().canonicalize().unwrap().join("p");
    std::fs::create_dir(&project).unwrap();
    start_below(&daemon, &project);
    let turn = "cd /workspace; i=0; while [ $i -lt 1500 ]; do i=$((i+1)); mv -T data kept; ln -s / data; rm data; mv -T kept data; done";
    std::thread::scope(|scope| {
        let turning =
            scope.spawn(|| daemon.aegis(&["exec", "--timeout", "15s", "owner", "--", "sh", "-c", turn]));
        let (mut seen, mut rounds) = (0, 0);
        while !turning.is_finished() && rounds < 12 {
            rounds += 1;
            let _either = daemon.aegis(&["instance", "restart", "victim"]);
            let listed = daemon.aegis(&["exec", "victim", "--", "ls", "/data/"]);
            assert!(listed.code != 0 || listed.out() == "marker\n", "{}", listed.out());
            seen += i32::from(listed.code == 0);
        }
        assert!(rounds > 0, "{seen} of {rounds}");
    });
}

#[test]
fn what_the_daemon_works_with_is_refused_by_whatever_name() {
    let (daemon, dir) = (Daemon::start(), tempfile::tempdir().unwrap());
    let root = daemon.root().display().to_string();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(daemon.root(), &link).unwrap();
    let programs = aegis_tests::bin().canonicalize().unwrap();
    let data = format!("{root}/data");
    let paths = ["/", "/tmp", &root, &data, link.to_str().unwrap(), programs.to_str().unwrap()];
    // What is no store of files is the kernel's, and so the host's.
    let interfaces = ["/proc", "/proc/self", "/sys", "/sys/kernel", "/dev"];
    for path in paths.into_iter().chain(interfaces) {
        for option in [&["--workspace", path][..], &["--mount", &format!("{path}:/x:ro")]] {
            let refused = daemon.aegis(&[&["run"], option, &["--", "true"]].concat());
            assert!(refused.code != 0, "{option:?}");
            assert!(
                refused.err().contains("cannot be shown to an instance"),
                "{option:?}: {}",
                refused.err()
            );
        }
    }
    // A workspace by name is there to be shown, by its path too.
    let _made = daemon.ok(&["workspace", "create", "w"]);
    let _shown = daemon.ok(&["run", "--workspace", &format!("{root}/data/workspaces/w"), "--", "true"]);
}

/// Something mounted for a test, until its end.
struct Mounted(PathBuf);

impl Mounted {
    /// Mounts at `at`, which is made; `None` where the user of the tests may not.
    fn at(at: &Path, arguments: &[&str]) -> Option<Mounted> {
        std::fs::create_dir_all(at).unwrap();
        if !rustix::process::geteuid().is_root() {
            // Only root can mount; everybody else skips this.
            return None;
        }
        let mounted = Command::new("mount").args(arguments).arg(at).status().unwrap();
        assert!(mounted.success(), "mount {arguments:?} {}", at.display());
        Some(Mounted(at.to_owned()))
    }
}

impl Mounted {
    /// Shows a file at another one.
    fn at_file(at: &Path, file: &Path) -> Mounted {
        let mounted = Command::new("mount").arg("--bind").arg(file).arg(at).status().unwrap();
        assert!(mounted.success(), "{}", file.display());
        Mounted(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn what_is_mounted_below_a_directory_is_neither_the_home_nor_the_hosts_kernel() {
    let (daemon, dir) = (Daemon::start(), tempfile::tempdir().unwrap());
    let dir = dir.path().canonicalize().unwrap();
    let run = |path: &Path, script: &str| {
        daemon.aegis(&["run", "--workspace", path.to_str().unwrap(), "--", "sh", "-c", script])
    };
    // The home's parts, bound below a directory that has nothing to do with it.
    for part in [daemon.root().to_owned(), daemon.root().join("data"), daemon.root().join("data/disks")] {
        let Some(_bound) = Mounted::at(&dir.join("a/bound"), &["--bind", part.to_str().unwrap()]) else {
            return;
        };
        let refused = run(&dir.join("a"), "true");
        assert!(refused.err().contains("cannot be shown to an instance"), "{}", refused.err());
    }
    // Files of it, and a program of the daemon's: what is mounted need not be a directory.
    std::fs::create_dir_all(dir.join("c")).unwrap();
    std::fs::write(dir.join("c/file"), "").unwrap();
    let programs = aegis_tests::bin().canonicalize().unwrap();
    for file in
        [daemon.root().join("data/aegis.db"), daemon.root().join("config.toml"), programs.join("aegisd")]
    {
        let _bound = Mounted::at_file(&dir.join("c/file"), &file);
        let refused = run(&dir.join("c"), "true");
        assert!(
            refused.err().contains("cannot be shown to an instance"),
            "{}: {}",
            file.display(),
            refused.err()
        );
    }
    // The home on a volume, a part of which is mounted elsewhere: the rest of the volume holds it.
    let volume = Mounted::at(&dir.join("volume"), &["-t", "tmpfs", "tmpfs"]).unwrap();
    std::fs::create_dir_all(dir.join("volume/all/home")).unwrap();
    let (home, all) = (dir.join("mnt"), dir.join("volume/all"));
    let _home = Mounted::at(&home, &["--bind", all.join("home").to_str().unwrap()]).unwrap();
    let other = Daemon::start_in(&home);
    for outside in [&volume.0, &all] {
        let refused = other.aegis(&["run", "--workspace", outside.to_str().unwrap(), "--", "true"]);
        assert!(refused.err().contains("cannot be shown to an instance"), "{}", refused.err());
    }
    // A file system that is the kernel's, mounted before the start: it is there, and is not entered.
    let _proc = Mounted::at(&dir.join("b/proc"), &["-t", "proc", "proc"]).unwrap();
    let _tmp = Mounted::at(&dir.join("b/tmp"), &["-t", "tmpfs", "tmpfs"]).unwrap();
    std::fs::write(dir.join("b/tmp/file"), "a store of files").unwrap();
    let done = run(
        &dir.join("b"),
        "cat tmp/file; ls proc; cat proc/version; echo c > proc/sysrq-trigger; cat proc/self/environ; echo done",
    );
    assert_eq!(done.out(), "a store of filesdone\n", "{}", done.err());
    assert!(done.err().contains("Permission denied"), "{}", done.err());
}

#[test]
fn a_directory_on_an_overlay_stays_the_one_that_was_named_when_it_is_written() {
    let (daemon, dir) = (Daemon::start(), tempfile::tempdir().unwrap());
    let dir = dir.path().canonicalize().unwrap();
    for part in ["lower/p", "upper", "work"] {
        std::fs::create_dir_all(dir.join(part)).unwrap();
    }
    let [lower, upper, work] = ["lower", "upper", "work"].map(|part| dir.join(part).display().to_string());
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    let merged = dir.join("merged");
    let Some(_overlay) = Mounted::at(&merged, &["-t", "overlay", "overlay", "-o", &options]) else { return };
    start(&daemon, "box", merged.join("p").to_str().unwrap(), &[]);
    // Its first write makes a copy of the directory, with a birth of its own.
    let _written = daemon.shell("box", "echo x > /workspace/file");
    let _restarted = daemon.ok(&["instance", "restart", "box"]);
    assert_eq!(daemon.ok(&["exec", "box", "--", "cat", "/workspace/file"]), "x\n");
}

#[test]
fn what_a_guest_hides_by_modes_and_depth_counts_at_its_next_boot_too() {
    let daemon = Daemon::start();
    let hide = "mkdir h$1 && head -c 3000000 /dev/zero > h$1/f && chmod $2 h$1";
    let ways = [("modes", "000"), ("listing", "444"), ("search", "111")];
    for (name, mode) in ways {
        start(&daemon, name, name, &["--workspace-quota", "4"]);
        let _out = daemon.ok(&["exec", name, "--", "sh", "-c", hide, "sh", "1", mode]);
        let _out = daemon.ok(&["instance", "restart", name]);
        let again = daemon.aegis(&["exec", name, "--", "sh", "-c", hide, "sh", "2", mode]);
        assert!(again.err().contains("No space"), "{name}: {} {}", again.out(), again.err());
        // The guest sees the modes that it has set.
        let shown = daemon.ok(&["exec", name, "--", "stat", "-c", "%a", "h1"]);
        assert_eq!(shown.trim().parse::<u32>().ok(), mode.parse().ok(), "{name}");
    }
    // A workspace that is closed itself can be started again.
    let _out = daemon.ok(&["exec", "modes", "--", "chmod", "0", "/workspace"]);
    let _out = daemon.ok(&["instance", "restart", "modes"]);
    let _out = daemon.ok(&["exec", "modes", "--", "ls", "/workspace/h1"]);
}
