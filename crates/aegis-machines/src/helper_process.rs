//! Processes that help a machine, outlive the daemon, and end with their machine.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aegis_jail::{Access, FileRule, Group, Isolation, Served};
use aegis_vmm::{Machine, Process, Wall};
use async_trait::async_trait;

/// How long to wait before another takes the place of one that has failed: longer each time, up to a limit.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// How long one may take to notice that its machine is gone.
const FAREWELL: Duration = Duration::from_secs(2);

/// Variables by which glibc gives memory back as soon as large buffers are free (`mallopt(3)`), and the size, bytes, from
/// which they are large: a helper that has once been busy is to be as small as one that never was.
const FRUGAL: [&str; 2] = ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"];
const LARGE: &str = "131072";

/// What a helper has for itself of the host.
#[derive(Debug)]
pub struct HelperIsolation {
    /// Whether it is the only user that it knows of.
    pub users: bool,
    /// Who it is, if the daemon is root's.
    pub user: Option<u32>,
    /// Whether it has a network of its own, and so none.
    pub network: bool,
    /// Directories and files that it sees beside its program, and may write.
    pub writable: Vec<PathBuf>,
    /// Numbers of the descriptors of directories that it only reads.
    pub read_only: Vec<i32>,
}

/// Where a helper is written down, and where its words go.
#[derive(Debug, Clone)]
pub struct HelperRecord {
    /// What finds it again.
    pub record: PathBuf,
    /// What it says, mostly nothing.
    pub log: PathBuf,
}

impl HelperRecord {
    /// Those of a kind of helper, in a machine's run-time directory.
    pub fn of(kind: &str, run_dir: &Path) -> HelperRecord {
        HelperRecord {
            record: run_dir.join(format!("{kind}.json")),
            log: run_dir.join(format!("{kind}.log")),
        }
    }

    /// Starts a helper whose standard input and output are set already, with these descriptors open, in namespaces of
    /// its own, and writes it down.
    ///
    /// # Errors
    /// The system's.
    pub fn spawn(
        &self,
        mut command: Command,
        fds: Vec<(OwnedFd, i32)>,
        wall: HelperIsolation,
    ) -> io::Result<Process> {
        let HelperIsolation { users, user, network, writable, read_only } = wall;
        let log = std::fs::File::options().create(true).append(true).open(&self.log)?;
        let program = aegis_jail::program(Path::new(command.get_program()));
        let files = program.chain(writable.into_iter().map(|path| FileRule::new(path, Access::Tree)));
        let place = |(fd, number): &(OwnedFd, i32)| {
            let path = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
            Ok(Served { number: *number, path, read_only: read_only.contains(number) })
        };
        let kept = fds.iter().map(place).collect::<io::Result<_>>()?;
        let instance = self.record.parent().and_then(Path::file_name).unwrap_or_default();
        // Its bounds are the machine's affair.
        let group = Group { name: instance.to_string_lossy().into_owned(), bounds: None };
        let root = self.record.with_extension("root");
        let isolation = Isolation { users, network, user, root, kept, group };
        let wall = Wall::Isolation(files.collect(), isolation);
        command.env_clear().envs(FRUGAL.map(|name| (name, LARGE))).current_dir("/").stderr(log);
        let process = Process::spawn(command, fds, wall)?;
        std::fs::write(&self.record, serde_json::to_vec(process.id())?)?;
        Ok(process)
    }

    /// The helper that an earlier daemon started, if it lives.
    pub fn recorded(&self) -> Option<Process> {
        let id = serde_json::from_slice(&std::fs::read(&self.record).ok()?).ok()?;
        Process::adopt(&id).ok().flatten()
    }
}

/// A kind of helper of one machine.
#[async_trait]
pub trait Helper: Send + Sync {
    /// What it is, for the daemon's log.
    fn what(&self) -> &'static str;

    /// Its instance.
    fn id(&self) -> &str;

    /// Where it is written down.
    fn traces(&self) -> &HelperRecord;

    /// Starts one.
    async fn spawn(&self, machine: &dyn Machine) -> io::Result<Process>;

    /// Does for one that runs what has to be done, as long as it runs; `again` if it has taken another's place. One that
    /// is of no use is killed.
    async fn attend(&self, _process: &Process, _again: bool) {
        std::future::pending().await
    }

    /// One has ended before its machine.
    async fn lost(&self) {}

    /// Another one cannot be started. Returns whether it never will be, so that the machine has to end.
    async fn is_hopeless(&self, _error: &io::Error) -> bool {
        false
    }
}

/// Replaces a helper that ends before its machine, until the machine has ended.
pub async fn look_after(helper: impl Helper, first: Option<Process>, machine: Arc<dyn Machine>) {
    let (mut current, mut wait, mut again) = (first, FIRST_WAIT, false);
    loop {
        let begun = Instant::now();
        if let Some(process) = &current {
            tokio::select! {
                _ = process.ended() => {}
                () = helper.attend(process, again) => {
                    process.kill().await;
                }
                _ = machine.ended() => {
                    if tokio::time::timeout(FAREWELL, process.ended()).await.is_err() {
                        process.kill().await;
                    }
                    return;
                }
            }
        }
        wait = if begun.elapsed() > LONGEST_WAIT { FIRST_WAIT } else { wait };
        // A machine that has just died takes its helpers along.
        if tokio::time::timeout(wait, machine.ended()).await.is_ok() {
            return;
        }
        wait = (wait * 2).min(LONGEST_WAIT);
        let words = aegis_vmm::console_tail(&helper.traces().log, 1).join("");
        let (id, what) = (helper.id(), helper.what());
        tracing::warn!(id, words, "{what} has ended; another one takes its place");
        helper.lost().await;
        again = true;
        current = match helper.spawn(&*machine).await {
            Ok(process) => Some(process),
            Err(error) => {
                // One that is going closes its connections before it has ended.
                if tokio::time::timeout(wait, machine.ended()).await.is_ok() {
                    return;
                }
                tracing::error!(id, %error, "{what} cannot be started");
                if helper.is_hopeless(&error).await {
                    return machine.stop().await;
                }
                None
            }
        };
    }
}
