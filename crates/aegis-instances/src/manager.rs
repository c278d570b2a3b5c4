//! All instances of a daemon: creating, finding, asking.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use aegis_paths::Identity;
use aegis_store::home::Home;
use aegis_store::logs::LogLimits;
use aegis_store::registry::{InstanceRow, Registry};
use aegis_vmm::Vmm;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::actor::{Actor, InstanceRef, Message};
use crate::at_rest::moment;
use crate::at_rest::spares::{self, Spares};
use crate::at_rest::templates::{self, Templates};
use crate::error::InstanceError;
use crate::host_directory::{self, DirectoryError};
use crate::host_disk::{self, DiskSettings, HostDisk};
pub use crate::instance::{InstanceHandle, READY_TIMEOUT};
use crate::kit::Kits;
use crate::lifecycle::{Request, State};
use crate::measures::Measures;
use crate::mounts::Mount;
use crate::network::groups::{Directory, Groups};
use crate::network::resolvers::Resolvers;
use crate::ports::Ingress;
use crate::rest::RestDefaults;
use crate::root::RootDisks;
use crate::secret::SecretValues;
use crate::shown::{self, Shown};
use crate::usage::Usage;
use crate::view::View;
use crate::{now_ms, orphans, recovery};

/// Settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// How long a guest may take to come up.
    pub boot_timeout: Duration,
    /// How much log an instance keeps.
    pub log_limits: LogLimits,
    /// When instances rest that were told nothing else.
    pub rest: RestDefaults,
    /// Most that templates take on disk, bytes; without any room there are none.
    pub templates: u64,
    /// How long a spare machine waits after the last start; with no time at all there are none.
    pub spare: Duration,
    /// What is kept free on the host's disk.
    pub disk: DiskSettings,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            boot_timeout: Duration::from_secs(60),
            log_limits: LogLimits::default(),
            rest: RestDefaults::default(),
            templates: templates::DEFAULT_BUDGET,
            spare: spares::DEFAULT_KEEP,
            disk: DiskSettings::default(),
        }
    }
}

#[derive(Debug, Default)]
struct Table {
    by_id: BTreeMap<String, InstanceRef>,
    by_handle: HashMap<String, String>,
    /// Ids of instances that are being made.
    coming: HashSet<String>,
}

/// An instance that is being made.
#[derive(Debug)]
pub(crate) struct Coming<'a> {
    context: &'a Context,
    id: String,
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        self.context.table.write().unwrap_or_else(PoisonError::into_inner).coming.remove(&self.id);
    }
}

/// Whom instances ask for what they do not have themselves.
#[derive(Debug)]
pub struct Surroundings {
    /// For ports of the host.
    pub ingress: Arc<dyn Ingress>,
    /// For the root disks of images.
    pub roots: Arc<dyn RootDisks>,
    /// For the values of secrets.
    pub secrets: Arc<dyn SecretValues>,
    /// For what kits bring along.
    pub kits: Arc<dyn Kits>,
    /// Program that serves files of the host to a guest, as `PROGRAM serve-files`.
    pub file_server: PathBuf,
    /// Program that is the other end of a guest's card.
    pub gateway: PathBuf,
    /// How the host resolves names; told when that changes.
    pub resolvers: watch::Receiver<Arc<Resolvers>>,
}

/// What all actors share.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) home: Home,
    pub(crate) registry: Registry,
    pub(crate) vmm: Arc<dyn Vmm>,
    pub(crate) config: Config,
    pub(crate) disk: HostDisk,
    /// Directories of the host that guests could write.
    shown: Shown,
    pub(crate) ingress: Arc<dyn Ingress>,
    pub(crate) roots: Arc<dyn RootDisks>,
    pub(crate) secrets: Arc<dyn SecretValues>,
    pub(crate) kits: Arc<dyn Kits>,
    /// Programs of kits that run in guests.
    pub(crate) kit_usage: Arc<Usage>,
    pub(crate) file_server: PathBuf,
    pub(crate) gateway: PathBuf,
    pub(crate) resolvers: watch::Receiver<Arc<Resolvers>>,
    pub(crate) groups: Groups,
    pub(crate) templates: Arc<Templates>,
    pub(crate) spares: Spares,
    pub(crate) measures: Measures,
    /// Machines of stopped instances, of templates that are being made, and the spare one.
    pub(crate) upkeep: TaskTracker,
    /// None of them is wanted any more.
    pub(crate) upkeep_over: CancellationToken,
    /// Told after each change of which instances there are, and which of them are enabled.
    pub(crate) enabled: watch::Sender<()>,
    table: RwLock<Table>,
}

