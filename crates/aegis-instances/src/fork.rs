//! Forks: running instances made of another one as it stands, which share its memory until they write to it.

use std::sync::Arc;
use std::time::Duration;

use aegis_guest_protocol::messages::Cause;
use aegis_lifecycle::event::Request;
use aegis_machines::checkpoint::capture::{self, Checkpoint, TakeOptions};
use aegis_spec::instance::InstanceSpec;
use aegis_store::disk;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::cancellation::Caller;
use crate::error::InstanceError;
use crate::handle::InstanceHandle;
use crate::instances::Instances;
use crate::ports;
use crate::view::View;

/// Most children of one fork.
pub const MOST_CHILDREN: u32 = 256;
/// How many children are started at once, per processor: one that waits for its guest leaves room for another.
const AT_ONCE: usize = 2;

/// What its user accepts that copies of an instance have in common with it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sharing {
    /// The directories of the host that it sees.
    pub workspace: bool,
    /// The values of its secrets, which are in its memory.
    pub secrets: bool,
}

impl Sharing {
    /// Whether an instance may be copied, with its memory or without.
    pub(crate) fn check(self, of: &InstanceSpec, memory: bool) -> Result<(), InstanceError> {
        if memory && !of.secrets.is_empty() && !self.secrets {
            return Err(InstanceError::NotShared(
                "its memory holds secrets, which the copy would have, too".to_owned(),
            ));
        }
        match of.mounts.first() {
            Some(mount) if !self.workspace => Err(InstanceError::NotShared(format!(
                "it sees a directory of this host at {}, which both would write to",
                mount.at
            ))),
            _ => Ok(()),
        }
    }
}

/// What is to be made of an instance.
#[derive(Debug, Clone)]
pub struct Fork {
    /// How many children.
    pub count: u32,
    /// What their handles begin with, a number follows; without one they are called after their parent.
    pub prefix: Option<String>,
    /// Ports that each of them has.
    pub ports: Vec<ports::PortRequest>,
    /// What they may share.
    pub sharing: Sharing,
}

/// Children, and what they cost.
#[derive(Debug)]
pub struct Forked {
    /// The children, all of them running.
    pub children: Vec<InstanceHandle>,
    /// For how long the processes of their parent stood still.
    pub stood: Duration,
}

/// Handles that begin like this and are free.
fn free_handles(prefix: &str, count: u32, is_taken: impl Fn(&str) -> bool) -> Vec<String> {
    let all = (1u32..).map(|number| format!("{prefix}-{number}"));
    all.filter(|handle| !is_taken(handle)).take(count as usize).collect()
}

impl Instances {
    /// Forks an instance, waking it for that if need be: all children run when this returns, or none is left.
    ///
    /// # Errors
    /// [`InstanceError::NotShared`] for what is not to be shared; as of [`Instances::create`].
    pub async fn fork(&self, parent: &InstanceHandle, fork: Fork) -> Result<Forked, InstanceError> {
        let (this, parent) = (self.clone(), parent.clone());
        let caller = Caller::default();
        let _asked = caller.gone_when_dropped();
        // Whoever asked may go away; a parent that stands still goes on all the same.
        let forked = tokio::spawn(async move { this.fork_whole(&parent, &fork, &caller).await });
        forked.await.unwrap_or(Err(InstanceError::ShuttingDown))
    }

    async fn fork_whole(
        &self,
        parent: &InstanceHandle,
        fork: &Fork,
        caller: &Caller,
    ) -> Result<Forked, InstanceError> {
        self.check_room()?;
        if !self.machines().can_save() {
            let text = "this daemon's backend keeps no memory; start instances from a snapshot of its disk instead \
                        (aegis snapshot create --disk-only, aegis instance start --from)";
            return Err(InstanceError::NotCopied(text.to_owned()));
        }
        let view = parent.view();
        fork.sharing.check(&view.spec, true)?;
        let wanted = TakeOptions { cause: Cause::Fork, machine: true };
        let (checkpoint, stood) = self.take_awake(parent, &view, wanted, caller).await?;
        caller.check()?;
        let prefix = fork.prefix.as_ref().or(view.handle.as_ref());
        let handles: Vec<Option<String>> = match prefix {
            Some(prefix) => {
                let taken = |handle: &str| self.find(handle).is_ok();
                free_handles(prefix, fork.count, taken).into_iter().map(Some).collect()
            }
            None => vec![None; fork.count as usize],
        };
        let children = self.bear(Arc::new(checkpoint), &view.spec, handles, &fork.ports).await?;
        if let Err(error) = caller.check() {
            // Nobody knows of them.
            delete_all(children).await;
            return Err(error);
        }
        Ok(Forked { children, stood })
    }

