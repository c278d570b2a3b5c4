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
use std::time::Duration;

use aegis_guest_protocol::messages::Cause;
use aegis_store::saved::{Key, SavedError};
use serde::{Deserialize, Serialize};

use crate::actor::replace::Replacement;
use crate::at_rest;
use crate::at_rest::fork::Sharing;
use crate::at_rest::moment::{self, GivenUp, Moment, Standing};
use crate::error::{InstanceError, chain};
use crate::lifecycle::State;
use crate::manager::{InstanceHandle, Instances};
use crate::now_ms;
use crate::ports;
use crate::root::PinnedImage;
use crate::secret::SecretValues;
use crate::spec::InstanceSpec;
use crate::view::View;

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
struct Note {
    instance: String,
    handle: Option<String>,
    created_ms: i64,
    running: bool,
    spec: InstanceSpec,
}

/// What is noted in the file of its machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct MachineNote {
    likeness: String,
    /// The file with its modules.
    #[serde(default)]
    modules: Option<String>,
    /// The key that it is sealed with, sealed itself; without one it is not.
    key: Option<String>,
    /// Instance and time of the snapshot that it belongs to.
    of: (String, i64),
}

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
        disk_bytes: Moment::disk_bytes(dir),
        memory_bytes: dir.join(MACHINE).metadata().ok().map(|meta| meta.len()),
        running: note.running,
    }
}

/// A key for the machine that is kept of an instance with secrets, and what can be stored of it.
fn new_key(secrets: &dyn SecretValues, note: &Note) -> Result<(Option<Key>, Option<String>), InstanceError> {
    if !note.running || note.spec.secrets.is_empty() {
        return Ok((None, None));
    }
    let key =
        Key::random().ok_or_else(|| InstanceError::Secret("the system has no random numbers".to_owned()))?;
    let sealed = secrets.seal(&key.to_hex()).map_err(InstanceError::Secret)?;
    Ok((Some(key), Some(sealed)))
}

/// Writes what belongs to a moment beside its disk, gives its directory this name, and makes all of that last. Blocks.
fn keep(moment: Moment, name: &Path, note: &Note, secrets: &dyn SecretValues) -> Result<(), InstanceError> {
    let (key, sealed) = new_key(secrets, note)?;
    moment.settle().map_err(InstanceError::Disk)?;
    let written = || -> Result<(), SavedError> {
        let dir = moment.dir();
        if let Some(standing) = &moment.machine {
            let of = (note.instance.clone(), note.created_ms);
            let (likeness, modules) = (standing.likeness.clone(), standing.modules.clone());
            let machine = MachineNote { likeness, modules, key: sealed, of };
            at_rest::write(&dir.join(MACHINE), &machine, &standing.machine, key.as_ref())?;
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
            drop(moment.keep());
            Ok(())
        }
        Err(SavedError::Io(error))
            if matches!(
                error.kind(),
                io::ErrorKind::AlreadyExists
                    | io::ErrorKind::DirectoryNotEmpty
                    | io::ErrorKind::NotADirectory
            ) =>
        {
            Err(InstanceError::SnapshotExists(name_of(name)))
        }
        Err(error) => Err(InstanceError::NotCopied(format!("it cannot be written: {}", chain(&error)))),
    }
}

/// The machine of a snapshot, if it is whole and of this one. Blocks.
fn load(dir: &Path, note: &Note, secrets: &dyn SecretValues) -> Result<Standing, SavedError> {
    let (machine, mut file) = at_rest::open::<MachineNote>(&dir.join(MACHINE))?;
    if machine.of != (note.instance.clone(), note.created_ms) {
        return Err(SavedError::Damaged("it belongs to another snapshot"));
    }
    if let Some(sealed) = &machine.key {
        let key = secrets.unseal(sealed).map_err(io::Error::other)?;
        let key = Key::from_hex(&key).ok_or(SavedError::Damaged("its key is none"))?;
        file = file.unseal(key)?;
    }
    let (likeness, modules) = (machine.likeness, machine.modules);
    Ok(Standing { likeness, modules, machine: at_rest::load(file)?, cause: Cause::Snapshot })
}

