//! The server of a machine's files: a process of its own, which outlives the daemon and ends with its machine.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use aegis_store::home::Home;
use aegis_vmm::{Endpoint, Machine, Process};
use async_trait::async_trait;
use tokio::task::JoinHandle;

use aegis_lifecycle::stop_reason::StopReason;
use aegis_spec::instance::InstanceSpec;
use aegis_spec::mount::Mount;

use crate::exports;
use crate::helper_process::{Helper, HelperIsolation, HelperRecord, look_after};
use crate::host_directory::{self, DirectoryError};
use crate::reporter::{MachineEvent, Reporter};

/// What its traces are called.
const KIND: &str = "files";

/// What it takes to serve one machine's files.
#[derive(Debug)]
pub struct FileServer {
    program: PathBuf,
    home: Home,
    mounts: Vec<Mount>,
    traces: HelperRecord,
    id: String,
    /// Whom to tell why the machine ends, if that is an instance's.
    owner: Option<Reporter>,
}

impl FileServer {
    /// The server for an instance with these directories; `None` if it sees none. `owner` is told why the machine ends, if
    /// that is an instance's.
    #[must_use]
    pub fn new(
        program: &Path,
        home: &Home,
        id: &str,
        mounts: &[Mount],
        owner: Option<Reporter>,
    ) -> Option<FileServer> {
        let mounts = Some(mounts.to_vec()).filter(|mounts| !mounts.is_empty())?;
        let traces = HelperRecord::of(KIND, &home.run_dir_path(id));
        Some(FileServer {
            program: program.to_owned(),
            home: home.clone(),
            mounts,
            traces,
            id: id.to_owned(),
            owner,
        })
    }

    /// Starts the server of a machine that has just been made, and looks after it until the machine has ended.
    /// Returns the task that does.
    pub async fn start(self, machine: &Arc<dyn Machine>) -> Result<JoinHandle<()>, StopReason> {
        let failed = |error: io::Error| {
            StopReason::new("boot_failed", format!("the workspace cannot be served: {error}"))
        };
        let process = self.spawn(&**machine).await.map_err(failed)?;
        Ok(tokio::spawn(look_after(self, Some(process), Arc::clone(machine))))
    }

    /// Takes over the server of a machine that an earlier daemon started. Returns the task that looks after it.
    pub fn adopt(self, machine: &Arc<dyn Machine>) -> JoinHandle<()> {
        let process = self.traces.recorded();
        tokio::spawn(look_after(self, process, Arc::clone(machine)))
    }
}

#[async_trait]
impl Helper for FileServer {
    fn what(&self) -> &'static str {
        "the server of a machine's files"
    }

    fn id(&self) -> &str {
        &self.id
    }

    fn traces(&self) -> &HelperRecord {
        &self.traces
    }

    async fn spawn(&self, machine: &dyn Machine) -> io::Result<Process> {
        // Each time, also when one takes another's place: it serves what was named, or nothing.
        let run_dir = self.home.run_dir_path(&self.id);
        let exports = exports::exports(&self.mounts, &self.home, &run_dir).map_err(io::Error::other)?;
        let (specs, roots): (Vec<_>, Vec<_>) = exports.into_iter().unzip();
        let fds = roots.into_iter().zip(&specs).map(|(root, spec)| (root, spec.descriptor)).collect();
        let guest = machine.dial(Endpoint::Files).await.map_err(io::Error::other)?.into_std()?;
        guest.set_nonblocking(false)?;
        let mut command = Command::new(&self.program);
        command.args(["serve-files", "--name", &self.id, &serde_json::to_string(&specs)?]);
        command.stdin(std::os::fd::OwnedFd::from(guest)).stdout(Stdio::null());
        // Root's serves what belongs to others, which it could not as the only user of a namespace.
        let users = !rustix::process::geteuid().is_root();
        // Of its own it has the tables of open files, and what is counted together with others who serve the same directory.
        let quotas = specs.iter().filter_map(|spec| spec.limit.as_ref());
        let counts = quotas.map(|limit| limit.make()).collect::<io::Result<Vec<_>>>()?;
        let writable = std::iter::once(run_dir).chain(counts.into_iter().flatten()).collect();
        let read_only = specs.iter().filter(|spec| spec.read_only).map(|spec| spec.descriptor).collect();
        self.traces.spawn(
            command,
            fds,
            HelperIsolation { users, user: None, network: true, writable, read_only },
        )
    }

    /// A guest that waits for a file cannot be told that the directory is another one now, and would wait for ever.
    async fn is_hopeless(&self, error: &io::Error) -> bool {
        let Some(error) = error.get_ref().and_then(|error| error.downcast_ref::<DirectoryError>()) else {
            return false;
        };
        if matches!(error, DirectoryError::Unopened { .. }) {
            return false;
        }
        if let Some(owner) = &self.owner {
            let text = format!("the server of its files ended, and cannot be replaced: {error}");
            let reason = StopReason::new("workspace_missing", text);
            owner.tell(MachineEvent::Died(reason)).await;
        }
        true
    }
}

/// Checks that what is to be served is there, and is what was named.
pub fn check(home: &Home, spec: &InstanceSpec) -> Result<(), StopReason> {
    for mount in &spec.mounts {
        host_directory::open(mount, home).map_err(|error| {
            let code = match error {
                DirectoryError::Refused { .. } => "workspace_refused",
                _ => "workspace_missing",
            };
            let path = host_directory::path_of(&mount.source, home);
            StopReason::new(code, format!("{} cannot be mounted at {}: {error}", path.display(), mount.at))
        })?;
    }
    Ok(())
}
