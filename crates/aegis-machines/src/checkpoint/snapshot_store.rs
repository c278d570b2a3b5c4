//! Named snapshots: an instance's disk, kept for good, and its machine where that was running, which is a cache: what
//! cannot go on where the machine stood boots from the same disk.
//!
//! ```text
//!   data/snapshots/NAME/  snapshot.json   what it is of
//!                         disk.ext4       the disk
//!                         machine         devices and memory, if taken
//!                         files-N.nodes   names of files of the host that were open
//! ```

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aegis_guest_protocol::messages::Cause;
use aegis_spec::image::PinnedImage;
use aegis_spec::instance::InstanceSpec;
use aegis_store::disk::DiskError;
use aegis_store::home::Home;
use aegis_store::machine_state::{Key, MachineStateError};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::checkpoint::capture::{self, Checkpoint, SavedMachine};
use crate::checkpoint::memory_file;
use crate::clock::now_ms;
use crate::error_chain::chain;
use crate::secret_values::SecretValues;

/// What it is of.
const NOTE: &str = "snapshot.json";
/// Its machine.
const MACHINE: &str = "machine";
/// Longest note that is read, bytes.
const MOST_NOTE: u64 = 4 << 20;

/// A snapshot as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its name.
    pub name: String,
    /// Id of the instance that it was taken of.
    pub instance: String,
    /// Handle that this one had.
    pub handle: Option<String>,
    /// When it was taken, milliseconds since 1970.
    pub created_ms: i64,
    /// What the disk takes on the host, bytes.
    pub disk_bytes: u64,
    /// What the machine takes on the host, bytes; `None` if it has none, or none any more.
    pub memory_bytes: Option<u64>,
    /// Whether it was taken with its machine, so that what is started from it runs.
    pub running: bool,
}

/// What is stored of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Id of the instance that it is of.
    pub instance: String,
    /// Handle that this one had.
    pub handle: Option<String>,
    /// When it was taken, milliseconds since 1970.
    pub created_ms: i64,
    /// Whether it was taken with its machine.
    pub running: bool,
    /// What the instance was made of.
    pub spec: InstanceSpec,
}

/// What is noted in the file of its machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct MachineNote {
    #[serde(rename = "likeness")]
    compatibility_key: String,
    /// The file with its kernel's modules.
    #[serde(default)]
    modules: Option<String>,
    /// The key that it is sealed with, sealed itself; without one it is not.
    key: Option<String>,
    /// Instance and time of the snapshot that it belongs to.
    of: (String, i64),
}

/// Why there is no such snapshot, or it cannot be kept.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// No snapshot has this name.
    #[error("there is no snapshot {0:?}")]
    Missing(String),
    /// The name of the snapshot is taken.
    #[error("a snapshot with the name {0:?} exists")]
    Exists(String),
    /// Its secrets cannot be sealed.
    #[error("{0}")]
    Secret(String),
    /// Its disk cannot be written.
    #[error("{}", chain(.0))]
    Disk(DiskError),
    /// It cannot be read or written.
    #[error("{0}")]
    Failed(String),
}

