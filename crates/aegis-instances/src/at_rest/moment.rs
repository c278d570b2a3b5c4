//! An instance as it stood at one instant: its disk and, if it ran, its machine. Others go on from there.
//!
//! ```text
//!   guest: write all ── its processes stand still ── machine stands still ── devices, memory, disk ── all go on
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aegis_guest_protocol::messages::{Cause, Freeze, Sync};
use aegis_store::disk::{self, DiskError};
use aegis_store::home::Home;
use aegis_vmm::{Draft, Machine, Saved};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::at_rest::Version;
use crate::error::{InstanceError, chain};
use crate::machine::boot;
use crate::machine::live::{Live, resume};
use crate::machine::timings::Stopwatch;
use crate::manager::{Context, InstanceHandle, Instances};
use crate::mounts;
use crate::spec::InstanceSpec;
use crate::view::View;

/// Name of the disk's copy.
const DISK: &str = "disk.ext4";

/// A machine that stood still.
#[derive(Debug)]
pub(crate) struct Standing {
    /// What machines must have in common with it to go on from it.
    pub(crate) likeness: String,
    /// The file with its modules.
    pub(crate) modules: Option<String>,
    /// The machine.
    pub(crate) machine: Saved,
    /// Why others go on from it.
    pub(crate) cause: Cause,
}

/// Where an instance's next machine goes on, in place of booting.
#[derive(Debug)]
pub(crate) struct Origin {
    /// The machine that it goes on from.
    pub(crate) standing: Arc<Standing>,
    /// The disk that belongs to that.
    pub(crate) disk: Version,
}

/// What was kept of an instant.
#[derive(Debug)]
pub(crate) struct Moment {
    /// Holds the disk, and the tables of open files of the host.
    dir: PathBuf,
    /// Whether the directory goes with this.
    passing: bool,
    /// The machine, if it was kept.
    pub(crate) machine: Option<Arc<Standing>>,
}

impl Moment {
    /// What is kept in a directory.
    pub(crate) fn kept_in(dir: PathBuf, machine: Option<Arc<Standing>>) -> Moment {
        Moment { dir, passing: false, machine }
    }

    /// Makes an instance's disk, which it does not have yet, and the tables that its machine needs, from those kept
    /// here. Returns where its machine goes on, if one was kept. Blocks.
    ///
    /// # Errors
    /// The system's; what was made is for the caller to remove.
    pub(crate) fn place(&self, home: &Home, id: &str) -> Result<Option<Origin>, DiskError> {
        disk::copy(&self.dir.join(DISK), &home.disk(id))?;
        self.origin(home, id)
    }

    /// The same for an instance whose disk this one replaces, which has no machine. After a crash it has the old one or
    /// the new one. Blocks.
    ///
    /// # Errors
    /// The system's; its disk is the old one then.
    pub(crate) fn replace(&self, home: &Home, id: &str) -> Result<Option<Origin>, DiskError> {
        let (path, next) = (home.disk(id), home.disk(id).with_extension("next"));
        let failed = |source| DiskError::Io { operation: "replace", path: path.clone(), source };
        match std::fs::remove_file(&next) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        disk::copy(&self.dir.join(DISK), &next)?;
        disk::settle(&next)?;
        std::fs::rename(&next, &path).map_err(failed)?;
        self.origin(home, id)
    }

    fn origin(&self, home: &Home, id: &str) -> Result<Option<Origin>, DiskError> {
        let failed = |source: io::Error| DiskError::Io {
            operation: "use the moment in",
            path: self.dir.clone(),
            source,
        };
        let Some(standing) = self.machine.clone() else { return Ok(None) };
        let to = home.run_dir(id).map_err(|error| failed(io::Error::other(error)))?;
        copy_tables(&self.dir, &to).map_err(failed)?;
        let disk = Version::of(&home.disk(id)).map_err(failed)?;
        Ok(Some(Origin { standing, disk }))
    }

    /// Makes the disk outlive a crash of the host. Blocks.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn settle(&self) -> Result<(), DiskError> {
        disk::settle(&self.dir.join(DISK))
    }

    /// The directory, which is not removed any more.
    pub(crate) fn keep(mut self) -> PathBuf {
        self.passing = false;
        std::mem::take(&mut self.dir)
    }

    /// The directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The disk of an instance that nobody uses meanwhile. Blocks.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn of_disk(home: &Home, id: &str) -> Result<Moment, DiskError> {
        let path = home.snapshots();
        let dir = directory(home).map_err(|source| DiskError::Io {
            operation: "make a directory in",
            path,
            source,
        })?;
        let moment = Moment { dir, passing: true, machine: None };
        disk::copy(&home.disk(id), &moment.dir.join(DISK))?;
        Ok(moment)
    }

    /// What the disk takes on the host, bytes.
    pub(crate) fn disk_bytes(dir: &Path) -> u64 {
        use std::os::unix::fs::MetadataExt;
        // Units of `st_blocks`, see stat(2).
        dir.join(DISK).metadata().map_or(0, |meta| meta.blocks() * 512)
    }
}

impl Drop for Moment {
    fn drop(&mut self) {
        if self.passing
            && let Err(error) = std::fs::remove_dir_all(&self.dir)
        {
            // The next daemon tries again.
            tracing::warn!(dir = %self.dir.display(), %error, "a moment was not removed");
        }
    }
}