/// The first free name of a snapshot of an instance that is called so.
fn free_name(dir: &Path, of: &str) -> String {
    let names = (1u32..).map(|number| format!("{of}-{number}"));
    names.into_iter().find(|name| !dir.join(name).exists()).unwrap_or_default()
}

impl Instances {
    fn snapshot_dir(&self, name: &str) -> PathBuf {
        self.context().home.snapshots().join(name)
    }

    /// What is stored of all snapshots, and where.
    fn snapshot_notes(&self) -> impl Iterator<Item = (PathBuf, Note)> {
        let entries = std::fs::read_dir(self.context().home.snapshots()).into_iter().flatten().flatten();
        // One that is being taken has no name yet.
        let named = entries.map(|entry| entry.path()).filter(|dir| dir.extension().is_none());
        named.filter_map(|dir| read_note(&dir).ok().map(|note| (dir, note)))
    }

    /// All snapshots, by name. Blocks.
    #[must_use]
    pub fn snapshots(&self) -> Vec<Snapshot> {
        let mut all: Vec<Snapshot> = self.snapshot_notes().map(|(dir, note)| describe(&dir, &note)).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Images that snapshots need, and by the names of which. Blocks.
    #[must_use]
    pub fn images_of_snapshots(&self) -> Vec<(PinnedImage, String)> {
        let image = |(dir, note): (PathBuf, Note)| Some((note.spec.image?, name_of(&dir)));
        self.snapshot_notes().filter_map(image).collect()
    }

    fn snapshot_note(&self, name: &str) -> Result<(PathBuf, Note), InstanceError> {
        let dir = self.snapshot_dir(name);
        let known = !name.contains(['/', '.']) && !name.is_empty();
        let note = if known { read_note(&dir) } else { Err(io::ErrorKind::NotFound.into()) };
        match note {
            Ok(note) => Ok((dir, note)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(InstanceError::NoSnapshot(name.to_owned()))
            }
            Err(error) => {
                Err(InstanceError::NotCopied(format!("the snapshot {name} cannot be read: {error}")))
            }
        }
    }

    /// A snapshot. Blocks.
    ///
    /// # Errors
    /// [`InstanceError::NoSnapshot`].
    pub fn snapshot(&self, name: &str) -> Result<Snapshot, InstanceError> {
        self.snapshot_note(name).map(|(dir, note)| describe(&dir, &note))
    }

    /// Deletes a snapshot. What was started from it goes on. Blocks.
    ///
    /// # Errors
    /// [`InstanceError::NoSnapshot`]; if it cannot be removed.
    pub fn delete_snapshot(&self, name: &str) -> Result<(), InstanceError> {
        let (dir, _) = self.snapshot_note(name)?;
        let failed =
            |error: io::Error| InstanceError::NotCopied(format!("the snapshot cannot be removed: {error}"));
        // Gone at once, whole; what is left of it then, a later daemon removes.
        let aside = moment::directory(&self.context().home).map_err(failed)?;
        std::fs::rename(&dir, &aside).map_err(failed)?;
        std::fs::remove_dir_all(&aside).map_err(failed)
    }

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
        let given_up = GivenUp::default();
        let _asked = given_up.when_dropped();
        // Whoever asked may go away; an instance that stands still goes on all the same.
        let taken = tokio::spawn(async move { this.take_whole(&of, take, &given_up).await });
        taken.await.unwrap_or(Err(InstanceError::ShuttingDown))
    }

    async fn take_whole(
        &self,
        of: &InstanceHandle,
        take: Take,
        given_up: &GivenUp,
    ) -> Result<(Snapshot, Option<Duration>), InstanceError> {
        self.check_room()?;
        let view = of.view();
        let machine = !take.disk_only && view.state != State::Stopped;
        let sharing = Sharing { workspace: true, secrets: take.secrets };
        sharing.check(&view.spec, machine)?;
        let snapshots = self.context().home.snapshots();
        let name = take.name.unwrap_or_else(|| free_name(&snapshots, view.name()));
        if snapshots.join(&name).exists() {
            return Err(InstanceError::SnapshotExists(name));
        }
        let (moment, stood) = self.moment_of(of, &view, machine, given_up).await?;
        given_up.check()?;
        let note = Note {
            instance: view.id.clone(),
            handle: view.handle.clone(),
            created_ms: now_ms(),
            running: moment.machine.is_some(),
            spec: (*view.spec).clone(),
        };
        let path = self.snapshot_dir(&name);
        let secrets = Arc::clone(&self.context().secrets);
        let kept = tokio::task::spawn_blocking(move || {
            keep(moment, &path, &note, &*secrets).map(|()| describe(&path, &note))
        });
        let kept = kept.await.map_err(|_| InstanceError::ShuttingDown)??;
        Ok((kept, stood))
    }

