//! Taking snapshots of instances, starting others from them, and restoring them.

use std::sync::Arc;
use std::time::Duration;

use aegis_guest_protocol::messages::Cause;
use aegis_lifecycle::event::State;
use aegis_machines::checkpoint::capture::{Checkpoint, TakeOptions};
use aegis_machines::checkpoint::snapshot_store::{Note, Snapshot};

use crate::cancellation::Caller;
use crate::error::InstanceError;
use crate::fork::Sharing;
use crate::handle::InstanceHandle;
use crate::instances::Instances;
use crate::message::Replacement;
use crate::ports;
use crate::view::View;

/// How a snapshot is to be taken.
#[derive(Debug, Clone, Default)]
pub struct Take {
    /// Its name; one is made of the instance's if absent.
    pub name: Option<String>,
    /// Whether the machine is left out.
    pub disk_only: bool,
    /// Whether the values of secrets may be in its memory.
    pub secrets: bool,
}

impl Instances {
    /// Takes a snapshot of an instance; one that rests is woken for it, one that is stopped stays so, and only its disk
    /// is kept. Returns for how long its processes stood still, if it ran.
    ///
    /// # Errors
    /// [`InstanceError::NotCopied`], [`InstanceError::SnapshotExists`]; if it cannot be woken.
    pub async fn take_snapshot(
        &self,
        of: &InstanceHandle,
        take: Take,
    ) -> Result<(Snapshot, Option<Duration>), InstanceError> {
        let (this, of) = (self.clone(), of.clone());
        let caller = Caller::default();
        let _asked = caller.gone_when_dropped();
        // Whoever asked may go away; an instance that stands still goes on all the same.
        let taken = tokio::spawn(async move { this.take_whole(&of, take, &caller).await });
        taken.await.unwrap_or(Err(InstanceError::ShuttingDown))
    }

    async fn take_whole(
        &self,
        of: &InstanceHandle,
        take: Take,
        caller: &Caller,
    ) -> Result<(Snapshot, Option<Duration>), InstanceError> {
        self.check_room()?;
        let view = of.view();
        let machine = !take.disk_only && view.state != State::Stopped;
        if machine && !self.machines().can_save() {
            let text = "this daemon's backend keeps no memory; keep the disk alone, with --disk-only";
            return Err(InstanceError::NotCopied(text.to_owned()));
        }
        let sharing = Sharing { workspace: true, secrets: take.secrets };
        sharing.check(&view.spec, machine)?;
        let snapshots = self.machines().snapshots().clone();
        let name = take.name.unwrap_or_else(|| snapshots.free_name(view.name()));
        if snapshots.is_taken(&name) {
            return Err(InstanceError::SnapshotExists(name));
        }
        let (checkpoint, stood) = self.checkpoint_of(of, &view, machine, caller).await?;
        caller.check()?;
        let keeping = tokio::task::spawn_blocking(move || {
            snapshots.keep(checkpoint, &name, (&view.id, view.handle.as_deref()), &view.spec)
        });
        let kept = keeping.await.map_err(|_| InstanceError::ShuttingDown)??;
        Ok((kept, stood))
    }

    async fn checkpoint_of(
        &self,
        of: &InstanceHandle,
        view: &View,
        machine: bool,
        caller: &Caller,
    ) -> Result<(Checkpoint, Option<Duration>), InstanceError> {
        if view.state == State::Stopped {
            let mut now = of.watch();
            let _in_use = tokio::select! {
                in_use = caller.unless_gone(of.disk().acquire()) => in_use?,
                _ = now.wait_for(|now| now.state != State::Stopped) => {
                    return Err(InstanceError::AlreadyRunning(of.view().state.as_str()));
                }
            };
            let now = of.view();
            if now.replacing {
                return Err(InstanceError::NotCopied("it is just being put back to a snapshot".to_owned()));
            }
            if now.state != State::Stopped {
                return Err(InstanceError::AlreadyRunning(now.state.as_str()));
            }
            let (home, id) = (self.machines().home().clone(), view.id.clone());
            if !home.disk(&id).exists() {
                return Err(InstanceError::NotCopied(
                    "it has never been started, and has no disk yet".to_owned(),
                ));
            }
            let copied = tokio::task::spawn_blocking(move || Checkpoint::of_disk(&home, &id)).await;
            let checkpoint = copied.map_err(|_| InstanceError::ShuttingDown)?.map_err(InstanceError::Disk)?;
            return Ok((checkpoint, None));
        }
        let wanted = TakeOptions { cause: Cause::Snapshot, machine };
        let (checkpoint, stood) = self.take_awake(of, view, wanted, caller).await?;
        Ok((checkpoint, Some(stood)))
    }

    async fn load(&self, name: &str) -> Result<(Checkpoint, Note), InstanceError> {
        let (snapshots, name) = (self.machines().snapshots().clone(), name.to_owned());
        let loaded = tokio::task::spawn_blocking(move || snapshots.load(&name));
        Ok(loaded.await.map_err(|_| InstanceError::ShuttingDown)??)
    }

    /// Creates an instance from a snapshot and starts it: it goes on where that was taken, if its machine was, and boots
    /// otherwise.
    ///
    /// # Errors
    /// [`InstanceError::NoSnapshot`], [`InstanceError::NotCopied`]; as of [`Instances::create`].
    pub async fn start_from(
        &self,
        name: &str,
        handle: Option<String>,
        ports: Vec<ports::PortRequest>,
        workspace: bool,
    ) -> Result<InstanceHandle, InstanceError> {
        let (checkpoint, note) = self.load(name).await?;
        // Who took it has accepted that its secrets are in it.
        Sharing { workspace, secrets: true }.check(&note.spec, checkpoint.machine.is_some())?;
        self.go_on_from(Arc::new(checkpoint), handle, &note.spec, ports).await
    }

    /// Puts the instance that a snapshot was taken of back to where it was then. What it has done since is lost. It runs
    /// afterwards if it did then, and is stopped otherwise. Given up, it does so only if it has begun to.
    ///
    /// # Errors
    /// [`InstanceError::NotCopied`] if its disk is in use, or cannot be replaced;
    /// [`InstanceError::NoSnapshot`]; [`InstanceError::NotFound`] if there is no such instance any more.
    pub async fn restore_snapshot(&self, name: &str) -> Result<InstanceHandle, InstanceError> {
        self.check_room()?;
        let (checkpoint, note) = self.load(name).await?;
        let instance = self.find(&note.instance)?;
        let caller = Caller::default();
        let _asked = caller.gone_when_dropped();
        let (name, runs) = (name.to_owned(), note.running);
        instance.replace(Replacement { name, checkpoint, runs, caller }).await?;
        Ok(instance)
    }
}
