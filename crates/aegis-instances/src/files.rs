//! The server of a machine's files: a process of its own, which outlives the daemon and ends with its machine.

use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aegis_vmm::{Endpoint, Machine, Process};
use tokio::task::JoinHandle;

use crate::helper;
use crate::live::Live;
use crate::manager::Context;
use crate::mounts;
use crate::reason::StopReason;
use crate::spec::InstanceSpec;

/// What finds the server again, in the machine's run-time directory.
const RECORD: &str = "files.json";
/// What the server says, mostly nothing.
const LOG: &str = "files.log";
/// How long to wait before another server takes the place of one that has failed: longer each time, up to a limit.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// How long a server may take to notice that its machine is gone.
const FAREWELL: Duration = Duration::from_secs(2);

/// What it takes to serve one machine's files.
#[derive(Debug)]
pub(crate) struct FileServer {
    program: PathBuf,
    exports: String,
    run_dir: PathBuf,
    id: String,
}

impl FileServer {
    /// The server for an instance; `None` if it sees no directory of the host.
    pub(crate) fn of(context: &Context, id: &str, spec: &InstanceSpec) -> Option<FileServer> {
        if spec.mounts.is_empty() {
            return None;
        }
        let run_dir = context.home.run_dir_path(id);
        let exports = serde_json::to_string(&mounts::exports(&spec.mounts, &context.home, &run_dir)).ok()?;
        Some(FileServer { program: context.file_server.clone(), exports, run_dir, id: id.to_owned() })
    }

    /// Starts the server of a machine that has just been made, and looks after it until the machine has ended.
    /// Returns the task that does.
    pub(crate) async fn start(self, machine: &Arc<dyn Machine>) -> Result<JoinHandle<()>, StopReason> {
        let failed = |error: io::Error| {
            StopReason::new("boot_failed", format!("the workspace cannot be served: {error}"))
        };
        let process = self.spawn(&**machine).await.map_err(failed)?;
        Ok(tokio::spawn(self.look_after(Some(process), Arc::clone(machine))))
    }

    /// Takes over the server of a machine that an earlier daemon started.
    pub(crate) fn adopt(self, live: &Arc<Live>, machine: &Arc<dyn Machine>) {
        let process =
            helper::recorded(&self.run_dir.join(RECORD)).and_then(|id| Process::adopt(&id).ok().flatten());
        live.keep_files(tokio::spawn(self.look_after(process, Arc::clone(machine))));
    }

    async fn spawn(&self, machine: &dyn Machine) -> io::Result<Process> {
        let guest = machine.dial(Endpoint::Files).await.map_err(io::Error::other)?.into_std()?;
        guest.set_nonblocking(false)?;
        let log = std::fs::File::create(self.run_dir.join(LOG))?;
        let mut command = Command::new(&self.program);
        command.args(["serve-files", "--name", &self.id, &self.exports]).env_clear().current_dir("/");
        command.stdin(std::os::fd::OwnedFd::from(guest)).stdout(Stdio::null()).stderr(log);
        let process = Process::spawn(command, Vec::new())?;
        std::fs::write(self.run_dir.join(RECORD), serde_json::to_vec(process.id())?)?;
        Ok(process)
    }

    /// Replaces a server that ends before its machine: what the guest asked meanwhile it asks again.
    async fn look_after(self, first: Option<Process>, machine: Arc<dyn Machine>) {
        let mut current = first;
        let mut wait = FIRST_WAIT;
        loop {
            let begun = Instant::now();
            if let Some(process) = &current {
                tokio::select! {
                    _ = process.ended() => {}
                    _ = machine.ended() => {
                        if tokio::time::timeout(FAREWELL, process.ended()).await.is_err() {
                            process.kill().await;
                        }
                        return;
                    }
                }
            }
            wait = if begun.elapsed() > LONGEST_WAIT { FIRST_WAIT } else { wait };
            // A machine that has just died takes its server along.
            if tokio::time::timeout(wait, machine.ended()).await.is_ok() {
                return;
            }
            wait = (wait * 2).min(LONGEST_WAIT);
            let words = aegis_vmm::console_tail(&self.run_dir.join(LOG), 1).join("");
            tracing::warn!(
                id = self.id,
                words,
                "the server of its files has ended; another one takes its place"
            );
            current = match self.spawn(&*machine).await {
                Ok(process) => Some(process),
                Err(error) => {
                    tracing::error!(id = self.id, %error, "the files cannot be served");
                    None
                }
            };
        }
    }
}

/// Checks that what is to be served is there.
pub(crate) fn check(context: &Context, spec: &InstanceSpec) -> Result<(), StopReason> {
    for mount in &spec.mounts {
        let path = mount.source.path(&context.home);
        let found = std::fs::metadata(&path);
        let problem = match &found {
            Ok(status) if status.is_dir() => continue,
            Ok(_) => "it is no directory".to_owned(),
            Err(error) => error.to_string(),
        };
        let text = format!("{} cannot be mounted at {}: {problem}", path.display(), mount.at);
        return Err(StopReason::new("workspace_missing", text));
    }
    Ok(())
}
