//! A daemon of one's own for each test: in a home of its own, with everything it leaves behind counted.

#![expect(clippy::expect_used, reason = "a test that cannot go on panics")]

mod damage;
pub mod lab;
mod oci_layout;
mod reading;
pub mod registry;
pub mod servers;
mod tool;

use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

pub use damage::{cut_short, flip_a_bit};
pub use reading::{read_exactly, read_until};

/// How long anything may take before a test fails. Generous: machines are emulated and the host is shared.
pub const DEADLINE: Duration = Duration::from_secs(240);

/// A daemon in its own home. Ended, with all it started, when dropped.
#[derive(Debug)]
pub struct Daemon {
    home: tempfile::TempDir,
    root: PathBuf,
    /// Added to the environment of every command.
    environment: Vec<(String, String)>,
    /// The network name space that it is in, if not that of the test.
    namespace: Option<String>,
}

/// What a finished command left.
#[derive(Debug)]
pub struct Done {
    /// Exit code, or 128 + signal.
    pub code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

impl Done {
    /// Standard output as text.
    #[must_use]
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    #[must_use]
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// The directory with the programs under test.
#[must_use]
pub fn bin() -> PathBuf {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bin");
    std::env::var_os("AEGIS_BIN").map_or(default, PathBuf::from)
}

/// Whether slow tests are to be skipped (`SHORT=1`).
#[must_use]
pub fn short() -> bool {
    std::env::var_os("SHORT").is_some_and(|value| !value.is_empty() && value != "0")
}

/// Waits until `condition` holds.
///
/// # Panics
/// If it does not within the deadline.
pub fn eventually(what: &str, within: Duration, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < within, "not within {within:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Waits for a child, killing it when the deadline has passed.
///
/// # Panics
/// If it had to be killed.
pub fn wait(mut child: Child, input: Option<Vec<u8>>) -> Done {
    let feeder = input.zip(child.stdin.take()).map(|(bytes, mut stdin)| {
        // A child that wants no more input is no failure of the test.
        std::thread::spawn(move || drop(stdin.write_all(&bytes)))
    });
    let pid = rustix::process::Pid::from_child(&child);
    let (done, finished) = std::sync::mpsc::channel::<()>();
    let guard = std::thread::spawn(move || {
        let late = finished.recv_timeout(DEADLINE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
        if late {
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        late
    });
    let Output { status, stdout, stderr } = child.wait_with_output().expect("wait for the command");
    drop(done);
    let late = guard.join().expect("the guard");
    if let Some(feeder) = feeder {
        feeder.join().expect("the feeder");
    }
    let done = Done { code: code(status), stdout, stderr };
    assert!(!late, "not done within {DEADLINE:?}; stderr: {}", done.err());
    done
}

/// What the names of machines begin with that are to become templates.
const TEMPLATE: &str = "inst-template";

/// Settings of a daemon under test: a router of its own, and, unless these say something of templates, no spare machine, so
/// that not every daemon makes one.
#[must_use]
pub fn with_defaults(settings: &str) -> String {
    let spare = if settings.contains("[templates]") { "" } else { "\n[templates]\nspare = \"off\"\n" };
    format!("[router]\nlisten = \"127.0.0.1:0\"\n{settings}{spare}")
}

impl Daemon {
    /// Starts a daemon in a new home.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start() -> Daemon {
        Daemon::start_below("")
    }

    /// Starts a daemon in a new home at a path that ends with `tail`.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start_below(tail: &str) -> Daemon {
        let home = tempfile::Builder::new().prefix("aegis-t").tempdir_in("/tmp").expect("make a home");
        let root = home.path().join(tail);
        let daemon = Daemon { home, root, environment: Vec::new(), namespace: None };
        daemon.up();
        daemon
    }

    /// Starts a daemon in a new home below `dir`.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start_in(dir: &Path) -> Daemon {
        let home = tempfile::Builder::new().prefix("h").tempdir_in(dir).expect("make a home");
        let root = home.path().to_owned();
        let daemon = Daemon { home, root, environment: Vec::new(), namespace: None };
        daemon.up();
        daemon
    }

    /// Starts a daemon in a new home with these variables in its environment.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start_with(variables: &[(&str, &str)]) -> Daemon {
        Daemon::start_configured("", variables)
    }

    /// A home without a daemon.
    ///
    /// # Panics
    /// If the directory cannot be made.
    #[must_use]
    pub fn none() -> Daemon {
        let home = tempfile::Builder::new().prefix("aegis-t").tempdir_in("/tmp").expect("make a home");
        let root = home.path().to_owned();
        Daemon { home, root, environment: Vec::new(), namespace: None }
    }