impl Context {
    /// Notes that an instance is being made.
    pub(crate) fn announce(&self, id: &str) -> Coming<'_> {
        self.table.write().unwrap_or_else(PoisonError::into_inner).coming.insert(id.to_owned());
        Coming { context: self, id: id.to_owned() }
    }

    pub(crate) fn forget(&self, id: &str, handle: Option<&str>) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.by_id.remove(id);
        if let Some(handle) = handle {
            table.by_handle.remove(handle);
        }
        drop(table);
        self.groups.forget(id);
        self.enabled.send_replace(());
    }

    /// The instance with this id or handle.
    pub(crate) fn find(&self, name: &str) -> Result<InstanceHandle, InstanceError> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let id = table.by_handle.get(name).map_or(name, String::as_str);
        let reference = table.by_id.get(id).ok_or_else(|| InstanceError::NotFound(name.to_owned()))?;
        Ok(InstanceHandle::new(reference.clone()))
    }

    /// Numbers of ports on the host that belong to other instances, open or not.
    pub(crate) fn ports_of_others(&self, id: &str) -> HashSet<u16> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let others = table.by_id.iter().filter(|(other, _)| *other != id);
        let ports =
            |view: &View| view.endpoints.iter().map(|one| one.mapping.public_port).collect::<Vec<_>>();
        others.flat_map(|(_, reference)| ports(&reference.view.borrow())).collect()
    }

    pub(crate) fn enter(&self, id: &str, handle: Option<&str>, reference: InstanceRef) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = handle {
            table.by_handle.insert(handle.to_owned(), id.to_owned());
        }
        table.by_id.insert(id.to_owned(), reference);
        drop(table);
        self.enabled.send_replace(());
    }
}

/// All instances. Clones share them.
#[derive(Debug, Clone)]
pub struct Instances {
    context: Arc<Context>,
    pub(crate) closing: Arc<watch::Sender<bool>>,
}

