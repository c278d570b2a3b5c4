//! A directory of the host is the one that was named, whatever guests do to the way to it.

use std::path::Path;

use aegis_tests::{DEADLINE, Daemon, eventually};
use rustix::process::{Pid, Signal, kill_process};

use crate::workspaces::{server, start};

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
    for path in
        ["/", "/tmp", &root, &format!("{root}/data"), link.to_str().unwrap(), programs.to_str().unwrap()]
    {
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
