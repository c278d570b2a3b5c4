//! The server of a machine's files: a process of its own, which outlives the daemon and ends with its machine.

use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Weak};

use aegis_store::home::Home;
use aegis_vmm::{Endpoint, Machine, Process};
use async_trait::async_trait;
use tokio::task::JoinHandle;

use crate::actor::Message;
use crate::host_directory::{self, DirectoryError};
use crate::lifecycle::Event;
use crate::machine::helper::{Helper, Isolated, Traces, look_after};
use crate::machine::live::Live;
use crate::manager::Context;
use crate::mounts::{self, Mount};
use crate::reason::StopReason;
use crate::spec::InstanceSpec;

/// What its traces are called.
const KIND: &str = "files";

/// What it takes to serve one machine's files.
#[derive(Debug)]
pub(crate) struct FileServer {
    program: PathBuf,
    home: Home,
    mounts: Vec<Mount>,
    traces: Traces,
    id: String,
    /// Whom to tell why the machine ends, if that is an instance's.
    owner: Option<Weak<Live>>,
}

impl FileServer {
    /// The server for an instance; `None` if it sees no directory of the host.
    pub(crate) fn of(
        context: &Context,
        id: &str,
        spec: &InstanceSpec,
        owner: Option<&Arc<Live>>,
    ) -> Option<FileServer> {
        let mounts = Some(spec.mounts.clone()).filter(|mounts| !mounts.is_empty())?;
        let traces = Traces::of(KIND, &context.home.run_dir_path(id));
        let program = context.file_server.clone();
        let (home, id, owner) = (context.home.clone(), id.to_owned(), owner.map(Arc::downgrade));
        Some(FileServer { program, home, mounts, traces, id, owner })
    }

    /// Starts the server of a machine that has just been made, and looks after it until the machine has ended.
    /// Returns the task that does.
    pub(crate) async fn start(self, machine: &Arc<dyn Machine>) -> Result<JoinHandle<()>, StopReason> {
        let failed = |error: io::Error| {
            StopReason::new("boot_failed", format!("the workspace cannot be served: {error}"))
        };
        let process = self.spawn(&**machine).await.map_err(failed)?;
        Ok(tokio::spawn(look_after(self, Some(process), Arc::clone(machine))))
    }

    /// Takes over the server of a machine that an earlier daemon started.
    pub(crate) fn adopt(self, live: &Arc<Live>, machine: &Arc<dyn Machine>) {
        let process = self.traces.recorded();
        live.keep_files(tokio::spawn(look_after(self, process, Arc::clone(machine))));
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

    fn traces(&self) -> &Traces {
        &self.traces
    }

    async fn spawn(&self, machine: &dyn Machine) -> io::Result<Process> {
        // Each time, also when one takes another's place: it serves what was named, or nothing.
        let run_dir = self.home.run_dir_path(&self.id);
        let exports = mounts::exports(&self.mounts, &self.home, &run_dir).map_err(io::Error::other)?;
        let (specs, roots): (Vec<_>, Vec<_>) = exports.into_iter().unzip();
        let fds = roots.into_iter().zip(&specs).map(|(root, spec)| (root, spec.descriptor)).collect();
        let guest = machine.dial(Endpoint::Files).await.map_err(io::Error::other)?.into_std()?;
        guest.set_nonblocking(false)?;
        let mut command = Command::new(&self.program);
        command.args(["serve-files", "--name", &self.id, &serde_json::to_string(&specs)?]);
        command.stdin(std::os::fd::OwnedFd::from(guest)).stdout(Stdio::null());
        // Root's serves what belongs to others, which it could not as the only user of a namespace.
        let users = !rustix::process::geteuid().is_root();
        // Of its own it has the tables of open files, and what is counted together with others.
        let writable = vec![run_dir, mounts::ledgers(&self.home)?];
        self.traces.spawn(command, fds, Isolated { users, user: None, network: true, writable })
    }

    /// A guest that waits for a file cannot be told that the directory is another one now, and would wait for ever.
    async fn is_hopeless(&self, error: &io::Error) -> bool {
        let Some(error) = error.get_ref().and_then(|error| error.downcast_ref::<DirectoryError>()) else {
            return false;
        };
        if matches!(error, DirectoryError::Unopened { .. }) {
            return false;
        }
        if let Some(live) = self.owner.as_ref().and_then(Weak::upgrade) {
            let text = format!("the server of its files ended, and cannot be replaced: {error}");
            let reason = StopReason::new("workspace_missing", text);
            live.tell(Message::Happened(Event::Died(live.boot, reason))).await;
        }
        true
    }
}

/// Checks that what is to be served is there, and is what was named.
pub(crate) fn check(context: &Context, spec: &InstanceSpec) -> Result<(), StopReason> {
    for mount in &spec.mounts {
        host_directory::open(mount, &context.home).map_err(|error| {
            let code = match error {
                DirectoryError::Refused { .. } => "workspace_refused",
                _ => "workspace_missing",
            };
            let path = mount.source.path(&context.home);
            StopReason::new(code, format!("{} cannot be mounted at {}: {error}", path.display(), mount.at))
        })?;
    }
    Ok(())
}