    async fn bear(
        &self,
        checkpoint: Arc<Checkpoint>,
        spec: &InstanceSpec,
        handles: Vec<Option<String>>,
        ports: &[ports::PortRequest],
    ) -> Result<Vec<InstanceHandle>, InstanceError> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let room = Arc::new(Semaphore::new(processors * AT_ONCE));
        let mut bearing = JoinSet::new();
        for (index, handle) in handles.into_iter().enumerate() {
            let (this, checkpoint, room) = (self.clone(), Arc::clone(&checkpoint), Arc::clone(&room));
            let (spec, ports) = (spec.clone(), ports.to_vec());
            bearing.spawn(async move {
                let _room = room.acquire_owned().await;
                let child = this.go_on_from(checkpoint, handle, &spec, ports).await;
                (index, child)
            });
        }
        drop(checkpoint);
        let mut children = Vec::new();
        let mut failure = None;
        while let Some(born) = bearing.join_next().await {
            match born {
                Ok((index, Ok(child))) => children.push((index, child)),
                Ok((_, Err(error))) => failure = Some(error),
                Err(_) => failure = Some(InstanceError::ShuttingDown),
            }
        }
        children.sort_by_key(|(index, _)| *index);
        let children: Vec<InstanceHandle> = children.into_iter().map(|(_, child)| child).collect();
        let Some(failure) = failure else { return Ok(children) };
        delete_all(children).await;
        Err(failure)
    }

    /// Takes an instance as it stands, waking it for that if need be, and lets it go on, unless that is given up before.
    /// Returns for how long its processes stood still.
    pub(crate) async fn take_awake(
        &self,
        of: &InstanceHandle,
        view: &View,
        options: TakeOptions,
        caller: &Caller,
    ) -> Result<(Checkpoint, Duration), InstanceError> {
        let (_usage, _session) = caller.unless_gone(of.awake()).await??;
        let run = of.run().ok_or(InstanceError::Stopped)?;
        let taken = capture::take(self.machines().layout(), &view.id, &view.spec, &run, options).await;
        taken.map_err(InstanceError::Refused)
    }

    /// Creates an instance that goes on from a checkpoint of another one, and starts it.
    pub(crate) async fn go_on_from(
        &self,
        checkpoint: Arc<Checkpoint>,
        handle: Option<String>,
        spec: &InstanceSpec,
        ports: Vec<ports::PortRequest>,
    ) -> Result<InstanceHandle, InstanceError> {
        let groups = spec.network.groups.iter().map(|place| place.group.clone()).collect();
        let spec = InstanceSpec { ephemeral: false, ..spec.clone() };
        let child = self.create_from(handle, spec, ports, groups, Some(checkpoint)).await?;
        let path = self.machines().disk(&child.view().id);
        let settled = tokio::task::spawn_blocking(move || disk::settle(&path));
        // Somebody may have come to its ports before this.
        let started = child.request(Request::Wake).await;
        let settled = settled.await.map_err(|_| InstanceError::ShuttingDown);
        match started.and(settled).and_then(|settled| settled.map_err(InstanceError::Disk)) {
            Ok(()) => Ok(child),
            Err(error) => {
                // One that cannot be deleted is listed, and can be deleted by hand.
                let _left = child.request(Request::Delete).await;
                Err(error)
            }
        }
    }
}

async fn delete_all(children: Vec<InstanceHandle>) {
    for child in children {
        // One that cannot be deleted is listed, and can be deleted by hand.
        let _left = child.request(Request::Delete).await;
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;
    use aegis_spec::mount::{Mount, Source};
    use aegis_spec::sample::sample;

    #[test]
    fn secrets_and_directories_of_the_host_are_shared_only_where_that_is_accepted() {
        let secrets = InstanceSpec { secrets: vec!["KEY".into()], ..sample() };
        let mount = Mount {
            source: Source::Path(PathBuf::from("/x")),
            at: "/workspace".into(),
            read_only: false,
            limit: None,
            identity: None,
        };
        let mounts = InstanceSpec { mounts: vec![mount], ..sample() };
        let (none, all) = (Sharing::default(), Sharing { workspace: true, secrets: true });
        assert!(none.check(&sample(), true).is_ok());
        assert!(none.check(&secrets, true).is_err() && all.check(&secrets, true).is_ok());
        // Without its memory nobody gets them.
        assert!(none.check(&secrets, false).is_ok());
        assert!(none.check(&mounts, false).is_err() && all.check(&mounts, true).is_ok());
    }

    proptest! {
        #[test]
        fn children_get_free_handles_in_order(taken in proptest::collection::hash_set(1u32..20, 0..15), count in 1u32..10) {
            let taken: std::collections::HashSet<String> = taken.into_iter().map(|n| format!("web-{n}")).collect();
            let handles = free_handles("web", count, |handle| taken.contains(handle));
            prop_assert_eq!(handles.len(), count as usize);
            prop_assert!(handles.iter().all(|handle| !taken.contains(handle)));
            let numbers: Vec<u32> = handles.iter().map(|handle| handle[4..].parse().unwrap()).collect();
            prop_assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
}
