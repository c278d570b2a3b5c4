//! Nothing leaks: after a delete nothing of the instance is left, whenever it comes.

use std::time::Duration;

use aegis_tests::{DEADLINE, Daemon, eventually};

fn descriptors(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

#[test]
fn after_a_delete_no_process_socket_file_or_directory_is_left() {
    // A template that is made meanwhile would stay open.
    let daemon = Daemon::start_configured("[templates]\nbudget = \"off\"\nspare = \"off\"\n", &[]);
    // The first round opens what stays open.
    assert_eq!(daemon.ok(&["run", "--", "true"]), "");
    let before = descriptors(daemon.pid());
    let running = daemon.instance("running", &["sleep", "1000"]);
    let paused = daemon.instance("paused", &["sleep", "1000"]);
    let stopped = daemon.instance("stopped", &["true"]);
    assert!(daemon.ok(&["instance", "pause", "paused"]).contains("paused"));
    eventually("it stops", DEADLINE, || daemon.state("stopped") == "stopped");
    for id in [&running, &paused, &stopped] {
        assert!(!daemon.files_of(id).is_empty());
        assert!(daemon.ok(&["instance", "delete", id]).contains("deleted"));
        assert_eq!(daemon.files_of(id), Vec::<std::path::PathBuf>::new());
    }
    assert!(daemon.machines().is_empty());
    eventually("the daemon's descriptors are closed", DEADLINE, || descriptors(daemon.pid()) <= before);
}

#[test]
fn delete_and_disable_during_the_boot_leave_nothing_behind() {
    let daemon = Daemon::start();
    for (number, delay) in [0u64, 30, 100, 300, 600].into_iter().enumerate() {
        let name = format!("early-{number}");
        let child = daemon.spawn(&["instance", "start", "--name", &name, "--", "sleep", "1000"]);
        eventually("it exists", DEADLINE, || daemon.state(&name) != "gone");
        let id = daemon.info(&name).unwrap()["id"].as_str().unwrap().to_owned();
        std::thread::sleep(Duration::from_millis(delay));
        assert!(daemon.ok(&["instance", "delete", &name]).contains("deleted"));
        aegis_tests::wait(child, None);
        assert_eq!(daemon.files_of(&id), Vec::<std::path::PathBuf>::new());
        assert!(daemon.machines().is_empty());
    }
    let child = daemon.spawn(&["instance", "start", "--name", "off", "--", "sleep", "1000"]);
    eventually("it exists", DEADLINE, || daemon.state("off") != "gone");
    assert!(daemon.ok(&["instance", "disable", "off"]).contains("disabled"));
    assert_ne!(aegis_tests::wait(child, None).code, 0);
    let info = daemon.info("off").unwrap();
    assert_eq!((info["state"].as_str(), info["enabled"].as_bool()), (Some("stopped"), Some(false)));
    assert!(daemon.machines().is_empty());
}

#[test]
fn files_without_an_owner_are_removed_at_the_next_start() {
    let daemon = Daemon::start();
    let id = daemon.instance("kept", &["true"]);
    eventually("it stops", DEADLINE, || daemon.state("kept") == "stopped");
    assert!(daemon.ok(&["down"]).contains("stopped"));
    let stray = "inst-0000000000000000000000stray";
    std::fs::write(daemon.root().join(format!("data/disks/{stray}.ext4")), "x").unwrap();
    std::fs::create_dir(daemon.root().join("data/logs").join(stray)).unwrap();
    std::fs::create_dir(daemon.root().join("run").join(stray)).unwrap();
    daemon.up();
    assert_eq!(daemon.files_of(stray), Vec::<std::path::PathBuf>::new());
    assert!(!daemon.files_of(&id).is_empty());
}