fn damaged(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

fn read_note(dir: &Path) -> io::Result<Note> {
    use io::Read;
    let mut text = String::new();
    File::open(dir.join(NOTE))?.take(MOST_NOTE).read_to_string(&mut text)?;
    serde_json::from_str(&text).map_err(damaged)
}

/// The name of the snapshot in this directory.
fn name_of(dir: &Path) -> String {
    dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn describe(dir: &Path, note: &Note) -> Snapshot {
    Snapshot {
        name: name_of(dir),
        instance: note.instance.clone(),
        handle: note.handle.clone(),
        created_ms: note.created_ms,
        disk_bytes: Checkpoint::disk_bytes(dir),
        memory_bytes: dir.join(MACHINE).metadata().ok().map(|meta| meta.len()),
        running: note.running,
    }
}

/// A key for the machine that is kept of an instance with secrets, and what can be stored of it.
fn new_key(secrets: &dyn SecretValues, note: &Note) -> Result<(Option<Key>, Option<String>), SnapshotError> {
    if !note.running || note.spec.secrets.is_empty() {
        return Ok((None, None));
    }
    let key =
        Key::random().ok_or_else(|| SnapshotError::Secret("the system has no random numbers".to_owned()))?;
    let sealed = secrets.seal(&key.to_hex()).map_err(SnapshotError::Secret)?;
    Ok((Some(key), Some(sealed)))
}

/// Writes what belongs to a checkpoint beside its disk, gives its directory this name, and makes all of that last. Blocks.
fn keep(
    checkpoint: Checkpoint,
    name: &Path,
    note: &Note,
    secrets: &dyn SecretValues,
) -> Result<(), SnapshotError> {
    let (key, sealed) = new_key(secrets, note)?;
    checkpoint.settle().map_err(SnapshotError::Disk)?;
    let written = || -> Result<(), MachineStateError> {
        let dir = checkpoint.dir();
        if let Some(saved) = &checkpoint.machine {
            let of = (note.instance.clone(), note.created_ms);
            let (compatibility_key, modules) = (saved.compatibility_key.clone(), saved.modules.clone());
            let machine = MachineNote { compatibility_key, modules, key: sealed, of };
            memory_file::write(&dir.join(MACHINE), &machine, &saved.saved, key.as_ref())?;
        }
        std::fs::write(dir.join(NOTE), serde_json::to_vec_pretty(note).map_err(io::Error::from)?)?;
        File::open(dir.join(NOTE))?.sync_all()?;
        File::open(dir)?.sync_all()?;
        // Nothing is in the way: an empty directory would be replaced, and there is none here.
        std::fs::rename(dir, name)?;
        Ok(name.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())?)
    };
    match written() {
        Ok(()) => {
            drop(checkpoint.keep());
            Ok(())
        }
        Err(MachineStateError::Io(error))
            if matches!(
                error.kind(),
                io::ErrorKind::AlreadyExists
                    | io::ErrorKind::DirectoryNotEmpty
                    | io::ErrorKind::NotADirectory
            ) =>
        {
            Err(SnapshotError::Exists(name_of(name)))
        }
        Err(error) => Err(SnapshotError::Failed(format!("it cannot be written: {}", chain(&error)))),
    }
}

/// The machine of a snapshot, if it is whole and of this one. Blocks.
fn load(dir: &Path, note: &Note, secrets: &dyn SecretValues) -> Result<SavedMachine, MachineStateError> {
    let (machine, mut file) = memory_file::open::<MachineNote>(&dir.join(MACHINE))?;
    if machine.of != (note.instance.clone(), note.created_ms) {
        return Err(MachineStateError::Damaged("it belongs to another snapshot"));
    }
    if let Some(sealed) = &machine.key {
        let key = secrets.unseal(sealed).map_err(io::Error::other)?;
        let key = Key::from_hex(&key).ok_or(MachineStateError::Damaged("its key is none"))?;
        file = file.unseal(key)?;
    }
    Ok(SavedMachine {
        compatibility_key: machine.compatibility_key,
        modules: machine.modules,
        saved: memory_file::load(file)?,
        cause: Cause::Snapshot,
    })
}

/// The snapshots of a home. Clones share them. All functions block.
#[derive(Debug, Clone)]
pub struct SnapshotStore {
    home: Home,
    secrets: Arc<dyn SecretValues>,
}

impl SnapshotStore {
    /// Those in this home; `secrets` seals the keys of machines whose memory holds secrets.
    #[must_use]
    pub fn new(home: Home, secrets: Arc<dyn SecretValues>) -> SnapshotStore {
        SnapshotStore { home, secrets }
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.home.snapshots().join(name)
    }

    /// Whether there is something with this name.
    #[must_use]
    pub fn is_taken(&self, name: &str) -> bool {
        self.dir(name).exists()
    }

    /// The first free name of a snapshot of an instance that is called so.
    #[must_use]
    pub fn free_name(&self, of: &str) -> String {
        let mut names = (1u32..).map(|number| format!("{of}-{number}"));
        names.find(|name| !self.is_taken(name)).unwrap_or_default()
    }

    /// What is stored of all snapshots, and where.
    fn notes(&self) -> impl Iterator<Item = (PathBuf, Note)> {
        let entries = std::fs::read_dir(self.home.snapshots()).into_iter().flatten().flatten();
        // One that is being taken has no name yet.
        let named = entries.map(|entry| entry.path()).filter(|dir| dir.extension().is_none());
        named.filter_map(|dir| read_note(&dir).ok().map(|note| (dir, note)))
    }

    fn note(&self, name: &str) -> Result<(PathBuf, Note), SnapshotError> {
        let dir = self.dir(name);
        let known = !name.contains(['/', '.']) && !name.is_empty();
        let note = if known { read_note(&dir) } else { Err(io::ErrorKind::NotFound.into()) };
        match note {
            Ok(note) => Ok((dir, note)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(SnapshotError::Missing(name.to_owned()))
            }
            Err(error) => Err(SnapshotError::Failed(format!("the snapshot {name} cannot be read: {error}"))),
        }
    }

    /// All snapshots, by name.
    #[must_use]
    pub fn list(&self) -> Vec<Snapshot> {
        let mut all: Vec<Snapshot> = self.notes().map(|(dir, note)| describe(&dir, &note)).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Images that snapshots need, and by the names of which.
    #[must_use]
    pub fn images(&self) -> Vec<(PinnedImage, String)> {
        let image = |(dir, note): (PathBuf, Note)| Some((note.spec.image?, name_of(&dir)));
        self.notes().filter_map(image).collect()
    }

    /// A snapshot.
    ///
    /// # Errors
    /// [`SnapshotError::Missing`].
    pub fn get(&self, name: &str) -> Result<Snapshot, SnapshotError> {
        self.note(name).map(|(dir, note)| describe(&dir, &note))
    }

    /// Deletes a snapshot. What was started from it goes on.
    ///
    /// # Errors
    /// [`SnapshotError::Missing`]; if it cannot be removed.
    pub fn delete(&self, name: &str) -> Result<(), SnapshotError> {
        let (dir, _) = self.note(name)?;
        let failed =
            |error: io::Error| SnapshotError::Failed(format!("the snapshot cannot be removed: {error}"));
        // Gone at once, whole; what is left of it then, a later daemon removes.
        let aside = capture::directory(&self.home).map_err(failed)?;
        std::fs::rename(&dir, &aside).map_err(failed)?;
        std::fs::remove_dir_all(&aside).map_err(failed)
    }

    /// Keeps a checkpoint of an instance under a name.
    ///
    /// # Errors
    /// [`SnapshotError::Exists`]; if it cannot be written.
    pub fn keep(
        &self,
        checkpoint: Checkpoint,
        name: &str,
        (instance, handle): (&str, Option<&str>),
        spec: &InstanceSpec,
    ) -> Result<Snapshot, SnapshotError> {
        let note = Note {
            instance: instance.to_owned(),
            handle: handle.map(str::to_owned),
            created_ms: now_ms(),
            running: checkpoint.machine.is_some(),
            spec: spec.clone(),
        };
        let path = self.dir(name);
        keep(checkpoint, &path, &note, &*self.secrets).map(|()| describe(&path, &note))
    }

    /// What a snapshot kept. A machine that cannot be used is left out.
    ///
    /// # Errors
    /// [`SnapshotError::Missing`]; if it cannot be read.
    pub fn load(&self, name: &str) -> Result<(Checkpoint, Note), SnapshotError> {
        let (dir, note) = self.note(name)?;
        let machine = if note.running {
            load(&dir, &note, &*self.secrets).inspect_err(|error| {
                tracing::warn!(name, %error, "the machine of a snapshot cannot be used; it boots");
            })
        } else {
            Err(MachineStateError::Damaged("it has none"))
        };
        Ok((Checkpoint::kept_in(dir, machine.ok().map(Arc::new)), note))
    }
}
