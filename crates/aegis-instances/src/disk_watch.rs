//! Watches the host's disk, and pauses instances that fill it.
//!
//! Below a floor nothing new is begun; below half of it, whatever grows is paused, while there is still room to delete
//! something. [`aegis_store::free_space`] decides about the levels, [`Growth`] about who grows.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aegis_lifecycle::event::State;
use aegis_machines::disk_space::{DiskReport, DiskSpace};
use aegis_machines::host_directory;
use aegis_store::free_space::{Floors, Level, Room, allocated};
use aegis_store::home::Home;
use aegis_store::reserve;

use crate::error::InstanceError;
use crate::handle::InstanceHandle;
use crate::instances::Instances;
use crate::message::Message;
use crate::view::View;

/// What an instance may take on a full disk before it counts as growing, bytes: a log line now and then is no flood.
const MOST_GROWTH: u64 = 1 << 20;
/// Inodes that may go before those who may have taken them are stopped.
const MOST_INODES: u64 = 8;
/// When a reserve is tried again that could not be made.
const AGAIN: Duration = Duration::from_secs(60);
/// When to look again at a file system that does not tell.
const UNKNOWN: Duration = Duration::from_secs(1);

/// A running instance, as it is found on a full disk.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    id: String,
    /// What its disk and what its machine says take, bytes.
    taken: u64,
    /// Whether it may write elsewhere on the same file system.
    shares: bool,
}

/// Who grows on a full disk: compared with how all was when it became full.
#[derive(Debug, Default)]
struct Growth {
    taken: BTreeMap<String, u64>,
    bytes: Option<u64>,
    inodes: Option<u64>,
}

impl Growth {
    /// From how it is while it is not full: the inodes of a small file system are gone from one look to the next.
    fn from(room: &Room) -> Growth {
        Growth { inodes: Some(room.free_inodes), ..Growth::default() }
    }

    /// Those who grow. What is gone and is on nobody's disk was written by somebody who shares a directory, if anybody does.
    fn growing(&mut self, room: &Room, floors: &Floors, seen: &[Seen]) -> Vec<String> {
        let each = MOST_GROWTH.min(floors.bytes / 4 / (seen.len() as u64).max(1)).max(1);
        let mut by = 0_u64;
        let mut growing = Vec::new();
        for one in seen {
            let before = *self.taken.entry(one.id.clone()).or_insert(one.taken);
            let grown = one.taken.saturating_sub(before);
            by = by.saturating_add(grown);
            if grown >= each {
                growing.push(one.id.clone());
            }
        }
        // What was freed meanwhile is taken into account at once.
        let most = |before: Option<u64>, now: u64| before.unwrap_or(now).max(now);
        let (bytes, inodes) = (most(self.bytes, room.free_bytes), most(self.inodes, room.free_inodes));
        (self.bytes, self.inodes) = (Some(bytes), Some(inodes));
        let elsewhere = bytes.saturating_sub(room.free_bytes).saturating_sub(by) >= MOST_GROWTH.max(each)
            // Some file systems count inodes by their free blocks: they matter where they are what is short.
            || (room.free_inodes < floors.inodes / 2
                && inodes.saturating_sub(room.free_inodes) >= MOST_INODES);
        if elsewhere {
            let sharing = seen.iter().filter(|one| one.shares && !growing.contains(&one.id));
            growing.extend(sharing.map(|one| one.id.clone()).collect::<Vec<_>>());
        }
        growing
    }
}

