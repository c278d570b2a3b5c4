//! The server of a machine's files: a process of its own, which outlives the daemon and ends with its machine.

use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use aegis_vmm::{Endpoint, Machine, Process};
use async_trait::async_trait;
use tokio::task::JoinHandle;

use crate::machine::helper::{Helper, Traces, look_after};
use crate::machine::live::Live;
use crate::manager::Context;
use crate::mounts;
use crate::reason::StopReason;
use crate::spec::InstanceSpec;

/// What its traces are called.
const KIND: &str = "files";

/// What it takes to serve one machine's files.
#[derive(Debug)]
pub(crate) struct FileServer {
    program: PathBuf,
    exports: String,
    traces: Traces,
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
        let traces = Traces::of(KIND, &run_dir);
        Some(FileServer { program: context.file_server.clone(), exports, traces, id: id.to_owned() })
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
        let guest = machine.dial(Endpoint::Files).await.map_err(io::Error::other)?.into_std()?;
        guest.set_nonblocking(false)?;
        let mut command = Command::new(&self.program);
        command.args(["serve-files", "--name", &self.id, &self.exports]);
        command.stdin(std::os::fd::OwnedFd::from(guest)).stdout(Stdio::null());
        self.traces.spawn(command)
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