/// What became of instances that have been stopped for long: their ids.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Pruned {
    /// Deleted.
    pub deleted: Vec<String>,
    /// Left, because they merely sleep.
    pub skipped: Vec<String>,
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
        surroundings: Surroundings,
        config: Config,
    ) -> Result<Instances, InstanceError> {
        let table = RwLock::default();
        let Surroundings { ingress, roots, secrets, kits, file_server, gateway, resolvers } = surroundings;
        let templates = Arc::new(Templates::new(home.templates(), config.templates));
        moment::sweep(&home.snapshots());
        let context = Arc::new(Context {
            templates,
            spares: Spares::new(config.spare),
            disk: HostDisk::new(home.data(), config.disk),
            shown: Shown::open(shown::place(&home.data())),
            home,
            registry,
            vmm,
            config,
            ingress,
            roots,
            secrets,
            kits,
            kit_usage: Arc::default(),
            file_server,
            gateway,
            resolvers,
            groups: Groups::new(),
            upkeep: TaskTracker::new(),
            upkeep_over: CancellationToken::new(),
            enabled: watch::Sender::new(()),
            measures: Measures::default(),
            table,
        });
        if context.vmm.capabilities().save {
            // Owned by the instances, which wait for it before the daemon ends.
            context.upkeep.spawn(spares::keep(Arc::clone(&context)));
        }
        let instances = Instances { context, closing: Arc::new(watch::Sender::new(false)) };
        let rows = instances.context.registry.all().await?;
        recovery::recover(&instances, rows).await;
        // Those of a version that did not note it.
        instances.list().iter().for_each(|view| instances.note_shown(&view.spec.mounts));
        instances.context.upkeep.spawn(host_disk::watch(instances.clone()));
        Ok(instances)
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// What is counted of all of them together.
    #[must_use]
    pub fn measures(&self) -> &Measures {
        &self.context.measures
    }

    /// Ids of all instances.
    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        self.context.table.read().unwrap_or_else(PoisonError::into_inner).by_id.keys().cloned().collect()
    }

    /// Snapshots of all instances, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<View>> {
        let table = self.context.table.read().unwrap_or_else(PoisonError::into_inner);
        let mut views: Vec<Arc<View>> =
            table.by_id.values().map(|reference| Arc::clone(&reference.view.borrow())).collect();
        views.sort_by(|a, b| (a.created_ms, &a.id).cmp(&(b.created_ms, &b.id)));
        views
    }

    /// The instance with this id or handle.
    ///
    /// # Errors
    /// [`InstanceError::NotFound`].
    pub fn find(&self, name: &str) -> Result<InstanceHandle, InstanceError> {
        self.context.find(name)
    }

    /// Which directory of the host a path names, if an instance may see it.
    ///
    /// # Errors
    /// If there is none, or it may not.
    pub fn name_directory(&self, path: &Path) -> Result<Identity, DirectoryError> {
        host_directory::named(path, &self.context.home)
    }

    /// Notes which directories a guest is about to see for writing.
    pub fn note_shown(&self, mounts: &[Mount]) {
        let writable = mounts.iter().filter(|mount| !mount.read_only);
        self.context.shown.note(writable.filter_map(|mount| mount.identity));
    }

    /// Refuses a symbolic link that was followed to a directory that is named, if a guest may have put it there: `dir` is the
    /// directory that the link is in.
    ///
    /// # Errors
    /// If a guest could write there, or that cannot be found out.
    pub fn check_followed(&self, dir: &Path) -> Result<(), DirectoryError> {
        host_directory::check_followed(dir, &self.context.home, |above| self.context.shown.covers(above))
    }

    /// The groups, and who is in them.
    #[must_use]
    pub fn groups(&self) -> Arc<Directory> {
        self.context.groups.directory()
    }

    /// Opens the ports of all instances. Connections come from here on; on return all are open that can be.
    pub async fn listen(&self) {
        let mailboxes: Vec<_> = {
            let table = self.context.table.read().unwrap_or_else(PoisonError::into_inner);
            table.by_id.values().map(|reference| reference.mailbox.clone()).collect()
        };
        let mut opening = Vec::new();
        for mailbox in mailboxes {
            let (done, opened) = oneshot::channel();
            // One that has gone meanwhile has no ports.
            if mailbox.send(Message::Listen(done)).await.is_ok() {
                opening.push(opened);
            }
        }
        for opened in opening {
            let _gone = opened.await;
        }
    }

    /// Lets an actor run.
    pub(crate) fn launch(&self, actor: Actor, reference: InstanceRef, ephemeral: bool) -> InstanceHandle {
        // Owned by the instance: ends when that is gone, or with the daemon.
        tokio::spawn(actor.run());
        if ephemeral {
            tokio::spawn(orphans::watch(reference.clone()));
        }
        InstanceHandle::new(reference)
    }

    pub(crate) fn enter(&self, row: &InstanceRow, reference: InstanceRef) {
        self.context.enter(&row.id, row.handle.as_deref(), reference);
    }

    /// Name of the root disk that new instances get.
    ///
    /// # Errors
    /// If there is none.
    pub fn default_rootfs(&self) -> Result<String, InstanceError> {
        let path = self.context.home.base_rootfs()?;
        Ok(path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default())
    }

    /// Where an instance's disk is, if it has been booted.
    #[must_use]
    pub fn disk(&self, id: &str) -> PathBuf {
        self.context.home.disk(id)
    }

    /// Tells of each change of which instances there are and which of them are enabled, when lists show it.
    #[must_use]
    pub fn enabled_changes(&self) -> watch::Receiver<()> {
        self.context.enabled.subscribe()
    }

    /// Instances that have a machine.
    #[must_use]
    pub fn live(&self) -> Vec<Arc<View>> {
        let without = [State::Stopped, State::Hibernated];
        self.list().into_iter().filter(|view| !without.contains(&view.state)).collect()
    }

    /// Refuses new instances, ends all machines, and deletes ephemeral instances. Returns when all are stopped.
    pub async fn stop_all(&self) {
        self.closing.send_replace(true);
        let stops = self.list().into_iter().filter_map(|view| {
            let request = if view.spec.ephemeral { Request::Delete } else { Request::DaemonStop };
            let handle = self.find(&view.id).ok()?;
            // All at once: each takes its own time.
            Some(tokio::spawn(async move { handle.request(request).await }))
        });
        for stop in stops.collect::<Vec<_>>() {
            // One that cannot be stopped is found again by the next daemon.
            let _failed = stop.await;
        }
    }

    /// Deletes every instance that has been stopped for at least so long. One that is started meanwhile stays, and so
    /// does one that belongs to a `run`, which deletes it itself. Unless `all` are wanted, one that is enabled and has
    /// ports stays, too: it merely sleeps.
    pub async fn prune(&self, stopped_for_ms: u64, all: bool) -> Pruned {
        let before = now_ms().saturating_sub(i64::try_from(stopped_for_ms).unwrap_or(i64::MAX));
        let mut pruned = Pruned::default();
        for view in self.list() {
            let old = view.stopped_ms.is_some_and(|stopped| stopped <= before);
            if !old || view.state != State::Stopped || view.spec.ephemeral {
                continue;
            }
            if !all && view.enabled && !view.endpoints.is_empty() {
                pruned.skipped.push(view.id.clone());
                continue;
            }
            if let Ok(handle) = self.find(&view.id)
                && handle.request(Request::Prune).await.is_ok()
            {
                pruned.deleted.push(view.id.clone());
            }
        }
        pruned
    }

    /// Deletes an instance whose command was never executed and whose disk nobody has used since its last start failed. It has
    /// nothing of anybody's, and would only keep its name. Returns whether it is gone.
    ///
    /// # Errors
    /// If it cannot be deleted.
    pub async fn give_way(&self, instance: &InstanceHandle) -> Result<bool, InstanceError> {
        let Some(unused) = instance.disk().try_begin() else { return Ok(false) };
        let view = instance.view();
        let disk = self.context.home.disk(&view.id);
        // A copy to it boots a machine, which writes it.
        let written = disk.metadata().and_then(|meta| meta.modified()).map_or(i64::MAX, crate::ms_of);
        drop(unused);
        if !view.never_ran() || view.stopped_ms.is_none_or(|stopped| written > stopped) {
            return Ok(false);
        }
        match instance.request(Request::Prune).await {
            // Somebody has started it meanwhile.
            Err(InstanceError::AlreadyRunning(_)) => Ok(false),
            ended => ended.map(|()| true),
        }
    }

    /// Removes files that belong to no instance.
    pub async fn sweep(&self) {
        // Those that are being made first: meanwhile one of them may become one that is there.
        let coming = self.context.table.read().unwrap_or_else(PoisonError::into_inner).coming.clone();
        let (home, known) = (self.context.home.clone(), coming.into_iter().chain(self.ids()).collect());
        let swept = tokio::task::spawn_blocking(move || aegis_store::sweep::sweep(&home, &known)).await;
        match swept {
            Ok(Ok(removed)) if !removed.is_empty() => tracing::info!(?removed, "stray files removed"),
            Ok(Err(error)) => tracing::warn!(%error, "sweep failed"),
            _ => {}
        }
    }
}
