//! Becoming another instance: in a machine that goes on where one of somebody else stood.

use std::path::Path;
use std::rc::Rc;

use aegis_guest_protocol::messages::{Become, Done, Event, HOOKS, Sync, code};
use aegis_guest_protocol::rpc::{Message, RpcError};
use serde_json::Value;

use super::{Shared, from_hex, parse, reply};
use crate::hooks;
use crate::outlet::Epoch;

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

    /// Makes the machine ready to be copied; whatever else the host says does not wait until everything is written.
    pub(super) async fn sync(self: Rc<Self>, epoch: Epoch, id: u64, params: Value) {
        let result = match parse::<Sync>(params) {
            Ok(Sync {}) => {
                self.platform.expect_copies();
                // Looked up here, so that it need not be in each of them.
                let _programs = hooks::programs(Path::new(HOOKS));
                let written = tokio::task::spawn_blocking(rustix::fs::sync).await;
                let failed = |error: tokio::task::JoinError| RpcError::new(code::SYSTEM, error.to_string());
                written.map_err(failed).and_then(|()| reply::<Sync>(&Done {}))
            }
            Err(error) => Err(error),
        };
        self.say(epoch, &Message::Response { id, result }).await;
    }

    pub(super) async fn become_another(self: Rc<Self>, epoch: Epoch, id: u64, params: Value) {
        let result = match parse::<Become>(params) {
            Ok(call) => self.take_over(&call).await.and_then(|()| reply::<Become>(&Done {})),
            Err(error) => Err(error),
        };
        self.say(epoch, &Message::Response { id, result }).await;
    }

    async fn take_over(&self, call: &Become) -> Result<(), RpcError> {
        if !self.nobody.get() {
            return Err(RpcError::new(code::WRONG_STATE, "this guest is somebody"));
        }
        self.platform.add_entropy(&from_hex(&call.entropy));
        self.platform.become_another(&call.hostname)?;
        if self.in_groups.replace(!call.groups.is_empty()) || !call.groups.is_empty() {
            self.platform.set_groups(&call.groups)?;
        }
        hooks::run(&self.processes, Path::new(HOOKS), call.cause).await?;
        self.nobody.set(false);
        self.platform.freeze(false);
        Ok(())
    }
}
