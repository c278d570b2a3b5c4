//! A guest of a foreign architecture: real machines, emulated on an x86-64 host.

use std::io::Write;
use std::path::Path;

use aegis_tests::Daemon;

/// Below the harness's own deadline, so that a guest that does not come up says why.
const FOREIGN: [(&str, &str); 2] = [("AEGIS_GUEST_ARCH", "aarch64"), ("AEGIS_BOOT_TIMEOUT", "100")];

/// Why nothing foreign can be booted here.
fn unprepared() -> Option<String> {
    if cfg!(target_arch = "aarch64") {
        return Some("here its guest is the host's own; this test is for x86-64 hosts".to_owned());
    }
    if aegis_tests::short() {
        return Some("SHORT is set".to_owned());
    }
    if let Some(reason) = std::env::var("SKIP_AARCH64").ok().filter(|reason| !reason.is_empty()) {
        return Some(reason);
    }
    let assets = Path::new(&std::env::var_os("HOME")?).join(".aegis/aarch64");
    ["kernel/vmlinux", "kernel/initramfs.cpio", "base-rootfs/current"]
        .map(|name| assets.join(name))
        .into_iter()
        .find(|path| !path.exists())
        .map(|path| format!("there is no {}; prepare it: make aarch64", path.display()))
}

/// Whether to skip; says so past the test runner, which hides what a test prints.
fn skipped(name: &str) -> bool {
    let reason = unprepared();
    if let Some(reason) = &reason {
        let mut terminal = std::io::stderr();
        writeln!(terminal, "SKIPPED {name}: {reason}").unwrap();
    }
    reason.is_some()
}

#[test]
fn an_aarch64_guest_boots_and_runs_a_command() {
    if skipped("an_aarch64_guest_boots_and_runs_a_command") {
        return;
    }
    let daemon = Daemon::start_with(&FOREIGN);
    let status = daemon.ok(&["status"]);
    assert!(status.contains("accelerator: tcg (this x86_64 host can only emulate aarch64)"), "{status}");
    let done = daemon.aegis(&["run", "--", "uname", "-m"]);
    assert_eq!((done.code, done.out().as_str(), done.err().as_str()), (0, "aarch64\n", ""));
    let done = daemon.aegis(&["run", "--cpus", "2", "--", "sh", "-c", "nproc; echo err >&2; exit 42"]);
    assert_eq!((done.code, done.out().as_str(), done.err().as_str()), (42, "2\n", "err\n"));
    let killed = daemon.aegis(&["run", "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(killed.code, 137, "{}", killed.err());
    assert!(daemon.machines().is_empty());
}

#[test]
fn an_aarch64_instance_lives_as_any_other_does() {
    if skipped("an_aarch64_instance_lives_as_any_other_does") {
        return;
    }
    let daemon = Daemon::start_with(&FOREIGN);
    let id = daemon.instance("box", &["sleep", "infinity"]);
    let done = daemon.aegis_with_input(&["exec", "-i", "box", "--", "tr", "a-z", "A-Z"], b"both ways".into());
    assert_eq!((done.code, done.out().as_str()), (0, "BOTH WAYS"), "{}", done.err());
    let done = daemon.aegis(&["exec", "box", "--", "sh", "-c", "echo kept >/file; echo err >&2; exit 7"]);
    assert_eq!((done.code, done.err().as_str()), (7, "err\n"));
    let pipe = ["exec", "box", "--", "head", "-c", "4194304", "/dev/zero"];
    assert_eq!(daemon.ok(&pipe).len(), 4 << 20);

    assert_eq!(daemon.ok(&["instance", "pause", "box"]), "Instance box paused\n");
    assert_eq!(daemon.state("box"), "paused");
    assert_eq!(daemon.ok(&["instance", "resume", "box"]), "Instance box resumed\n");
    assert_eq!(daemon.ok(&["exec", "box", "--", "echo", "awake"]), "awake\n");

    // A daemon that comes back knows the machine again.
    daemon.crash();
    daemon.up();
    assert_eq!(daemon.ok(&["exec", "box", "--", "uname", "-m"]), "aarch64\n");

    assert_eq!(daemon.ok(&["instance", "stop", "box"]), "Instance box stopped\n");
    assert_eq!(daemon.state("box"), "stopped");
    assert!(daemon.machines().is_empty());
    let _started = daemon.ok(&["instance", "start", "--name", "box"]);
    assert_eq!(daemon.ok(&["exec", "box", "--", "cat", "/file"]), "kept\n");

    let done = daemon.aegis(&["exec", "box", "--", "sh", "-c", "echo c >/proc/sysrq-trigger; sleep 60"]);
    assert_ne!(done.code, 0);
    aegis_tests::eventually("the panic is known", aegis_tests::DEADLINE, || daemon.state("box") == "stopped");
    let info = daemon.info("box").unwrap();
    assert_eq!(info["stop_reason"]["code"], "kernel_panic", "{info}");
    let _deleted = daemon.ok(&["instance", "delete", "box"]);
    assert!(daemon.files_of(&id).is_empty());
}

#[test]
fn what_a_foreign_guest_lacks_is_named_with_its_remedy() {
    let daemon = Daemon::none();
    let foreign = if cfg!(target_arch = "aarch64") { "x86_64" } else { "aarch64" };
    let mut doctor = daemon.command(&["doctor", "--output", "json"]);
    let doctor = doctor.env("AEGIS_GUEST_ARCH", foreign).env("HOME", daemon.root()).output().unwrap();
    let findings: serde_json::Value = serde_json::from_slice(&doctor.stdout).unwrap();
    let find = |name: &str| findings.as_array().unwrap().iter().find(|one| one["name"] == name).unwrap();
    let text = |name: &str, field: &str| find(name)[field].as_str().unwrap_or_default().to_owned();
    assert!(text("guest", "detail").starts_with(foreign), "{findings}");
    assert!(text("accelerator", "detail").contains(&format!("can only emulate {foreign}")), "{findings}");
    let place = daemon.root().join(foreign).join("kernel/vmlinux");
    assert!(text("kernel", "detail").contains(&place.display().to_string()), "{findings}");
    assert_eq!(text("kernel", "remedy"), format!("prepare it: make {foreign}"));

    let up = daemon.command(&["up"]).env("AEGIS_GUEST_ARCH", "pdp11").output().unwrap();
    let said = String::from_utf8_lossy(&up.stderr).into_owned();
    assert!(
        !up.status.success() && said.contains("AEGIS_GUEST_ARCH: \"pdp11\" is no architecture"),
        "{said}"
    );
}
