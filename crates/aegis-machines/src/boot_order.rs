//! What it takes to make the machine of one boot.

use std::sync::Arc;

use aegis_lifecycle::stop_reason::StopReason;
use aegis_spec::instance::InstanceSpec;

use crate::boot_timings::Stopwatch;
use crate::disk_lock::DiskLock;
use crate::machine_run::MachineRun;

/// The machine that is to be made, and for whom.
#[derive(Debug)]
pub struct BootOrder {
    /// Id of the instance.
    pub id: String,
    /// What the guest calls itself.
    pub hostname: String,
    /// What the instance is made of.
    pub spec: Arc<InstanceSpec>,
    /// The run that begins.
    pub run: Arc<MachineRun>,
    /// The lock on the instance's disk.
    pub disk: DiskLock,
    /// Takes the time of each step.
    pub watch: Stopwatch,
}

impl BootOrder {
    /// Holds the disk as long as there may be a machine. Somebody may be copying files of the stopped instance: that is
    /// waited for, unless the machine is not wanted any more.
    ///
    /// # Errors
    /// If it is not wanted any more.
    pub async fn take_disk(&self) -> Result<(), StopReason> {
        let guard = tokio::select! {
            guard = self.disk.acquire() => guard,
            () = self.run.cancelled() => return Err(StopReason::stopped()),
        };
        self.run.hold_disk(guard);
        Ok(())
    }
}
