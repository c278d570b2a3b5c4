//! Templates: machines are started from one that has just come up, and nobody sees a difference but in time.

use std::path::{Path, PathBuf};
use std::time::Duration;

use aegis_store::machine_state;
use aegis_tests::{DEADLINE, Daemon, cut_short, eventually, flip_a_bit, with_defaults};

use crate::lifecycle::idle::now;

/// A daemon whose templates are its own.
pub(crate) fn alone(settings: &str) -> Daemon {
    let daemon = Daemon::none();
    std::fs::create_dir(daemon.root().join("templates")).unwrap();
    std::fs::write(daemon.root().join("config.toml"), with_defaults(settings)).unwrap();
    daemon.up();
    daemon
}

fn files(daemon: &Daemon) -> Vec<PathBuf> {
    std::fs::read_dir(daemon.root().join("templates")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Makes the template of small machines by a first start, and returns its file.
fn template(daemon: &Daemon) -> PathBuf {
    assert_eq!(start_of(daemon, "first", &[]), "boot");
    eventually("there is a template", DEADLINE, || listed(daemon) == 1);
    let all = files(daemon);
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].clone()
}

fn listed(daemon: &Daemon) -> usize {
    let list: serde_json::Value =
        serde_json::from_str(&daemon.ok(&["template", "list", "--output", "json"])).unwrap();
    list.as_array().unwrap().len()
}

/// Starts an instance, sees that it works, and returns how it was started.
pub(crate) fn start_of(daemon: &Daemon, handle: &str, options: &[&str]) -> String {
    let begin = ["instance", "start", "--name", handle, "--memory", "160"];
    let _started = daemon.ok(&[&begin, options, &["--", "sleep", "1000"]].concat());
    assert_eq!(daemon.ok(&["exec", handle, "--", "echo", "here"]), "here\n");
    daemon.started_by(handle)
}

pub(crate) fn again(daemon: &Daemon) {
    daemon.crash();
    daemon.up();
}

#[test]
fn the_first_start_boots_and_leaves_a_template_from_which_others_start_until_it_is_removed() {
    let daemon = alone("");
    assert_eq!(daemon.ok(&["template", "list"]), "No templates.\n");
    let file = template(&daemon);
    assert_eq!(start_of(&daemon, "second", &[]), "template");
    assert_eq!(start_of(&daemon, "other", &["--no-template"]), "boot");
    let list = daemon.ok(&["template", "list"]);
    assert!(list.contains("160 MiB") && list.lines().count() == 2, "{list}");
    again(&daemon);
    assert_eq!(start_of(&daemon, "third", &[]), "template");
    let told = daemon.ok(&["template", "prune"]);
    assert!(told.starts_with("Removed 1 template, "), "{told}");
    assert!(!file.exists());
    // What was started from it goes on, with pages that it never touched before.
    for handle in ["second", "third"] {
        assert_eq!(
            daemon.ok(&["exec", handle, "--", "ls", "/proc/1/root/etc/hostname"]),
            "/proc/1/root/etc/hostname\n"
        );
    }
    assert_eq!(start_of(&daemon, "fourth", &[]), "boot");
    let told = daemon.aegis(&["run", "--timings", "--memory", "160", "--", "true"]);
    assert_eq!(told.code, 0);
    let steps = ["disk ", "machine ", "guest ", "network ", "command "];
    assert!(
        told.err().starts_with("aegis: ms: started by ")
            && steps.iter().all(|step| told.err().contains(step)),
        "{}",
        told.err()
    );
}

#[test]
fn without_room_there_are_no_templates() {
    let daemon = alone("[templates]\nbudget = \"off\"\n");
    for handle in ["a", "b"] {
        assert_eq!(start_of(&daemon, handle, &[]), "boot");
    }
    assert!(files(&daemon).is_empty());
}

#[test]
fn one_template_serves_every_disk_image_workspace_and_card() {
    let daemon = alone("");
    let _file = template(&daemon);
    let shared = tempfile::tempdir().unwrap();
    std::fs::write(shared.path().join("note"), "of the host\n").unwrap();
    let path = shared.path().to_str().unwrap();
    let options = ["--disk", "1g", "--workspace", path, "--network", "none"];
    assert_eq!(start_of(&daemon, "one", &options), "template");
    let sh = |handle: &str, script: &str| daemon.ok(&["exec", handle, "--", "sh", "-c", script]);
    assert_eq!(sh("one", "cat /workspace/note"), "of the host\n");
    assert_eq!(sh("one", "cat /sys/block/vda/size /sys/block/vdb/size | sort -n | tail -1"), "2097152\n");
    assert_eq!(start_of(&daemon, "two", &["--disk", "4g"]), "template");
    assert_eq!(sh("two", "cat /sys/block/vda/size /sys/block/vdb/size | sort -n | tail -1"), "8388608\n");
    assert_eq!(
        sh("two", "dd if=/dev/urandom of=/root/big bs=1M count=64 2>/dev/null; wc -c < /root/big"),
        "67108864\n"
    );
    // What is on a disk stays with its instance.
    let _stopped = daemon.ok(&["instance", "stop", "two"]);
    let _started = daemon.ok(&["instance", "start", "--name", "two"]);
    assert_eq!(sh("two", "wc -c < /root/big"), "67108864\n");
    assert_eq!(sh("one", "ls /root"), "");
}

/// What a program of the guest sees that must be nobody else's: random numbers of the kernel, those that it gives to
/// each program (`AT_RANDOM`, 25), and who the machine is.
pub(crate) const OWN: &str = "import os,ctypes,struct\n\
    print(os.urandom(16).hex())\n\
    print(os.getrandom(16).hex())\n\
    aux=open('/proc/self/auxv','rb').read()\n\
    at=[b for a,b in struct.iter_unpack('QQ',aux) if a==25][0]\n\
    print(ctypes.string_at(at,16).hex())\n\
    print(open('/proc/sys/kernel/random/boot_id').read().strip())\n\
    print(open('/proc/sys/kernel/random/uuid').read().strip())\n\
    print(os.uname().nodename)";

#[test]
fn random_numbers_and_names_of_machines_from_one_template_differ() {
    let daemon = alone("");
    let _file = template(&daemon);
    let handles = ["a", "b", "c", "d"];
    let mut seen = std::collections::BTreeSet::new();
    std::thread::scope(|scope| {
        let own = |handle| {
            assert_eq!(start_of(&daemon, handle, &[]), "template");
            daemon.ok(&["exec", handle, "--", "python3", "-c", OWN])
        };
        let all: Vec<_> = handles.map(|handle| scope.spawn(move || own(handle))).into_iter().collect();
        for one in all {
            let text = one.join().unwrap();
            assert_eq!(text.lines().count(), 6, "{text}");
            for line in text.lines() {
                assert!(seen.insert(line.to_owned()), "twice: {line}");
            }
        }
    });
}

#[test]
fn the_clock_of_a_machine_from_an_old_template_is_right_before_its_command_runs() {
    let daemon = alone("");
    let _file = template(&daemon);
    std::thread::sleep(Duration::from_secs(3));
    let before = now();
    let out = daemon.ok(&["run", "--memory", "160", "--", "date", "+%s.%N"]);
    let after = now();
    let told: f64 = out.trim().parse().unwrap();
    assert!((before - 0.1..=after + 0.1).contains(&told), "{before} {told} {after}");
}

/// The same file with devices that were not saved by any monitor.
fn with_other_devices(file: &Path) {
    let opened = machine_state::open(file).unwrap();
    let head =
        machine_state::Head { devices: [b"QEVM".as_slice(), &[0xFF; 500]].concat(), ..opened.head().clone() };
    let memory = std::sync::Mutex::new(vec![0; usize::try_from(head.memory).unwrap()]);
    let place = |at: u64, len: usize| usize::try_from(at).unwrap()..usize::try_from(at).unwrap() + len;
    let _head = opened
        .fill(|at, bytes| {
            memory.lock().unwrap()[place(at, bytes.len())].copy_from_slice(bytes);
            Ok(())
        })
        .unwrap();
    let whole = 0..head.memory;
    let _length = machine_state::write(
        file,
        &head,
        std::slice::from_ref(&whole),
        |at, into| {
            into.copy_from_slice(&memory.lock().unwrap()[place(at, into.len())]);
            Ok(())
        },
        None,
    )
    .unwrap();
}

#[test]
fn a_template_that_is_cut_short_damaged_or_makes_no_sense_costs_nothing_but_time() {
    let daemon = alone("");
    let spoils: [&dyn Fn(&Path); 3] = [&cut_short, &flip_a_bit, &with_other_devices];
    for (number, spoil) in spoils.into_iter().enumerate() {
        let file = template(&daemon);
        spoil(&file);
        // The daemon had it in memory.
        again(&daemon);
        assert_eq!(start_of(&daemon, &format!("after-{number}"), &[]), "boot");
        eventually("there is another one", DEADLINE, || listed(&daemon) == 1);
        assert_eq!(start_of(&daemon, &format!("then-{number}"), &[]), "template");
        let _told = daemon.ok(&["template", "prune"]);
        let _gone = daemon.ok(&["instance", "delete", "first"]);
    }
}

#[test]
fn a_daemon_that_dies_while_it_makes_a_template_leaves_nothing_of_it() {
    let daemon = alone("");
    for delay in [0, 300, 900, 1300] {
        let _started =
            daemon.ok(&["instance", "start", "--name", "one", "--memory", "160", "--", "sleep", "1000"]);
        std::thread::sleep(Duration::from_millis(delay));
        again(&daemon);
        assert_eq!((daemon.machines().len(), daemon.future_templates().len()), (1, 0), "after {delay} ms");
        let left: Vec<PathBuf> = daemon.files_of("inst-template");
        assert!(left.is_empty(), "after {delay} ms: {left:?}");
        let _gone = daemon.ok(&["instance", "delete", "one"]);
        let _told = daemon.ok(&["template", "prune"]);
        assert!(files(&daemon).is_empty(), "after {delay} ms: {:?}", files(&daemon));
    }
}
