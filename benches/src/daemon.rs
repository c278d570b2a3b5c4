//! A daemon in a home of its own, to be measured.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use aegis_registry::{InstanceRow, Registry};
use aegis_store::home::Home;

/// A daemon; ended when dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    home: tempfile::TempDir,
}

fn program() -> PathBuf {
    PathBuf::from("bin/aegis")
}

impl Daemon {
    /// A daemon that makes no spare machine, which would take a processor for a second beside what is measured.
    pub(crate) fn start() -> Daemon {
        Daemon::start_configured("[templates]\nspare = \"off\"\n")
    }

    /// A daemon with these lines in its settings.
    pub(crate) fn start_configured(settings: &str) -> Daemon {
        let home = tempfile::Builder::new().prefix("aegis-b").tempdir_in("/tmp").expect("make a home");
        std::fs::write(home.path().join("config.toml"), settings).expect("write the settings");
        let daemon = Daemon { home };
        daemon.aegis(&["up"]);
        daemon
    }

    pub(crate) fn root(&self) -> &Path {
        self.home.path()
    }

    /// A daemon whose guests are processes of this host.
    pub(crate) fn start_with_fake() -> Daemon {
        let guest = std::env::current_exe().expect("this program").with_file_name("fake-guest");
        Daemon::start_with("AEGIS_FAKE_GUEST", &guest.display().to_string())
    }

    /// A daemon that looks for programs in this directory first.
    pub(crate) fn start_with_path(dir: &str) -> Daemon {
        Daemon::start_with("PATH", &format!("{dir}:{}", std::env::var("PATH").unwrap_or_default()))
    }

    fn start_with(variable: &str, value: &str) -> Daemon {
        let home = tempfile::Builder::new().prefix("aegis-b").tempdir_in("/tmp").expect("make a home");
        let daemon = Daemon { home };
        let up = daemon.command(&["up"]).env(variable, value).output().expect("run aegis");
        assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
        daemon
    }

    /// A daemon that finds so many stopped instances in its registry.
    pub(crate) fn start_with_stored(count: usize) -> Daemon {
        let daemon = Daemon {
            home: tempfile::Builder::new().prefix("aegis-b").tempdir_in("/tmp").expect("make a home"),
        };
        let home = Home::new(daemon.home.path(), daemon.home.path());
        home.create().expect("make the home");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let registry = Registry::open(home.database()).expect("open the registry");
            for number in 0..count {
                registry.insert(stored(number), None).await.expect("store an instance");
            }
            registry.close().await.expect("close the registry");
        });
        daemon.aegis(&["up"]);
        daemon
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(arguments).env("AEGIS_HOME", self.home.path()).stdin(Stdio::null());
        command
    }

    /// Runs a command that must succeed, and returns its output.
    pub(crate) fn aegis(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("run aegis");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a command and reads exactly so many bytes of its output.
    pub(crate) fn drain(&self, arguments: &[&str], count: usize) {
        let mut child = self.command(arguments).stdout(Stdio::piped()).spawn().expect("run aegis");
        let mut stdout = child.stdout.take().expect("its output");
        let mut buffer = vec![0; 1 << 20];
        let mut total = 0;
        loop {
            match stdout.read(&mut buffer).expect("read its output") {
                0 => break,
                read => total += read,
            }
        }
        assert_eq!(total, count);
        assert!(child.wait().expect("wait for it").success());
    }

    pub(crate) fn instance(&self, handle: &str) -> String {
        let out = self
            .aegis(&["instance", "start", "--name", handle, "--memory", "256", "--", "sleep", "infinity"]);
        out.lines().find_map(|line| line.strip_prefix("Instance started: ")).expect("an id").to_owned()
    }

    pub(crate) fn pid(&self) -> i32 {
        let text =
            std::fs::read_to_string(self.home.path().join("data/aegisd.pid")).expect("read the pid file");
        text.trim().parse().expect("a number")
    }

    pub(crate) fn machines(&self) -> Vec<i32> {
        self.processes_with("qemu-system")
    }

    /// Processes of instances: machines, and those that help them.
    pub(crate) fn processes(&self) -> Vec<i32> {
        self.processes_with("")
    }

    fn processes_with(&self, word: &str) -> Vec<i32> {
        let home = self.home.path().to_string_lossy().into_owned();
        let processes = std::fs::read_dir("/proc").expect("read /proc").flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok());
        let ours = |pid: &i32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line);
            line.contains(word) && line.contains(&home)
        };
        pids.filter(ours).collect()
    }

    pub(crate) fn open_connection(&self) -> Connection {
        let stream = UnixStream::connect(self.home.path().join("aegisd.sock")).expect("connect");
        Connection { reader: BufReader::new(stream) }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Failing leaves processes behind, which the next line of the report does not depend on.
        let _failed = self.command(&["down"]).output();
    }
}

