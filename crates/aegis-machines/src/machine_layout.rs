//! Where a machine's files are, and what its monitor is told: the specification of an instance as that of a machine.

use std::path::PathBuf;
use std::sync::Arc;

use aegis_lifecycle::stop_reason::StopReason;
use aegis_spec::instance::InstanceSpec;
use aegis_store::disk::{self, DiskMaker};
use aegis_store::home::Home;
use aegis_vmm::{Machine, MachineSpec, Vmm};

use crate::error_chain::chain;
use crate::image_disks::ImageDiskProvider;
use crate::network::interface;

/// What the specifications of all machines are made from. Clones share it.
#[derive(Debug, Clone)]
pub struct MachineLayout {
    /// Where everything is kept.
    pub home: Home,
    /// The monitors.
    pub vmm: Arc<dyn Vmm>,
    /// The root disks of images.
    pub roots: Arc<dyn ImageDiskProvider>,
}

/// A boot that failed, and in which part.
pub fn boot_failed(what: &str, error: &dyn std::fmt::Display) -> StopReason {
    StopReason::new("boot_failed", format!("{what}: {error}"))
}

/// The name of the file with the modules that a machine was started with.
#[must_use]
pub fn modules_of(machine: &dyn Machine) -> Option<String> {
    Some(machine.handle().modules?.file_name()?.to_str()?.to_owned())
}

impl MachineLayout {
    /// The machine of an instance as it boots. Makes its run-time directory if there is none.
    ///
    /// # Errors
    /// If a part of it is missing on this host.
    pub fn machine_spec(&self, id: &str, of: &InstanceSpec) -> Result<MachineSpec, StopReason> {
        // An initial file system of an earlier version has them itself.
        self.spec_with(id, of, self.home.modules().ok())
    }

    /// The machine of an instance as one that was saved was started: its guest may have looked at its modules, which are in
    /// the file with this name. That of an earlier version has none on its disk.
    ///
    /// # Errors
    /// If a part of it is missing on this host.
    pub fn saved_spec(
        &self,
        id: &str,
        of: &InstanceSpec,
        modules: Option<&str>,
    ) -> Result<MachineSpec, StopReason> {
        let modules = modules.map(|name| self.home.modules_named(name)).transpose();
        self.spec_with(id, of, modules.map_err(|error| boot_failed("the host is not ready", &error))?)
    }

    fn spec_with(
        &self,
        id: &str,
        of: &InstanceSpec,
        modules: Option<PathBuf>,
    ) -> Result<MachineSpec, StopReason> {
        let (home, can) = (&self.home, self.vmm.capabilities());
        let missing = |error| boot_failed("the host is not ready", &error);
        let run_dir = home.run_dir(id);
        Ok(MachineSpec {
            name: id.to_owned(),
            run_dir: run_dir.map_err(|error| boot_failed("cannot make the run-time directory", &error))?,
            console_log: home.console(id),
            kernel: home.kernel().map_err(missing)?,
            initramfs: home.initramfs().map_err(missing)?,
            root_disk: self.root_disk(of)?,
            modules,
            data_disk: home.disk(id),
            memory_mib: of.memory_mib,
            vcpus: of.vcpus,
            // All that can be started from a template have everything, so that there are fewer kinds.
            files: can.save || !of.mounts.is_empty(),
            card: can.network.then(interface::interface),
        })
    }

    fn root_disk(&self, spec: &InstanceSpec) -> Result<Vec<PathBuf>, StopReason> {
        match &spec.image {
            Some(image) => {
                self.roots.parts(&image.digest).map_err(|error| StopReason::new("image_missing", error))
            }
            None => {
                let base = self.home.rootfs_named(&spec.rootfs);
                base.map(|path| vec![path]).map_err(|error| boot_failed("the host is not ready", &error))
            }
        }
    }

    /// Makes an instance's disk of so many MiB, or grows the one that is there.
    ///
    /// # Errors
    /// The system's, as the reason of a failed boot.
    pub async fn make_disk(&self, id: &str, mib: u64) -> Result<(), StopReason> {
        let (path, size, cache) = (self.home.disk(id), mib << 20, self.home.cache());
        let made = tokio::task::spawn_blocking(move || match path.exists() {
            // It may have been asked to grow, or be that of an older snapshot.
            true => disk::grow(&path, size),
            false => DiskMaker::new(cache)?.create(&path, size),
        })
        .await;
        let failed =
            |error: &dyn std::fmt::Display| boot_failed("the instance's disk could not be made", error);
        match made {
            Ok(made) => made.map_err(|error| failed(&chain(&error))),
            Err(_) => Err(failed(&"an internal fault")),
        }
    }

    /// What a machine must have in common with a saved state to go on from it.
    ///
    /// # Errors
    /// If its monitor saves no states.
    pub fn compatibility_key(&self, spec: &MachineSpec) -> Result<String, String> {
        self.vmm.compatibility_key(spec).ok_or_else(|| "this host's machines cannot be saved".to_owned())
    }
}
