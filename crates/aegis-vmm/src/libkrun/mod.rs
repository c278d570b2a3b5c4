//! libkrun: a monitor that is a library, each machine in a worker process of its own (`aegis-krun-worker`), because it takes over
//! whoever calls it.
//!
//! Its guests are reached as Firecracker's are, by virtio sockets. It saves no machines, so there are no templates, hibernations or
//! forks.

mod configuration;
mod jail_profile;
mod machine;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use configuration::Configuration;
use machine::LibkrunMachine;

use crate::process::{find_program, version_line};
use crate::vsock::{self, CONFIGURATION_FD, path_of};
use crate::{Capabilities, Machine, MachineHandle, MachineSpec, Probe, Vmm, VmmError, unnamed_file};

/// Name of this backend.
pub const NAME: &str = "libkrun";
/// The worker.
const PROGRAM: &str = "aegis-krun-worker";

/// It gives 11 interrupts to devices, of which a balloon, a source of random numbers and the virtio socket have one each.
const MOST_DISKS: usize = 8;

const MONITOR: vsock::Program =
    vsock::Program { backend: NAME, name: PROGRAM, most_disks: MOST_DISKS, jail: jail_profile::of };

/// The libkrun backend.
#[derive(Debug)]
pub struct Libkrun {
    /// Where the worker is, if somebody knows.
    worker: Option<PathBuf>,
    /// Why KVM is used.
    reason: String,
}

impl Libkrun {
    /// A backend with this worker, or with the one in `PATH`; `reason` says why KVM is thought to work.
    #[must_use]
    pub fn new(worker: Option<PathBuf>, reason: String) -> Libkrun {
        Libkrun { worker, reason }
    }

    fn executable(&self) -> Result<PathBuf, VmmError> {
        let found = self.worker.clone().or_else(|| find_program(PROGRAM));
        found.ok_or_else(|| VmmError::Missing { program: PROGRAM.to_owned() })
    }
}

#[async_trait]
impl Vmm for Libkrun {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            pause: true,
            save: false,
            network: true,
            swaps_disks: false,
            dials_paused: false,
            accelerator: crate::Accelerator::Kvm.name().to_owned(),
            accelerator_reason: self.reason.clone(),
        }
    }

    async fn probe(&self) -> Result<Probe, VmmError> {
        let executable = self.executable()?;
        let version = version_line(&executable).await?;
        Ok(Probe { version, executable })
    }

    async fn start(&self, spec: &MachineSpec) -> Result<Arc<dyn Machine>, VmmError> {
        let told = serde_json::to_vec(&Configuration::of(spec)).map_err(io::Error::from);
        let told = told.and_then(|told| unnamed_file::with(&told));
        let told = told.map_err(VmmError::io("tell libkrun what to make"))?;
        let executable = self.executable()?;
        let arguments = [path_of(CONFIGURATION_FD)];
        let started = MONITOR.spawn(&executable, spec, &arguments, vec![(told, CONFIGURATION_FD)])?;
        let (monitor, sockets, handle) = started;
        Ok(Arc::new(LibkrunMachine::new(monitor, sockets, handle)))
    }

    async fn recover(&self, handle: &MachineHandle) -> Result<Option<Arc<dyn Machine>>, VmmError> {
        let found = MONITOR.recover(handle).await?;
        Ok(found.map(|(monitor, sockets)| -> Arc<dyn Machine> {
            Arc::new(LibkrunMachine::new(monitor, sockets, handle.clone()))
        }))
    }

    async fn end_strays(&self, disks: &Path, known: &[i32]) -> Vec<String> {
        MONITOR.end_strays(disks, known).await
    }
}
