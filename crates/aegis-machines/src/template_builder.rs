//! Makes templates: a machine boots up to the point where it would be given to an instance, and is saved.

use std::io;
use std::sync::Arc;

use aegis_guest_protocol::messages::Settle;
use aegis_vmm::{Machine, MachineSpec, MemoryBuilder, Saved};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::checkpoint::template_store::TemplateStore;
use crate::disk_space::DiskSpace;
use crate::error_chain::chain;
use crate::ids::IdReservations;
use crate::machine_layout::MachineLayout;
use crate::scratch_machine;
use crate::template_key::TemplateKey;
use crate::warm_pool::WarmPool;

/// What such a machine has for a disk while it boots, bytes. Nobody looks at it.
const PLACEHOLDER: u64 = 1 << 20;

/// Makes templates in the background.
#[derive(Debug)]
pub struct TemplateBuilder {
    /// What machines are made from.
    pub layout: MachineLayout,
    /// Where templates are kept.
    pub store: Arc<TemplateStore>,
    /// Told of each template that was made.
    pub warm_pool: Arc<WarmPool>,
    /// The host's disk.
    pub disk_space: Arc<DiskSpace>,
    /// Ids of machines that are no strays.
    pub ids: IdReservations,
    /// Owns the tasks, which are waited for before the daemon ends.
    pub tasks: TaskTracker,
    /// The daemon ends.
    pub shutdown: CancellationToken,
}

impl TemplateBuilder {
    /// Makes the template for machines like one that has just booted, unless there is one or it is being made.
    pub fn build_later(self: &Arc<Self>, template_key: TemplateKey) {
        if self.disk_space.refusal().is_some() {
            return;
        }
        let Some(being_made) = self.store.begin(&template_key.compatibility_key) else { return };
        let this = Arc::clone(self);
        self.tasks.spawn(async move {
            let name = being_made.name();
            match this.build(template_key, name).await {
                Ok(bytes) => tracing::info!(name, bytes, "a template was made"),
                Err(error) => tracing::warn!(name, error, "no template was made"),
            }
        });
    }

    async fn build(&self, template_key: TemplateKey, name: &str) -> Result<u64, String> {
        let id = format!("inst-template{name}");
        let _reserved = self.ids.reserve(&id);
        let spec = self.spec(&template_key, &id).map_err(|error| error.to_string())?;
        let saved = match self.layout.vmm.start(&spec).await {
            Err(error) => Err(chain(&error)),
            Ok(machine) => {
                let saving = settle_and_save(&*machine, spec.memory_mib);
                let saved = scratch_machine::in_time(&self.shutdown, saving).await;
                machine.stop().await;
                saved
            }
        };
        scratch_machine::remove_files(&self.layout.home, &id);
        let (saved, store) = (saved?, Arc::clone(&self.store));
        let writing = tokio::task::spawn_blocking(move || {
            let written = store.write(&template_key, saved).map_err(|error| chain(&error))?;
            Ok::<_, String>((written, template_key))
        });
        let (written, template_key) = writing.await.map_err(|error| error.to_string())??;
        self.warm_pool.want(Some(template_key));
        Ok(written)
    }

    /// A machine like another one, with a disk of no content, and where that makes no difference without its root.
    fn spec(&self, template_key: &TemplateKey, id: &str) -> io::Result<MachineSpec> {
        std::fs::create_dir_all(self.store.dir())?;
        let spec = scratch_machine::spec_like(&self.layout.home, &template_key.spec, id)?;
        let disk = std::fs::File::create(&spec.data_disk)?;
        if !self.layout.vmm.capabilities().swaps_disks {
            disk.set_len(template_key.disk_mib << 20)?;
            return Ok(spec);
        }
        disk.set_len(PLACEHOLDER)?;
        Ok(MachineSpec { root_disk: vec![spec.data_disk.clone()], modules: None, ..spec })
    }
}

async fn settle_and_save(machine: &dyn Machine, memory_mib: u32) -> Result<Saved, String> {
    scratch_machine::call_once(machine, &Settle {}).await?;
    let memory = MemoryBuilder::new(u64::from(memory_mib) << 20).map_err(|error| error.to_string())?;
    machine.save(memory).await.map_err(|error| chain(&error))
}