    async fn moment_of(
        &self,
        of: &InstanceHandle,
        view: &View,
        machine: bool,
        given_up: &GivenUp,
    ) -> Result<(Moment, Option<Duration>), InstanceError> {
        if view.state == State::Stopped {
            let mut now = of.watch();
            let _in_use = tokio::select! {
                in_use = given_up.unless(of.disk().begin()) => in_use?,
                _ = now.wait_for(|now| now.state != State::Stopped) => {
                    return Err(InstanceError::AlreadyRunning(crate::view::word(of.view().state)));
                }
            };
            let now = of.view();
            if now.replacing {
                return Err(InstanceError::NotCopied("it is just being put back to a snapshot".to_owned()));
            }
            if now.state != State::Stopped {
                return Err(InstanceError::AlreadyRunning(crate::view::word(now.state)));
            }
            let (home, id) = (self.context().home.clone(), view.id.clone());
            if !home.disk(&id).exists() {
                return Err(InstanceError::NotCopied(
                    "it has never been started, and has no disk yet".to_owned(),
                ));
            }
            let copied = tokio::task::spawn_blocking(move || Moment::of_disk(&home, &id)).await;
            let moment = copied.map_err(|_| InstanceError::ShuttingDown)?.map_err(InstanceError::Disk)?;
            return Ok((moment, None));
        }
        let wanted = moment::Wanted { cause: Cause::Snapshot, machine };
        let (moment, stood) = self.take_awake(of, view, wanted, given_up).await?;
        Ok((moment, Some(stood)))
    }

    async fn load(&self, name: &str) -> Result<(Moment, Note), InstanceError> {
        let (this, name) = (self.clone(), name.to_owned());
        let loaded = tokio::task::spawn_blocking(move || {
            let (dir, note) = this.snapshot_note(&name)?;
            let machine = if note.running {
                load(&dir, &note, &*this.context().secrets).inspect_err(|error| {
                    tracing::warn!(name, %error, "the machine of a snapshot cannot be used; it boots");
                })
            } else {
                Err(SavedError::Damaged("it has none"))
            };
            Ok((Moment::kept_in(dir, machine.ok().map(Arc::new)), note))
        });
        loaded.await.map_err(|_| InstanceError::ShuttingDown)?
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
        ports: Vec<ports::Wanted>,
        workspace: bool,
    ) -> Result<InstanceHandle, InstanceError> {
        let (moment, note) = self.load(name).await?;
        // Who took it has accepted that its secrets are in it.
        Sharing { workspace, secrets: true }.check(&note.spec, moment.machine.is_some())?;
        self.go_on_from(Arc::new(moment), handle, &note.spec, ports).await
    }

    /// Puts the instance that a snapshot was taken of back to where it was then. What it has done since is lost. It runs
    /// afterwards if it did then, and is stopped otherwise. Given up, it does so only if it has begun to.
    ///
    /// # Errors
    /// [`InstanceError::NotCopied`] if its disk is in use, or cannot be replaced;
    /// [`InstanceError::NoSnapshot`]; [`InstanceError::NotFound`] if there is no such instance any more.
    pub async fn restore_snapshot(&self, name: &str) -> Result<InstanceHandle, InstanceError> {
        self.check_room()?;
        let (moment, note) = self.load(name).await?;
        let instance = self.find(&note.instance)?;
        let given_up = GivenUp::default();
        let _asked = given_up.when_dropped();
        let (name, runs) = (name.to_owned(), note.running);
        instance.replace(Replacement { name, moment, runs, given_up }).await?;
        Ok(instance)
    }
}