/// Looks at the disk as often as that is called for, until the instances end.
pub(crate) async fn watch(instances: Instances) {
    let disk = Arc::clone(instances.machines().disk_space());
    let shutdown = instances.machines().maintenance().shutdown.clone();
    let mut growth = Growth::default();
    // An earlier daemon may have left some who stand still.
    let (mut level, mut holding, mut reserve_again) = (Level::Ample, true, Instant::now());
    loop {
        let wait = match blocking(&disk, |disk| disk.look()).await.flatten() {
            None => UNKNOWN,
            Some((room, floors)) => {
                let before = std::mem::replace(&mut level, floors.level(&room));
                if level != before {
                    tracing::warn!(?level, ?room, ?floors, "the room on the host's disk has changed");
                }
                match level {
                    Level::Full => {
                        holding = true;
                        stop_growing(&instances, &mut growth, &room, &floors).await;
                    }
                    Level::Low => growth = Growth::from(&room),
                    Level::Ample => {
                        growth = Growth::from(&room);
                        holding = holding && let_go(&instances);
                        let most = floors.bytes.saturating_add(reserve::size(&room));
                        if room.free_bytes >= most && reserve_again <= Instant::now() {
                            reserve_again = Instant::now() + AGAIN;
                            keep_reserve(&disk).await;
                        }
                    }
                }
                floors.look_again(&room)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Asks the file system, which may take its time, without keeping the runtime from other work.
async fn blocking<T: Send + 'static>(
    disk: &Arc<DiskSpace>,
    ask: impl FnOnce(&DiskSpace) -> T + Send + 'static,
) -> Option<T> {
    let disk = Arc::clone(disk);
    // The runtime ends before the daemon does, and no sooner.
    tokio::task::spawn_blocking(move || ask(&disk)).await.ok()
}

async fn stop_growing(instances: &Instances, growth: &mut Growth, room: &Room, floors: &Floors) {
    let running: Vec<_> = instances.list().into_iter().filter(|view| view.state == State::Running).collect();
    let home = instances.machines().home().clone();
    let look = move || running.iter().map(|view| look_at(&home, view)).collect::<Vec<Seen>>();
    let Ok(seen) = tokio::task::spawn_blocking(look).await else { return };
    let (free, inodes) = (room.free_bytes >> 20, room.free_inodes);
    for id in growth.growing(room, floors, &seen) {
        let text = format!(
            "the host's disk is full ({free} MiB and {inodes} inodes are free), and this instance fills it; \
             free some, and then: aegis instance resume"
        );
        // One that has no ear now is told when this looks again.
        if let Ok(instance) = instances.find(&id) {
            instance.tell_now(Message::DiskPressure(Some(text)));
        }
    }
}

fn look_at(home: &Home, view: &View) -> Seen {
    let device = |path: PathBuf| std::fs::metadata(path).ok().map(|meta| meta.dev());
    let ours = device(home.data());
    // What its console and its processes say; how much that is, is up to the guest.
    let said = std::fs::read_dir(home.run_dir_path(&view.id)).into_iter().flatten().flatten();
    let beside = said.map(|entry| allocated(&entry.path())).sum::<u64>();
    let beside = beside.saturating_add(allocated(&home.console(&view.id)));
    let shares = |source: PathBuf| ours.is_some() && device(source) == ours;
    Seen {
        id: view.id.clone(),
        taken: allocated(&home.disk(&view.id)).saturating_add(beside),
        shares: view
            .spec
            .mounts
            .iter()
            .any(|mount| !mount.read_only && shares(host_directory::path_of(&mount.source, home))),
    }
}

/// Tells those who stand still for want of room that there is room. Returns whether there were any.
fn let_go(instances: &Instances) -> bool {
    let held: Vec<_> = instances.list().into_iter().filter(|view| view.held).collect();
    for instance in held.iter().filter_map(|view| instances.find(&view.id).ok()) {
        // One that has no ear now is told when this looks again.
        instance.tell_now(Message::DiskPressure(None));
    }
    !held.is_empty()
}

async fn keep_reserve(disk: &Arc<DiskSpace>) {
    if let Some(error) = blocking(disk, |disk| disk.keep_reserve().err()).await.flatten() {
        tracing::warn!(%error, "no room is kept in reserve");
    }
}

impl Instances {
    /// How the host's disk is; `None` if its file system does not tell.
    #[must_use]
    pub fn disk_report(&self) -> Option<DiskReport> {
        let machines = self.machines();
        let disks = self
            .list()
            .into_iter()
            .map(|view| (view.spec.disk_mib.saturating_mul(1 << 20), allocated(&machines.disk(&view.id))));
        machines.disk_space().report(disks)
    }

    /// Checks that the host's disk has room for something new.
    ///
    /// # Errors
    /// [`InstanceError::NoRoom`].
    pub fn check_room(&self) -> Result<(), InstanceError> {
        self.machines().disk_space().refusal().map_or(Ok(()), |text| Err(InstanceError::NoRoom(text)))
    }

    /// Checks that a disk that somebody asks for could be filled, unless that does not matter.
    ///
    /// # Errors
    /// [`InstanceError::NoRoom`].
    pub fn check_disk(&self, mebibytes: u64) -> Result<(), InstanceError> {
        let text = self.machines().disk_space().overcommitment(mebibytes);
        text.map_or(Ok(()), |text| Err(InstanceError::NoRoom(text)))
    }
}

impl InstanceHandle {
    /// Completes when it stands still because the host's disk is full, with what there is to say of that.
    pub async fn held(&self) -> String {
        let mut views = self.watch();
        let condition = match views.wait_for(|view| view.held).await {
            Ok(view) => view.condition(),
            Err(_) => None,
        };
        match condition {
            Some(text) => text,
            // It is gone, and so is whatever this was asked for.
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FLOORS: Floors = Floors { bytes: 256 << 20, inodes: 64 };

    fn room(free_mib: u64, free_inodes: u64) -> Room {
        Room { total_bytes: 1 << 40, free_bytes: free_mib << 20, total_inodes: 1 << 20, free_inodes }
    }

    fn seen(id: &str, taken_mib: u64, shares: bool) -> Seen {
        Seen { id: id.to_owned(), taken: taken_mib << 20, shares }
    }

    #[test]
    fn only_those_who_grow_are_stopped() {
        let mut growth = Growth::default();
        let before = [seen("filler", 100, false), seen("quiet", 50, false), seen("shares", 50, true)];
        assert!(growth.growing(&room(120, 60), &FLOORS, &before).is_empty());
        let after = [seen("filler", 110, false), seen("quiet", 50, false), seen("shares", 50, true)];
        assert_eq!(growth.growing(&room(110, 60), &FLOORS, &after), ["filler"]);
        // Ten more that are on no disk, or inodes that are on none: somebody writes elsewhere.
        assert_eq!(growth.growing(&room(100, 60), &FLOORS, &after[1..]), ["shares"]);
        let mut growth = Growth::default();
        growth.growing(&room(120, 60), &FLOORS, &before);
        // They are not what is short.
        assert!(growth.growing(&room(120, 40), &FLOORS, &before).is_empty());
        assert_eq!(growth.growing(&room(120, 30), &FLOORS, &before), ["shares"]);
    }

    #[test]
    fn inodes_that_are_gone_at_once_stop_who_shares() {
        let before = [seen("quiet", 50, false), seen("shares", 50, true)];
        let mut growth = Growth::from(&room(900, 500));
        assert_eq!(growth.growing(&room(900, 0), &FLOORS, &before), ["shares"]);
    }

    #[test]
    fn who_grows_a_little_at_a_time_is_stopped_too() {
        let mut growth = Growth::default();
        let grown = |kib: u64| [Seen { taken: kib << 10, ..seen("drip", 0, false) }];
        let stopped: Vec<u64> =
            (0..30).filter(|n| !growth.growing(&room(120, 60), &FLOORS, &grown(n * 64)).is_empty()).collect();
        assert_eq!(stopped.first(), Some(&16));
    }

    proptest! {
        #[test]
        fn nobody_is_stopped_who_does_not_grow_unless_he_shares(
            sizes in proptest::collection::vec((0u64..1 << 40, 0u64..1 << 30, any::<bool>()), 1..10),
            free in 0u64..200, later in 0u64..200,
        ) {
            let look = |after: bool| sizes.iter().enumerate().map(|(n, (taken, more, shares))| {
                Seen { id: n.to_string(), taken: taken + if after { *more } else { 0 }, shares: *shares }
            }).collect::<Vec<_>>();
            let mut growth = Growth::default();
            growth.growing(&room(free, 9), &FLOORS, &look(false));
            let stopped = growth.growing(&room(later, 9), &FLOORS, &look(true));
            for (n, (_, more, shares)) in sizes.iter().enumerate() {
                let is_stopped = stopped.contains(&n.to_string());
                prop_assert!(*more < MOST_GROWTH || is_stopped, "one that grows goes on");
                prop_assert!(!is_stopped || *shares || *more > 0, "one that does not grow is stopped");
            }
        }
    }
}
