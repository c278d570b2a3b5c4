//! What the use cases work with.

use std::sync::Arc;

use aegis_images::Images;
use aegis_instances::error::InstanceError;
use aegis_instances::handle::{ExecHandle, InstanceHandle};
use aegis_instances::instances::Instances;
use aegis_machines::maintenance::MaintenanceMachine;
use aegis_machines::session::Session;
use aegis_spec::exec::ExecSpec;
use aegis_store::workspaces::Workspaces;
use tokio_util::task::TaskTracker;

use crate::kits::host_kits::HostKits;
use crate::network_choice::NetworkDefaults;
use crate::services::StoredSecrets;

/// The parts that an engine is made of.
#[derive(Debug, Clone)]
pub struct EngineParts {
    /// The instances.
    pub instances: Instances,
    /// Their images.
    pub images: Images,
    /// Their secrets.
    pub secrets: Arc<StoredSecrets>,
    /// Directories that they share.
    pub workspaces: Workspaces,
    /// The kits of this host.
    pub kits: HostKits,
    /// What instances may reach that were told nothing else.
    pub network: NetworkDefaults,
    /// Owns work that goes on when nobody waits for it.
    pub tasks: TaskTracker,
}

/// All use cases. Clones share everything.
#[derive(Debug, Clone)]
pub struct Engine {
    parts: Arc<EngineParts>,
}

impl Engine {
    /// An engine of these parts.
    #[must_use]
    pub fn new(parts: EngineParts) -> Engine {
        Engine { parts: Arc::new(parts) }
    }

    /// The instances.
    #[must_use]
    pub fn instances(&self) -> &Instances {
        &self.parts.instances
    }

    /// Their images.
    #[must_use]
    pub fn images(&self) -> &Images {
        &self.parts.images
    }

    /// Their secrets.
    #[must_use]
    pub fn secrets(&self) -> &Arc<StoredSecrets> {
        &self.parts.secrets
    }

    /// Directories that they share.
    #[must_use]
    pub fn workspaces(&self) -> &Workspaces {
        &self.parts.workspaces
    }

    /// The kits of this host.
    #[must_use]
    pub fn kits(&self) -> &HostKits {
        &self.parts.kits
    }

    /// What instances may reach that were told nothing else.
    #[must_use]
    pub fn network_defaults(&self) -> &NetworkDefaults {
        &self.parts.network
    }

    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.parts.tasks
    }

    /// Executes a process in an instance: one that sleeps is woken for it, and with `at_rest` one that is stopped gets a
    /// machine that does not execute its command.
    ///
    /// # Errors
    /// If the process is not executed.
    pub async fn exec(
        &self,
        instance: &InstanceHandle,
        exec: &ExecSpec,
        at_rest: bool,
    ) -> Result<(ExecHandle, Arc<Session>, Option<MaintenanceMachine>), InstanceError> {
        if at_rest {
            return self.parts.instances.exec_at_rest(instance, exec).await;
        }
        let (process, session) = instance.exec(exec).await?;
        Ok((process, session, None))
    }
}
