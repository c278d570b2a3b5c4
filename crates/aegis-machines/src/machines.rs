//! All that makes, keeps and ends machines, wired together.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aegis_lifecycle::event::ShutdownMode;
use aegis_lifecycle::stop_reason::StopReason;
use aegis_spec::instance::InstanceSpec;
use aegis_store::home::Home;
use aegis_vmm::{Machine, MachineHandle, Vmm};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::boot::Booter;
use crate::boot_order::BootOrder;
use crate::checkpoint::capture::{self, CheckpointSource};
use crate::checkpoint::clone_start::start_clone;
use crate::checkpoint::hibernation::{self, Hibernation};
use crate::checkpoint::snapshot_store::SnapshotStore;
use crate::checkpoint::template_store::{self, Template, TemplateStore};
use crate::disk_space::{DiskSettings, DiskSpace};
use crate::environment::EnvironmentSources;
use crate::helpers::Helpers;
use crate::ids::IdReservations;
use crate::image_disks::ImageDiskProvider;
use crate::kits::Kits;
use crate::machine_factory::MachineFactory;
use crate::machine_layout::MachineLayout;
use crate::machine_run::MachineRun;
use crate::maintenance::Maintenance;
use crate::network::gateway_process::GatewayConfig;
use crate::network::group_broker::GroupMembers;
use crate::network::groups::Directory;
use crate::network::resolvers::Resolvers;
use crate::secret_values::SecretValues;
use crate::teardown;
use crate::template_builder::TemplateBuilder;
use crate::warm_pool::{self, WarmPool, WarmPoolDeps};

/// Settings of machines.
#[derive(Debug, Clone)]
pub struct MachineConfig {
    /// How long a guest may take to come up.
    pub boot_timeout: Duration,
    /// Most that templates take on disk, bytes; without any room there are none.
    pub template_budget: u64,
    /// How long a warm machine waits after the last start; with no time at all there are none.
    pub warm_keep: Duration,
    /// What is kept free on the host's disk.
    pub disk: DiskSettings,
}

impl Default for MachineConfig {
    fn default() -> Self {
        MachineConfig {
            boot_timeout: Duration::from_secs(60),
            template_budget: template_store::DEFAULT_BUDGET,
            warm_keep: warm_pool::DEFAULT_KEEP,
            disk: DiskSettings::default(),
        }
    }
}

/// Whom machines ask for what they do not have themselves.
#[derive(Debug, Clone)]
pub struct MachineServices {
    /// For the root disks of images.
    pub roots: Arc<dyn ImageDiskProvider>,
    /// For the values of secrets.
    pub secrets: Arc<dyn SecretValues>,
    /// For what kits bring along.
    pub kits: Arc<dyn Kits>,
    /// Program that serves files of the host to a guest, as `PROGRAM serve-files`.
    pub file_server: PathBuf,
    /// Program that is the other end of a guest's network interface.
    pub gateway: PathBuf,
    /// How the host resolves names; told when that changes.
    pub resolvers: watch::Receiver<Arc<Resolvers>>,
}

/// The machines of a daemon.
#[derive(Debug)]
pub struct Machines {
    layout: MachineLayout,
    booter: Booter,
    hibernation: Hibernation,
    maintenance: Maintenance,
    snapshots: SnapshotStore,
    ids: IdReservations,
}

impl Machines {
    /// Machines of this home. From here on one is kept warm, where they can be saved.
    #[must_use]
    pub fn new(
        home: Home,
        vmm: Arc<dyn Vmm>,
        services: MachineServices,
        (groups, members): (watch::Receiver<Arc<Directory>>, Arc<dyn GroupMembers>),
        config: &MachineConfig,
    ) -> Machines {
        let MachineServices { roots, secrets, kits, file_server, gateway, resolvers } = services;
        capture::sweep(&home.snapshots());
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let ids = IdReservations::default();
        let layout = MachineLayout { home: home.clone(), vmm, roots };
        let templates = Arc::new(TemplateStore::new(home.templates(), config.template_budget));
        let disk_space = Arc::new(DiskSpace::new(home.data(), config.disk));
        let warm_deps = WarmPoolDeps {
            layout: layout.clone(),
            templates: Arc::clone(&templates),
            disk_space: Arc::clone(&disk_space),
            resolvers: resolvers.clone(),
            ids: ids.clone(),
            shutdown: shutdown.clone(),
        };
        let warm_pool = Arc::new(WarmPool::new(warm_deps, config.warm_keep));
        if layout.vmm.capabilities().save {
            tasks.spawn(Arc::clone(&warm_pool).fill());
        }
        let template_builder = Arc::new(TemplateBuilder {
            layout: layout.clone(),
            store: Arc::clone(&templates),
            warm_pool: Arc::clone(&warm_pool),
            disk_space: Arc::clone(&disk_space),
            ids: ids.clone(),
            tasks: tasks.clone(),
            shutdown: shutdown.clone(),
        });
        let factory = MachineFactory { layout: layout.clone(), disk_space, templates, warm_pool };
        let network = layout.vmm.capabilities().network;
        let gateway = GatewayConfig { program: gateway, resolvers: resolvers.clone(), groups, members };
        let helpers = Helpers { home: home.clone(), file_server, gateway: network.then_some(gateway) };
        let timeout = config.boot_timeout;
        Machines {
            layout,
            hibernation: Hibernation { factory: factory.clone(), helpers: helpers.clone() },
            maintenance: Maintenance {
                factory: factory.clone(),
                helpers: helpers.clone(),
                timeout,
                tasks,
                shutdown,
            },
            snapshots: SnapshotStore::new(home, Arc::clone(&secrets)),
            ids,
            booter: Booter {
                factory,
                helpers,
                template_builder,
                environment: EnvironmentSources::new(secrets, resolvers.clone()),
                kits,
                resolvers,
                timeout,
            },
        }
    }

