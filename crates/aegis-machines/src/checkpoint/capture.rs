//! A checkpoint: an instance as it stood at one instant: its disk and, if it ran, its machine. Others go on from there.
//!
//! ```text
//!   guest: write all ── its processes stand still ── machine stands still ── devices, memory, disk ── all go on
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aegis_guest_protocol::messages::{Cause, Freeze, Sync};
use aegis_spec::instance::InstanceSpec;
use aegis_store::disk::{self, DiskError};
use aegis_store::home::Home;
use aegis_vmm::{Machine, MemoryBuilder, Saved};

use crate::boot_timings::Stopwatch;
use crate::checkpoint::memory_file::FileVersion;
use crate::error_chain::chain;
use crate::exports;
use crate::machine_layout::{MachineLayout, modules_of};
use crate::machine_run::{MachineRun, resume};

/// Name of the disk's copy.
const DISK: &str = "disk.ext4";

/// A machine that stood still.
#[derive(Debug)]
pub struct SavedMachine {
    /// What machines must have in common with it to go on from it.
    pub compatibility_key: String,
    /// The file with its kernel's modules.
    pub modules: Option<String>,
    /// Its devices and memory.
    pub saved: Saved,
    /// Why others go on from it.
    pub cause: Cause,
}

/// Where an instance's next machine goes on, in place of booting.
#[derive(Debug)]
pub struct CheckpointSource {
    /// The machine that it goes on from.
    pub machine: Arc<SavedMachine>,
    /// The disk that belongs to that.
    pub disk: FileVersion,
}

/// What was kept of an instant.
#[derive(Debug)]
pub struct Checkpoint {
    /// Holds the disk, and the tables of open files of the host.
    dir: PathBuf,
    /// Whether the directory goes with this.
    temporary: bool,
    /// The machine, if it was kept.
    pub machine: Option<Arc<SavedMachine>>,
}

impl Checkpoint {
    /// What is kept in a directory.
    #[must_use]
    pub fn kept_in(dir: PathBuf, machine: Option<Arc<SavedMachine>>) -> Checkpoint {
        Checkpoint { dir, temporary: false, machine }
    }

    /// Makes an instance's disk, which it does not have yet, and the tables that its machine needs, from those kept
    /// here. Returns where its machine goes on, if one was kept. Blocks.
    ///
    /// # Errors
    /// The system's; what was made is for the caller to remove.
    pub fn place(&self, home: &Home, id: &str) -> Result<Option<CheckpointSource>, DiskError> {
        disk::copy(&self.dir.join(DISK), &home.disk(id))?;
        self.origin(home, id)
    }