/// A connection to the API that stays open.
#[derive(Debug)]
pub(crate) struct Connection {
    reader: BufReader<UnixStream>,
}

impl Connection {
    /// Executes `/bin/true` and reads the reply to its end.
    pub(crate) fn exec_true(&mut self, id: &str) {
        let body = "{\"command\":[\"/bin/true\"]}";
        let request = format!(
            "POST /v1/instances/{id}/exec HTTP/1.1\r\nHost: aegisd\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.reader.get_mut().write_all(request.as_bytes()).expect("send");
        let mut line = String::new();
        let mut ended = false;
        // The reply is chunked; a chunk of length 0 ends it.
        loop {
            line.clear();
            assert_ne!(self.reader.read_line(&mut line).expect("receive"), 0, "the connection ended");
            ended |= line.contains("\"exit_code\":0");
            if line == "0\r\n" {
                self.reader.read_line(&mut line).expect("receive");
                assert!(ended, "no exit code");
                return;
            }
        }
    }
}

fn stored(number: usize) -> InstanceRow {
    let spec = "{\"command\":[\"true\"],\"env\":{},\"memory_mib\":512,\"vcpus\":1,\"disk_mib\":1024,\"workdir\":\"/\",\
        \"user\":\"root\",\"timeout_ms\":null,\"tty\":null,\"stdin\":false,\"ephemeral\":false,\"rootfs\":\"none\"}";
    let at = 1_700_000_000_000 + i64::try_from(number).unwrap_or(0);
    InstanceRow {
        id: format!("inst-{number:026}"),
        handle: Some(format!("stored-{number}")),
        spec: spec.to_owned(),
        enabled: true,
        state: "stopped".to_owned(),
        exit_code: Some(0),
        stop_reason: None,
        vm: None,
        boot: 1,
        created_at_ms: at,
        updated_at_ms: at,
        last_active_at_ms: at,
        stopped_at_ms: Some(at),
        started_at_ms: Some(at),
        ports: "[]".to_owned(),
    }
}

/// What a process takes of the host's memory, as lines of `/proc/PID/smaps_rollup` that begin like this count it, MiB.
pub(crate) fn memory_mib(pid: i32, kinds: &[&str]) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let of = |kind: &&str| {
        let line = text.lines().find_map(|line| line.strip_prefix(*kind)).unwrap_or_default();
        line.trim().trim_end_matches(" kB").trim().parse::<f64>().unwrap_or(0.0)
    };
    kinds.iter().map(of).sum::<f64>() / 1024.0
}

/// Processor time that a process has used, milliseconds.
pub(crate) fn cpu_ms(pid: i32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    // utime and stime, in hundredths of a second.
    (ticks(11) + ticks(12)) * 10.0
}

/// A field of `/proc/PID/status`, MiB.
pub(crate) fn status_mib(pid: i32, field: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kilobytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    kilobytes.unwrap_or(f64::NAN) / 1024.0
}
