//! Firecracker: a monitor for hardware virtualisation alone, with few devices.
//!
//! It differs from QEMU in what its guests see: they listen on virtio sockets where QEMU has serial ports, make their network
//! interface themselves, and are told on the kernel's command line what their disks are. Its process opens everything by the
//! numbers of descriptors that it inherits, so that a state that was saved fits any machine.

mod api;
mod configuration;
mod jail_profile;
mod machine;
mod saved_state;
mod sockets;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use configuration::{API_SOCKET, Configuration, DEVICES_FD, MEMORY_FD, SAVED_DEVICES_FD, SAVED_MEMORY_FD};
use machine::FirecrackerMachine;
use sockets::Sockets;

use crate::process::{find_program, version_line};
use crate::vsock::{self, CONFIGURATION_FD, path_of, socket_path};
use crate::{
    Capabilities, Machine, MachineHandle, MachineSpec, Origin, Probe, Vmm, VmmError, host_version,
    unnamed_file,
};

/// Name of this backend.
pub const NAME: &str = "firecracker";
/// The program.
const PROGRAM: &str = "firecracker";
/// The oldest version that was seen to work.
pub const OLDEST: (u32, u32) = (1, 12);

const MONITOR: vsock::Program =
    vsock::Program { backend: NAME, name: PROGRAM, most_disks: 14, jail: jail_profile::of };

/// The Firecracker backend.
#[derive(Debug)]
pub struct Firecracker {
    /// Where its program is, if the user says so (`AEGIS_FIRECRACKER`).
    program: Option<PathBuf>,
    /// Why KVM is used.
    reason: String,
    /// What the host's processor is, see [`saved_state::compatibility_key`].
    processor: String,
}

impl Firecracker {
    /// A backend with this program, or with the one in `PATH`; `reason` says why KVM is thought to work.
    #[must_use]
    pub fn new(program: Option<PathBuf>, reason: String) -> Firecracker {
        Firecracker { program, reason, processor: host_version::processor() }
    }

    fn executable(&self) -> Result<PathBuf, VmmError> {
        let found = self.program.clone().or_else(|| find_program(PROGRAM));
        found.ok_or_else(|| VmmError::Missing { program: PROGRAM.to_owned() })
    }

    /// Starts the monitor with these descriptors beside those of every machine.
    fn spawn(
        &self,
        spec: &MachineSpec,
        more_arguments: &[String],
        mut more: Vec<(OwnedFd, i32)>,
    ) -> Result<FirecrackerMachine, VmmError> {
        let executable = self.executable()?;
        for number in [SAVED_MEMORY_FD, SAVED_DEVICES_FD] {
            let file = saved_state::empty_file().map_err(VmmError::io("make room for its state"))?;
            more.push((file, number));
        }
        let api = socket_path(API_SOCKET);
        let arguments = ["--id", &spec.name, "--api-sock", &api, "--level", "Error"].map(str::to_owned);
        let arguments = [&arguments, more_arguments].concat();
        let (monitor, directory, handle) = MONITOR.spawn(&executable, spec, &arguments, more)?;
        Ok(FirecrackerMachine::new(monitor, Sockets::new(directory), handle))
    }
}

/// The version that Firecracker tells: `Firecracker v1.12.1`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let version = text.lines().next()?.trim().rsplit_once('v')?.1;
    let mut numbers = version.split('.').map(str::parse::<u32>);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[async_trait]
impl Vmm for Firecracker {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            pause: true,
            save: true,
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
        match parse_version(&version) {
            Some(found) if found >= OLDEST => Ok(Probe { version, executable }),
            _ => {
                let message = format!(
                    "{}: {version:?} is none of version {}.{} or later",
                    executable.display(),
                    OLDEST.0,
                    OLDEST.1
                );
                Err(VmmError::Refused { action: "use Firecracker", message })
            }
        }
    }

    async fn start(&self, spec: &MachineSpec) -> Result<Arc<dyn Machine>, VmmError> {
        let told = serde_json::to_vec(&Configuration::of(spec)).map_err(io::Error::from);
        let told = told.and_then(|told| unnamed_file::with(&told));
        let told = told.map_err(VmmError::io("tell Firecracker what to make"))?;
        let arguments = ["--config-file".to_owned(), path_of(CONFIGURATION_FD)];
        Ok(Arc::new(self.spawn(spec, &arguments, vec![(told, CONFIGURATION_FD)])?))
    }

    async fn restore(
        &self,
        spec: &MachineSpec,
        devices: &[u8],
        memory: Origin<'_>,
    ) -> Result<Arc<dyn Machine>, VmmError> {
        let (at_once, memory) = match memory {
            Origin::Common(memory) => (true, memory.as_fd()),
            Origin::Own(memory) => (false, memory.as_fd()),
        };
        let memory = memory.try_clone_to_owned().map_err(VmmError::io("pass the machine's memory"))?;
        let devices = unnamed_file::with(devices).map_err(VmmError::io("pass the machine's devices"))?;
        let machine = self.spawn(spec, &[], vec![(memory, MEMORY_FD), (devices, DEVICES_FD)])?;
        if at_once && let Err(error) = machine.load(true).await {
            machine.stop().await;
            return Err(error);
        }
        Ok(Arc::new(machine))
    }

    fn compatibility_key(&self, spec: &MachineSpec) -> Option<String> {
        saved_state::compatibility_key(&self.executable().ok()?, &self.processor, spec)
    }

    async fn recover(&self, handle: &MachineHandle) -> Result<Option<Arc<dyn Machine>>, VmmError> {
        let found = MONITOR.recover(handle).await?;
        Ok(found.map(|(monitor, directory)| -> Arc<dyn Machine> {
            Arc::new(FirecrackerMachine::new(monitor, Sockets::new(directory), handle.clone()))
        }))
    }

    async fn end_strays(&self, disks: &Path, known: &[i32]) -> Vec<String> {
        MONITOR.end_strays(disks, known).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_as_it_is_told() {
        assert_eq!(parse_version("Firecracker v1.12.1\n\n2026 exiting\n"), Some((1, 12)));
        assert_eq!(parse_version("Firecracker v1.9.0-dirty"), Some((1, 9)));
        assert_eq!(parse_version("command not found"), None);
        assert!((1, 9) < OLDEST && (2, 0) > OLDEST);
    }
}
