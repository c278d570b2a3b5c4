//! Re-identification of a clone: hostname, addresses, machine id and boot id of another instance.

use std::path::Path;

use aegis_guest_protocol::messages::{Event, HOOKS, Reidentify, Sync, code};
use aegis_guest_protocol::rpc::RpcError;

use super::{Shared, from_hex};
use crate::hooks;

impl Shared {
    /// Forgets what was to be told to the host of the other one. The end of the workload is worth telling to this one.
    pub(super) fn begin_anew(&self) {
        self.nobody.set(true);
        self.outbox.borrow_mut().restart(|event| matches!(event, Event::WorkloadExited { .. }));
        if let Some(workload) = &*self.workload.borrow() {
            for output in [&workload.stdout, &workload.stderr] {
                output.restart(&self.streams);
            }
        }
    }

    /// Makes the machine ready to be copied.
    pub(super) async fn sync(&self, _call: &Sync) -> Result<(), RpcError> {
        self.platform.expect_copies();
        // Looked up here, so that it need not be in each of them.
        let _programs = hooks::programs(Path::new(HOOKS));
        let written = tokio::task::spawn_blocking(rustix::fs::sync).await;
        written.map_err(|error| RpcError::new(code::SYSTEM, error.to_string()))
    }

    pub(super) async fn reidentify(&self, call: &Reidentify) -> Result<(), RpcError> {
        if !self.nobody.get() {
            return Err(RpcError::new(code::WRONG_STATE, "this guest is somebody"));
        }
        self.platform.add_entropy(&from_hex(&call.entropy));
        self.platform.reidentify(&call.hostname)?;
        if self.in_groups.replace(!call.groups.is_empty()) || !call.groups.is_empty() {
            self.platform.set_groups(&call.groups)?;
        }
        hooks::run(&self.processes, Path::new(HOOKS), call.cause).await?;
        self.nobody.set(false);
        self.platform.freeze(false);
        Ok(())
    }
}