    /// Boots a machine and executes the command in it.
    ///
    /// # Errors
    /// As of [`Booter::boot`].
    pub async fn boot(&self, order: &BootOrder) -> Result<(), StopReason> {
        self.booter.boot(order).await
    }

    /// Makes a machine that goes on where another one stood.
    ///
    /// # Errors
    /// As of [`start_clone`].
    pub async fn start_clone(&self, order: &BootOrder, source: &CheckpointSource) -> Result<(), String> {
        start_clone(&self.booter.factory, &self.booter.helpers, order, source).await
    }

    /// Ends a machine, and returns when nothing of it is left but the log and the disk.
    pub async fn tear_down(&self, id: &str, run: &Arc<MachineRun>, mode: ShutdownMode) {
        teardown::tear_down(&self.layout.home, id, run, mode).await;
    }

    /// Puts machines on disk, and makes them again from there.
    #[must_use]
    pub fn hibernation(&self) -> &Hibernation {
        &self.hibernation
    }

    /// Machines of stopped instances.
    #[must_use]
    pub fn maintenance(&self) -> &Maintenance {
        &self.maintenance
    }

    /// Named snapshots.
    #[must_use]
    pub fn snapshots(&self) -> &SnapshotStore {
        &self.snapshots
    }

    /// Whether machines are saved here: forked, hibernated, and kept in snapshots with their memory.
    #[must_use]
    pub fn can_save(&self) -> bool {
        self.layout.vmm.capabilities().save
    }

    /// What machines are made from.
    #[must_use]
    pub fn layout(&self) -> &MachineLayout {
        &self.layout
    }

    /// Where everything is kept.
    #[must_use]
    pub fn home(&self) -> &Home {
        &self.layout.home
    }

    /// The host's disk.
    #[must_use]
    pub fn disk_space(&self) -> &Arc<DiskSpace> {
        &self.booter.factory.disk_space
    }

    /// Ids whose files belong to nobody yet.
    #[must_use]
    pub fn ids(&self) -> &IdReservations {
        &self.ids
    }

    /// What is looked up for the environment of commands.
    #[must_use]
    pub fn environment(&self) -> &EnvironmentSources {
        &self.booter.environment
    }

    /// All templates, by name. Blocks.
    #[must_use]
    pub fn templates(&self) -> Vec<Template> {
        let factory = &self.booter.factory;
        let ready = factory.warm_pool.ready().map(|key| template_store::name_of(&key));
        let mut all = factory.templates.list();
        for template in &mut all {
            template.warm = ready.as_ref() == Some(&template.name);
        }
        all
    }

    /// Removes all templates, and returns them. A warm machine goes with them. Blocks.
    #[must_use]
    pub fn prune_templates(&self) -> Vec<Template> {
        let factory = &self.booter.factory;
        factory.warm_pool.want(None);
        factory
            .templates
            .list()
            .into_iter()
            .filter(|template| factory.templates.remove(&template.name))
            .collect()
    }

    /// Ends machines of this home that no record knows: those whose process is not one of these. Returns their names.
    pub async fn end_strays(&self, known: &[i32]) -> Vec<String> {
        self.layout.vmm.end_strays(&self.layout.home.disks(), known).await
    }

    /// Takes over a machine that an earlier daemon started; `None` if it is gone.
    pub async fn recover(&self, id: &str, handle: &MachineHandle) -> Option<Arc<dyn Machine>> {
        match self.layout.vmm.recover(handle).await {
            Ok(machine) => machine,
            Err(error) => {
                tracing::error!(id, %error, "machine not taken over");
                None
            }
        }
    }

    /// Takes over the helpers of such a machine.
    pub fn adopt_helpers(&self, id: &str, spec: &InstanceSpec, run: &MachineRun, machine: &Arc<dyn Machine>) {
        self.booter.helpers.adopt(id, spec, run, machine);
    }

    /// Removes what is on disk of an instance's machine.
    ///
    /// # Errors
    /// The system's.
    pub fn forget_hibernated(&self, id: &str) -> std::io::Result<()> {
        hibernation::forget(&self.layout.home, id)
    }

    /// Where an instance's disk is, if it has been booted.
    #[must_use]
    pub fn disk(&self, id: &str) -> PathBuf {
        self.layout.home.disk(id)
    }
}
