//! A daemon of one's own with the backend under test, driven by its command line as users do.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::Need;

/// How long one command may take.
const DEADLINE: &str = "120";

/// The daemon, ended when dropped.
pub(crate) struct Bench {
    home: tempfile::TempDir,
    backend: String,
    capabilities: Value,
}

impl Bench {
    /// Starts a daemon with this backend.
    pub(crate) fn start(backend: &str) -> Bench {
        let home = tempfile::Builder::new().prefix("aegis-conformance").tempdir().expect("make a home");
        let assets = std::env::var_os("AEGIS_ASSETS").map(PathBuf::from);
        let assets =
            assets.unwrap_or_else(|| Path::new(&std::env::var_os("HOME").expect("HOME")).join(".aegis"));
        for part in ["kernel", "base-rootfs"] {
            std::os::unix::fs::symlink(assets.join(part), home.path().join(part))
                .expect("link the guest's parts");
        }
        std::fs::write(home.path().join("config.toml"), "[router]\nlisten = \"127.0.0.1:0\"\n")
            .expect("configure");
        let mut bench = Bench { home, backend: backend.to_owned(), capabilities: Value::Null };
        bench.ok(&["up"]);
        let status: Value = bench.json(&["status"]);
        if backend != "fake" {
            assert_eq!(status["backend"], backend.split('+').next().unwrap_or_default());
        }
        bench.capabilities = status["capabilities"].clone();
        bench
    }

    /// Whether the backend says that it has what a promise takes.
    pub(crate) fn has(&self, need: Need) -> bool {
        match need {
            Need::Nothing => true,
            Need::Guest => self.capabilities["accelerator"] != "none",
            Need::Save => self.capabilities["persistent_pause"] == true,
        }
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// `aegis` with these arguments.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.arg(DEADLINE).arg(aegis_tests::bin().join("aegis"));
        // A fake guest is a process of this host, which has no /workspace.
        let words = if arguments.first() == Some(&"instance") { 2 } else { 1 };
        let (what, options) = arguments.split_at(words.min(arguments.len()));
        let elsewhere = self.backend == "fake" && (what == ["run"] || what == ["instance", "start"]);
        let place: &[&str] = if elsewhere { &["--workdir", "/tmp"] } else { &[] };
        command.args(what).args(place).args(options);
        command.env("AEGIS_HOME", self.home.path()).stdin(Stdio::null());
        let (backend, accelerator) = self.backend.split_once('+').unwrap_or((&self.backend, ""));
        // The fake backend is chosen by the program that its guests are (AEGIS_FAKE_GUEST).
        if backend != "fake" {
            command.env_remove("AEGIS_FAKE_GUEST").env("AEGIS_BACKEND", backend);
        }
        if !accelerator.is_empty() {
            command.env("AEGIS_ACCEL", accelerator);
        }
        command
    }

    /// What a command gives.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("run aegis")
    }

    /// The standard output of a command that succeeds, without the line's end.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "aegis {arguments:?}: {}: {errors}", output.status);
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// The same with JSON output.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let text = self.ok(&[arguments, &["--output", "json"]].concat());
        serde_json::from_str(&text).expect("JSON")
    }

    /// Starts the instance `box` that waits, with these options, and returns when its command runs. Its memory is small, because some
    /// backends write all of it when they save a machine.
    pub(crate) fn start_box(&self, options: &[&str]) {
        let all = [
            &["instance", "start", "--name", "box", "--memory", "256m"],
            options,
            &["--", "sleep", "infinity"],
        ]
        .concat();
        self.ok(&all);
    }

    /// What a shell in `box` prints.
    pub(crate) fn in_box(&self, script: &str) -> String {
        self.ok(&["exec", "box", "--", "sh", "-c", script])
    }

    pub(crate) fn info(&self, name: &str) -> Value {
        self.json(&["instance", "info", name])
    }

    /// Waits until an instance is in this state.
    pub(crate) fn reaches(&self, name: &str, state: &str) {
        eventually(&format!("{name} is {state}"), || self.info(name)["state"] == state);
    }

    /// Ends the daemon without notice, and starts another one.
    pub(crate) fn crash(&self) {
        let pid = std::fs::read_to_string(self.home.path().join("data/aegisd.pid")).expect("read its pid");
        let pid = rustix::process::Pid::from_raw(pid.trim().parse().expect("a pid")).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("kill it");
        self.ok(&["up"]);
    }

    /// The process of an instance's monitor.
    pub(crate) fn monitor(&self, name: &str) -> i32 {
        let pid = self.info(name)["pid"].as_i64().expect("it has a machine");
        i32::try_from(pid).expect("a pid")
    }

    /// The processes that are machines of instances here: what is kept ready belongs to none.
    pub(crate) fn monitors(&self) -> Vec<i32> {
        let disks = self.home.path().join("data/disks/inst-").to_string_lossy().into_owned();
        let is_monitor = |line: &str| {
            let of = line.split_once(&disks).map(|(_, of)| of);
            of.is_some_and(|of| !of.starts_with("spare") && !of.starts_with("template"))
        };
        let processes = std::fs::read_dir("/proc").expect("read /proc").flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            is_monitor(&String::from_utf8_lossy(&line))
        })
        .collect()
    }

    /// Deletes all instances.
    pub(crate) fn clear(&self) {
        let all = self.json(&["instance", "list"]);
        for instance in all.as_array().into_iter().flatten() {
            let id = instance["id"].as_str().unwrap_or_default();
            self.run(&["instance", "delete", id]);
        }
    }

    /// Prints what explains a broken promise.
    pub(crate) fn report(&self) {
        let log = std::fs::read_to_string(self.home.path().join("data/aegisd.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        for line in lines.iter().skip(lines.len().saturating_sub(12)) {
            println!("         | {line}");
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.run(&["down"]);
    }
}

/// Waits until something is the case.
pub(crate) fn eventually(what: &str, condition: impl FnMut() -> bool) {
    aegis_tests::eventually(what, Duration::from_secs(60), condition);
}