/// Copies all tables of open files in a directory to another one.
fn copy_tables(from: &Path, to: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        if mounts::is_table(&entry.file_name().to_string_lossy()) {
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// Removes what daemons that are no more have left of moments that were to pass. Blocks.
pub(crate) fn sweep(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().ends_with(aegis_store::sweep::PARTIAL) {
            // The next daemon tries again.
            let _left = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// A new directory for a moment that passes, unless it is renamed.
pub(crate) fn directory(home: &Home) -> io::Result<PathBuf> {
    let name = format!("{}{}", ulid::Ulid::generate(), aegis_store::sweep::PARTIAL);
    let dir = home.snapshots().join(name);
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// Whether somebody still waits for what he asked for. What has not begun when he goes does not begin.
#[derive(Debug, Clone, Default)]
pub(crate) struct GivenUp(CancellationToken);

impl GivenUp {
    /// Held by whoever waits.
    pub(crate) fn when_dropped(&self) -> DropGuard {
        self.0.clone().drop_guard()
    }

    /// Does something, unless he goes before it is done.
    ///
    /// # Errors
    /// If he does.
    pub(crate) async fn unless<T>(&self, work: impl Future<Output = T>) -> Result<T, InstanceError> {
        tokio::select! {
            biased;
            () = self.0.cancelled() => Err(gone()),
            done = work => Ok(done),
        }
    }

    /// Whether he is still there.
    ///
    /// # Errors
    /// If he is not.
    pub(crate) fn check(&self) -> Result<(), InstanceError> {
        if self.0.is_cancelled() { Err(gone()) } else { Ok(()) }
    }
}

fn gone() -> InstanceError {
    InstanceError::NotCopied("whoever asked for it has gone".to_owned())
}

/// How an instance is to be taken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// Why.
    pub(crate) cause: Cause,
    /// Whether its machine is wanted, too.
    pub(crate) machine: bool,
}

impl Instances {
    /// Takes an instance as it stands, waking it for that if need be, and lets it go on, unless that is given up before.
    /// Returns for how long its processes stood still.
    pub(crate) async fn take_awake(
        &self,
        of: &InstanceHandle,
        view: &View,
        wanted: Wanted,
        given_up: &GivenUp,
    ) -> Result<(Moment, Duration), InstanceError> {
        let (_stay, _session) = given_up.unless(of.awake()).await??;
        let live = of.live().ok_or(InstanceError::Stopped)?;
        let taken = take(self.context(), &view.id, &view.spec, &live, wanted).await;
        taken.map_err(InstanceError::Refused)
    }
}

/// Takes a running instance as it stands, and lets it go on. Returns for how long its processes stood still.
async fn take(
    context: &Arc<Context>,
    id: &str,
    of: &InstanceSpec,
    live: &Arc<Live>,
    wanted: Wanted,
) -> Result<(Moment, Duration), String> {
    let machine = live.machine().ok_or("there is no machine")?;
    let session = live.session().ok_or("its guest cannot be spoken to")?;
    // It is neither put on disk nor ended in good order meanwhile.
    let _here = live.on_its_way().await;
    if live.is_cancelled() {
        return Err("it is being ended".to_owned());
    }
    let dir = directory(&context.home).map_err(|error| error.to_string())?;
    let mut moment = Moment { dir, passing: true, machine: None };
    // What is left to do while it stands is little.
    let (synced, room) = tokio::join!(session.link().call(&Sync {}), async {
        match wanted.machine {
            true => machine.reserve(of.memory_mib).await.map(Some),
            false => Ok(None),
        }
    });
    synced.map_err(|error| error.to_string())?;
    let room = room.map_err(|error| chain(&error))?;
    let watch = Stopwatch::start();
    let begun = Instant::now();
    let frozen = session.link().call(&Freeze { sync: true }).await;
    let taken = match frozen {
        Ok(_) => {
            watch.lap("guest stands");
            stand(context, id, of, &*machine, room.map(|room| (room, wanted.cause)), &moment.dir, &watch)
                .await
        }
        Err(error) => Err(error.to_string()),
    };
    let resumed = resume(live).await;
    let stood = begun.elapsed();
    watch.lap("guest goes on");
    tracing::debug!(id, stood = ?watch.timings().steps, "an instance was taken");
    moment.machine = taken?;
    resumed?;
    Ok((moment, stood))
}

/// Lets the machine stand still, and takes it, if there is room for its memory, and its disk. It is for the caller to
/// let it go on.
async fn stand(
    context: &Arc<Context>,
    id: &str,
    of: &InstanceSpec,
    machine: &dyn Machine,
    room: Option<(Draft, Cause)>,
    dir: &Path,
    watch: &Stopwatch,
) -> Result<Option<Arc<Standing>>, String> {
    let modules = boot::modules_of(machine);
    let spec = boot::standing_spec(context, id, of, modules.as_deref()).map_err(|reason| reason.message)?;
    let standing = if let Some((room, cause)) = room {
        let likeness = context.vmm.likeness(&spec).ok_or("this machine is like no other")?;
        let machine = machine.save(room).await.map_err(|error| chain(&error))?;
        Some(Arc::new(Standing { likeness, modules, machine, cause }))
    } else {
        machine.pause().await.map_err(|error| chain(&error))?;
        None
    };
    watch.lap("machine taken");
    let (run_dir, disk, dir) = (spec.run_dir, spec.data_disk, dir.to_owned());
    let copying = tokio::task::spawn_blocking(move || {
        disk::copy(&disk, &dir.join(DISK)).map_err(|error| chain(&error))?;
        copy_tables(&run_dir, &dir).map_err(|error| error.to_string())
    });
    copying.await.map_err(|error| error.to_string())??;
    watch.lap("disk taken");
    Ok(standing)
}