    /// The same for an instance whose disk this one replaces, which has no machine. After a crash it has the old one or
    /// the new one. Blocks.
    ///
    /// # Errors
    /// The system's; its disk is the old one then.
    pub fn replace(&self, home: &Home, id: &str) -> Result<Option<CheckpointSource>, DiskError> {
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

    fn origin(&self, home: &Home, id: &str) -> Result<Option<CheckpointSource>, DiskError> {
        let failed = |source: io::Error| DiskError::Io {
            operation: "use the checkpoint in",
            path: self.dir.clone(),
            source,
        };
        let Some(machine) = self.machine.clone() else { return Ok(None) };
        let to = home.run_dir(id).map_err(|error| failed(io::Error::other(error)))?;
        copy_tables(&self.dir, &to).map_err(failed)?;
        let disk = FileVersion::of(&home.disk(id)).map_err(failed)?;
        Ok(Some(CheckpointSource { machine, disk }))
    }

    /// Makes the disk outlive a crash of the host. Blocks.
    ///
    /// # Errors
    /// The system's.
    pub fn settle(&self) -> Result<(), DiskError> {
        disk::settle(&self.dir.join(DISK))
    }

    /// The directory, which is not removed any more.
    #[must_use]
    pub fn keep(mut self) -> PathBuf {
        self.temporary = false;
        std::mem::take(&mut self.dir)
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The disk of an instance that nobody uses meanwhile. Blocks.
    ///
    /// # Errors
    /// The system's.
    pub fn of_disk(home: &Home, id: &str) -> Result<Checkpoint, DiskError> {
        let path = home.snapshots();
        let dir = directory(home).map_err(|source| DiskError::Io {
            operation: "make a directory in",
            path,
            source,
        })?;
        let checkpoint = Checkpoint { dir, temporary: true, machine: None };
        disk::copy(&home.disk(id), &checkpoint.dir.join(DISK))?;
        Ok(checkpoint)
    }

    /// What the disk takes on the host, bytes.
    pub fn disk_bytes(dir: &Path) -> u64 {
        use std::os::unix::fs::MetadataExt;
        // Units of `st_blocks`, see stat(2).
        dir.join(DISK).metadata().map_or(0, |meta| meta.blocks() * 512)
    }
}

impl Drop for Checkpoint {
    fn drop(&mut self) {
        if self.temporary
            && let Err(error) = std::fs::remove_dir_all(&self.dir)
        {
            // The next daemon tries again.
            tracing::warn!(dir = %self.dir.display(), %error, "a checkpoint was not removed");
        }
    }
}

/// Copies all tables of open files in a directory to another one.
/// Longest table of open files, bytes.
const MOST_TABLE: u64 = aegis_workspace::MOST_TABLE;

fn copy_tables(from: &Path, to: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        if exports::is_table(&entry.file_name().to_string_lossy()) {
            // Written by a server that a guest may have taken over.
            if entry.metadata()?.len() > MOST_TABLE {
                let text = format!("{} is longer than any table", entry.path().display());
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            disk::copy(&entry.path(), &to.join(entry.file_name())).map_err(io::Error::other)?;
        }
    }
    Ok(())
}

/// Removes what daemons that are no more have left of temporary checkpoints. Blocks.
pub fn sweep(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().ends_with(aegis_store::orphans::PARTIAL) {
            // The next daemon tries again.
            let _left = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// A new directory for a temporary checkpoint, unless it is renamed.
pub fn directory(home: &Home) -> io::Result<PathBuf> {
    let name = format!("{}{}", ulid::Ulid::generate(), aegis_store::orphans::PARTIAL);
    let dir = home.snapshots().join(name);
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// How an instance is to be taken.
#[derive(Debug, Clone, Copy)]
pub struct TakeOptions {
    /// Why.
    pub cause: Cause,
    /// Whether its machine is wanted, too.
    pub machine: bool,
}

/// Takes a running instance as it stands, and lets it go on. Returns for how long its processes stood still.
///
/// # Errors
/// Why it was not taken. It goes on all the same.
pub async fn take(
    layout: &MachineLayout,
    id: &str,
    of: &InstanceSpec,
    run: &Arc<MachineRun>,
    options: TakeOptions,
) -> Result<(Checkpoint, Duration), String> {
    let machine = run.machine().ok_or("there is no machine")?;
    let session = run.last_session().await.ok_or("its guest cannot be spoken to")?;
    // It is neither put on disk nor ended in good order meanwhile.
    let _exclusive = run.exclusive().await;
    if run.is_cancelled() {
        return Err("it is being ended".to_owned());
    }
    let dir = directory(&layout.home).map_err(|error| error.to_string())?;
    let mut checkpoint = Checkpoint { dir, temporary: true, machine: None };
    // What is left to do while it stands is little.
    let (synced, room) = tokio::join!(session.link().call(&Sync {}), async {
        match options.machine {
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
            stand(layout, id, of, &*machine, room.map(|room| (room, options.cause)), &checkpoint.dir, &watch)
                .await
        }
        Err(error) => Err(error.to_string()),
    };
    let resumed = resume(run).await;
    let stood = begun.elapsed();
    watch.lap("guest goes on");
    tracing::debug!(id, stood = ?watch.timings().steps, "an instance was taken");
    checkpoint.machine = taken?;
    resumed?;
    Ok((checkpoint, stood))
}

/// Lets the machine stand still, and takes it, if there is room for its memory, and its disk. It is for the caller to
/// let it go on.
async fn stand(
    layout: &MachineLayout,
    id: &str,
    of: &InstanceSpec,
    machine: &dyn Machine,
    room: Option<(MemoryBuilder, Cause)>,
    dir: &Path,
    watch: &Stopwatch,
) -> Result<Option<Arc<SavedMachine>>, String> {
    let modules = modules_of(machine);
    let spec = layout.saved_spec(id, of, modules.as_deref()).map_err(|reason| reason.message)?;
    let standing = if let Some((room, cause)) = room {
        let compatibility_key = layout.compatibility_key(&spec)?;
        let saved = machine.save(room).await.map_err(|error| chain(&error))?;
        Some(Arc::new(SavedMachine { compatibility_key, modules, saved, cause }))
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_table_is_copied_with_its_holes_and_none_that_is_longer_than_any() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        std::fs::create_dir(&from).unwrap();
        std::fs::create_dir(&to).unwrap();
        let name = exports::table_name(0);
        let table = std::fs::File::create(from.join(&name)).unwrap();
        table.set_len(MOST_TABLE).unwrap();
        std::fs::write(from.join("else"), "").unwrap();
        copy_tables(&from, &to).unwrap();
        let copy = std::fs::metadata(to.join(&name)).unwrap();
        assert_eq!(copy.len(), MOST_TABLE);
        assert!(copy.blocks() < 1024, "{} blocks of nothing", copy.blocks());
        assert!(!to.join("else").exists());
        table.set_len(MOST_TABLE + 1).unwrap();
        let error = copy_tables(&from, &to).unwrap_err();
        assert!(error.to_string().contains("longer than any table"), "{error}");
    }
}
