//! Opening the instances of a home: what is stored is taken over, and every machine that still runs.

use std::sync::Arc;

use aegis_lifecycle::idle_policy::IdleDefaults;
use aegis_machines::machines::{MachineConfig, MachineServices, Machines};
use aegis_machines::network::group_broker::GroupMembers;
use aegis_machines::network::groups::Groups;
use aegis_registry::Registry;
use aegis_store::home::Home;
use aegis_store::logs::LogLimits;
use aegis_vmm::Vmm;

use crate::deps::ActorDeps;
use crate::disk_watch;
use crate::error::InstanceError;
use crate::instances::Instances;
use crate::metrics::Metrics;
use crate::ports::Ingress;
use crate::recovery;
use crate::table::InstanceTable;

/// Settings.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Settings of machines.
    pub machines: MachineConfig,
    /// How much log an instance keeps.
    pub log_limits: LogLimits,
    /// When instances sleep that were told nothing else.
    pub idle: IdleDefaults,
}

impl Instances {
    /// Takes over everything that is stored, and every machine that still runs.
    ///
    /// # Errors
    /// If the registry cannot be read.
    pub async fn open(
        home: Home,
        registry: Registry,
        vmm: Arc<dyn Vmm>,
        services: MachineServices,
        ingress: Arc<dyn Ingress>,
        config: Config,
    ) -> Result<Instances, InstanceError> {
        let table = Arc::<InstanceTable>::default();
        let groups = Arc::<Groups>::default();
        let members = Arc::clone(&table) as Arc<dyn GroupMembers>;
        let network = (groups.subscribe(), members);
        let deps = ActorDeps {
            machines: Machines::new(home, vmm, services, network, &config.machines),
            registry,
            table,
            groups,
            ingress,
            metrics: Metrics::default(),
            log_limits: config.log_limits,
            idle_defaults: config.idle,
        };
        let instances = Instances::new(Arc::new(deps));
        let rows = instances.deps().registry.all().await?;
        recovery::recover(&instances, rows).await;
        // Those of a version that did not note it.
        instances.list().iter().for_each(|view| instances.note_writable(&view.spec.mounts));
        instances.machines().maintenance().tasks.spawn(disk_watch::watch(instances.clone()));
        Ok(instances)
    }
}
