//! All instances of a daemon: finding, asking, ending.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aegis_lifecycle::event::{Request, State};
use aegis_machines::clock::{now_ms, unix_ms};
use aegis_machines::host_directory::{self, DirectoryError};
use aegis_machines::machines::Machines;
use aegis_machines::network::groups::Directory;
use aegis_machines::writable_directories::{self, WritableDirectories};
use aegis_paths::Identity;
use aegis_spec::mount::Mount;
use tokio::sync::{oneshot, watch};

use crate::actor::Actor;
use crate::deps::ActorDeps;
use crate::error::InstanceError;
use crate::handle::InstanceHandle;
use crate::message::{InstanceRef, Message};
use crate::metrics::Metrics;
use crate::orphans;
use crate::view::View;

/// All instances. Clones share them.
#[derive(Debug, Clone)]
pub struct Instances {
    deps: Arc<ActorDeps>,
    /// Directories of the host that guests could write.
    writable: Arc<WritableDirectories>,
    closing: Arc<watch::Sender<bool>>,
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
    pub(crate) fn new(deps: Arc<ActorDeps>) -> Instances {
        let writable = WritableDirectories::open(writable_directories::path_in(&deps.machines.home().data()));
        Instances { deps, writable: Arc::new(writable), closing: Arc::new(watch::Sender::new(false)) }
    }

    pub(crate) fn deps(&self) -> &Arc<ActorDeps> {
        &self.deps
    }

    /// What makes and keeps their machines.
    #[must_use]
    pub fn machines(&self) -> &Machines {
        &self.deps.machines
    }

    /// Whether all are being ended.
    pub(crate) fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    /// What is counted of all of them together.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.deps.metrics
    }

    /// Ids of all instances.
    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        self.deps.table.ids()
    }

    /// Snapshots of all instances, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<View>> {
        self.deps.table.views()
    }

    /// The instance with this id or handle.
    ///
    /// # Errors
    /// [`InstanceError::NotFound`].
    pub fn find(&self, name: &str) -> Result<InstanceHandle, InstanceError> {
        self.deps.table.find(name)
    }

    /// Which directory of the host a path names, if an instance may see it.
    ///
    /// # Errors
    /// If there is none, or it may not.
    pub fn name_directory(&self, path: &Path) -> Result<Identity, DirectoryError> {
        host_directory::named(path, self.deps.machines.home())
    }

    /// Notes which directories a guest is about to see for writing.
    pub fn note_writable(&self, mounts: &[Mount]) {
        let writable = mounts.iter().filter(|mount| !mount.read_only);
        self.writable.note(writable.filter_map(|mount| mount.identity));
    }

    /// Refuses a symbolic link that was followed to a directory that is named, if a guest may have put it there: `dir` is the
    /// directory that the link is in.
    ///
    /// # Errors
    /// If a guest could write there, or that cannot be found out.
    pub fn check_followed(&self, dir: &Path) -> Result<(), DirectoryError> {
        host_directory::check_followed(dir, self.deps.machines.home(), |above| self.writable.covers(above))
    }

    /// The groups, and who is in them.
    #[must_use]
    pub fn groups(&self) -> Arc<Directory> {
        self.deps.groups.directory()
    }

    /// Opens the ports of all instances. Connections come from here on; on return all are open that can be.
    pub async fn listen(&self) {
        let mut opening = Vec::new();
        for mailbox in self.deps.table.mailboxes() {
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
        tokio::spawn(actor.serve());
        if ephemeral {
            tokio::spawn(orphans::watch(reference.clone()));
        }
        InstanceHandle::new(reference)
    }

    /// Name of the root disk that new instances get.
    ///
    /// # Errors
    /// If there is none.
    pub fn default_rootfs(&self) -> Result<String, InstanceError> {
        let path = self.deps.machines.home().base_rootfs()?;
        Ok(path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default())
    }

    /// Where an instance's disk is, if it has been booted.
    #[must_use]
    pub fn disk(&self, id: &str) -> PathBuf {
        self.deps.machines.disk(id)
    }

    /// Tells of each change of which instances there are and which of them are enabled, when lists show it.
    #[must_use]
    pub fn enabled_changes(&self) -> watch::Receiver<()> {
        self.deps.table.subscribe()
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
            let request = if view.spec.ephemeral { Request::Delete } else { Request::DaemonShutdown };
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
        let Some(unused) = instance.disk().try_acquire() else { return Ok(false) };
        let view = instance.view();
        let disk = self.deps.machines.disk(&view.id);
        // A copy to it boots a machine, which writes it.
        let written = disk.metadata().and_then(|meta| meta.modified()).map_or(i64::MAX, unix_ms);
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
        let reserved = self.deps.machines.ids().all();
        let home = self.deps.machines.home().clone();
        let known = reserved.into_iter().chain(self.ids()).collect();
        let swept = tokio::task::spawn_blocking(move || aegis_store::orphans::sweep(&home, &known)).await;
        match swept {
            Ok(Ok(removed)) if !removed.is_empty() => tracing::info!(?removed, "stray files removed"),
            Ok(Err(error)) => tracing::warn!(%error, "sweep failed"),
            _ => {}
        }
    }
}