    /// Starts a daemon on the host of a lab, with these lines more in its settings.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start_on(lab: &lab::Lab, settings: &str) -> Daemon {
        Daemon::start_on_with(lab, settings, &[])
    }

    /// The same with these variables in its environment.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start_on_with(lab: &lab::Lab, settings: &str, variables: &[(&str, &str)]) -> Daemon {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let mut daemon = Daemon::none();
        daemon.environment = variables.iter().map(owned).collect();
        daemon.namespace = Some(lab.host().to_owned());
        let text = with_defaults(settings);
        std::fs::write(daemon.root.join("config.toml"), text).expect("write the settings");
        daemon.up();
        daemon
    }

    /// Starts a daemon in a new home with these lines more in its settings, and these variables in its environment.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start_configured(settings: &str, variables: &[(&str, &str)]) -> Daemon {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let mut daemon = Daemon::none();
        daemon.environment = variables.iter().map(owned).collect();
        let text = with_defaults(settings);
        std::fs::write(daemon.root.join("config.toml"), text).expect("write the settings");
        daemon.up();
        daemon
    }

    /// `aegis up`. The name router gets a port of its own, so that daemons of other tests have one, too.
    ///
    /// # Panics
    /// If it fails.
    pub fn up(&self) {
        let config = self.root.join("config.toml");
        if !config.exists() {
            std::fs::create_dir_all(&self.root).expect("make the home");
            std::fs::write(config, with_defaults("")).expect("write the settings");
        }
        let templates = self.root.join("templates");
        if !templates.exists() {
            // Shared, so that not every daemon makes one; those of the tests about templates have a directory.
            let shared = bin().join("../target/test-templates");
            std::fs::create_dir_all(&shared).expect("make a directory");
            let shared = shared.canonicalize().expect("its path");
            std::os::unix::fs::symlink(shared, templates).expect("share the templates");
        }
        let done = self.aegis(&["up"]);
        assert_eq!(done.code, 0, "up: {} {}", done.err(), self.report());
    }

    /// The home directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The daemon's process id.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn pid(&self) -> i32 {
        let text = std::fs::read_to_string(self.root.join("data/aegisd.pid")).expect("read the pid file");
        text.trim().parse().expect("a number")
    }

    /// Sends a signal to the daemon.
    ///
    /// # Panics
    /// If it is not there.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid()).expect("a pid");
        rustix::process::kill_process(pid, signal).expect("signal the daemon");
    }

    /// Kills the daemon as a crash would, and waits until it is gone.
    pub fn crash(&self) {
        let pid = self.pid();
        self.signal(rustix::process::Signal::KILL);
        eventually("the daemon is gone", DEADLINE, || !is_alive(pid));
    }

    /// A command of `aegis`, ready to be spawned.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let program = bin().join("aegis");
        let mut command = match &self.namespace {
            None => Command::new(program),
            Some(name) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name]).arg(program);
                command
            }
        };
        command.args(arguments).env("AEGIS_HOME", &self.root);
        // The keyring of whoever runs the tests is no matter of theirs.
        command.env_remove("DBUS_SESSION_BUS_ADDRESS");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Spawns a command of `aegis`.
    ///
    /// # Panics
    /// If it cannot be spawned.
    #[must_use]
    pub fn spawn(&self, arguments: &[&str]) -> Child {
        self.command(arguments).spawn().expect("spawn aegis; build it with: make all")
    }

    /// Runs a command of `aegis` to its end.
    #[must_use]
    pub fn aegis(&self, arguments: &[&str]) -> Done {
        wait(self.spawn(arguments), None)
    }

    /// The same with this standard input.
    ///
    /// # Panics
    /// If it cannot be spawned.
    #[must_use]
    pub fn aegis_with_input(&self, arguments: &[&str], input: Vec<u8>) -> Done {
        let child = self.command(arguments).stdin(Stdio::piped()).spawn().expect("spawn aegis");
        wait(child, Some(input))
    }

    /// Runs a command that must succeed, and returns its standard output.
    ///
    /// # Panics
    /// If it fails.
    #[must_use]
    pub fn ok(&self, arguments: &[&str]) -> String {
        let done = self.aegis(arguments);
        assert_eq!(done.code, 0, "aegis {arguments:?}: {}{}", done.err(), self.report());
        done.out()
    }

    /// Starts an instance that stays, and returns its id.
    ///
    /// # Panics
    /// If it fails.
    #[must_use]
    pub fn instance(&self, handle: &str, command: &[&str]) -> String {
        let out =
            self.ok(&[&["instance", "start", "--name", handle, "--memory", "160", "--"], command].concat());
        let id = out.lines().find_map(|line| line.strip_prefix("Instance started: "));
        id.unwrap_or_else(|| panic!("no id in {out:?}")).to_owned()
    }

    /// `aegis instance info --output json`; `None` if it does not exist.
    ///
    /// # Panics
    /// If the output is no JSON.
    #[must_use]
    pub fn info(&self, name: &str) -> Option<Value> {
        let done = self.aegis(&["instance", "info", name, "--output", "json"]);
        (done.code == 0).then(|| serde_json::from_slice(&done.stdout).expect("JSON"))
    }

    /// What a shell in an instance says to a script that must succeed, without the line end.
    ///
    /// # Panics
    /// If it fails.
    #[must_use]
    pub fn shell(&self, name: &str, script: &str) -> String {
        self.ok(&["exec", name, "--", "sh", "-c", script]).trim_end().to_owned()
    }

    /// How an instance's machine came about: `boot`, `template`, `spare`, `fork` or `snapshot`.
    ///
    /// # Panics
    /// If it has never been started.
    #[must_use]
    pub fn started_by(&self, name: &str) -> String {
        let info = self.info(name).expect("an instance");
        info["timings"]["start"].as_str().expect("timings").to_owned()
    }

    /// An instance's state, `gone` if it does not exist.
    #[must_use]
    pub fn state(&self, name: &str) -> String {
        let info = self.info(name);
        info.and_then(|info| info["state"].as_str().map(str::to_owned)).unwrap_or_else(|| "gone".to_owned())
    }

    /// Machines of this daemon's instances that run now: process ids.
    #[must_use]
    pub fn machines(&self) -> Vec<i32> {
        self.monitors(|line| !line.contains(TEMPLATE))
    }

    /// Machines of this daemon that are to become templates: process ids.
    #[must_use]
    pub fn future_templates(&self) -> Vec<i32> {
        self.monitors(|line| line.contains(TEMPLATE))
    }

    fn monitors(&self, wanted: impl Fn(&str) -> bool) -> Vec<i32> {
        let home = self.home.path().to_string_lossy().into_owned();
        processes(|process| {
            let line = read_lossy(&process.join("cmdline"));
            line.contains("qemu-system") && line.contains(&home) && wanted(&line)
        })
    }

    /// Fake guests of this daemon, and the processes that they started.
    fn fake_guests(&self) -> Vec<i32> {
        let home = format!("AEGIS_HOME={}\0", self.root.display());
        let mut found = processes(|process| {
            read_lossy(&process.join("comm")).trim() == "fake-guest"
                && read_lossy(&process.join("environ")).contains(&home)
        });
        let children = found.iter().flat_map(|pid| {
            let list = read_lossy(Path::new(&format!("/proc/{pid}/task/{pid}/children")));
            list.split_whitespace().filter_map(|child| child.parse().ok()).collect::<Vec<i32>>()
        });
        found.extend(children.collect::<Vec<_>>());
        found
    }

    /// Everything below the home that belongs to one instance.
    #[must_use]
    pub fn files_of(&self, id: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        walk(&self.root, &mut |path| {
            if path.to_string_lossy().contains(id) {
                found.push(path.to_owned());
            }
        });
        found
    }

    /// What explains a failure: the daemon's log and the guests' consoles.
    #[must_use]
    pub fn report(&self) -> String {
        let mut text = String::new();
        walk(&self.root, &mut |path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if ["aegisd.log", "console.log", "gateway.log"].contains(&name.as_str()) {
                let content = std::fs::read(path).unwrap_or_default();
                let tail = content.get(content.len().saturating_sub(2000)..).unwrap_or_default();
                // Writing to a string cannot fail.
                let _written = write!(text, "\n--- {}\n{}", path.display(), String::from_utf8_lossy(tail));
            }
        });
        text
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _mute = writeln!(std::io::stderr(), "{}", self.report());
        }
        if let Ok(text) = std::fs::read_to_string(self.root.join("data/aegisd.pid"))
            && let Some(pid) = text.trim().parse().ok().and_then(rustix::process::Pid::from_raw)
        {
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        let left = self.monitors(|_| true).into_iter().chain(self.fake_guests());
        for pid in left.filter_map(rustix::process::Pid::from_raw) {
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// Processes whose directory in `/proc` is as wanted.
fn processes(wanted: impl Fn(&Path) -> bool) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let all = entries.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())));
    all.filter(|(_, path)| wanted(path)).map(|(pid, _)| pid).collect()
}

fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

fn walk(dir: &Path, visit: &mut impl FnMut(&Path)) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        visit(&entry.path());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), visit);
        }
    }
}

/// Whether a process runs; a zombie that nobody has collected does not.
#[must_use]
pub fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}
