//! The registry: every instance and the newest events, in one SQLite database.
//!
//! One thread owns the connection and runs what callers queue, so there is one writer and no lock is ever held
//! across an await. Changes that are queued together share one transaction and one flush to disk; each still
//! succeeds or fails alone, and a method returns only after the commit that made its change durable. An
//! instance's change and its event are one unit: both are stored, or neither.

mod migrations;
mod sql;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot, watch};

use writer::{Change, Job, Writer};

use aegis_store::reserve::Reserve;

/// How many of the newest events are kept.
pub const EVENTS_KEPT: u32 = 10_000;

/// Jobs that may wait for the writer before callers have to wait too.
const QUEUE: usize = 256;

/// What can go wrong with the registry. None of these ends it, except [`RegistryError::Closed`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// Another instance already has this handle.
    #[error("the handle {0:?} is taken")]
    HandleTaken(String),
    /// An instance with this id already exists.
    #[error("the instance id {0:?} is taken")]
    IdTaken(String),
    /// No instance has this id.
    #[error("no instance has the id {0:?}")]
    NotFound(String),
    /// The database was written by a newer release.
    #[error("{} has schema version {found}, but this release knows versions up to {known}", path.display())]
    TooNew {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest version known here.
        known: usize,
    },
    /// The file system of the database is full. Nothing was changed; later writes may succeed.
    #[error("cannot {operation}: the disk of {} is full", path.display())]
    DiskFull {
        /// What was being done.
        operation: &'static str,
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        source: Arc<rusqlite::Error>,
    },
    /// SQLite failed for another reason. Nothing was changed; later writes may succeed.
    #[error("cannot {operation} in {}", path.display())]
    Storage {
        /// What was being done.
        operation: &'static str,
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        source: Arc<rusqlite::Error>,
    },
    /// The writer thread could not be started.
    #[error("cannot start the registry's writer thread")]
    Spawn(#[source] std::io::Error),
    /// The registry was closed before the job was done; whether a change was stored is not known.
    #[error("the registry is closed")]
    Closed,
}

impl RegistryError {
    fn storage(operation: &'static str, path: &Path, source: Arc<rusqlite::Error>) -> Self {
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::DiskFull { operation, path, source },
            _ => Self::Storage { operation, path, source },
        }
    }
}

impl RegistryError {
    /// Whether it may be over when there is room. SQLite reports some failures for want of it as failures of another kind.
    fn wants_room(&self) -> bool {
        match self {
            Self::DiskFull { .. } => true,
            Self::Storage { source, .. } => wants_room(source),
            _ => false,
        }
    }
}

fn wants_room(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{CannotOpen, DiskFull, SystemIoFailure};
    matches!(error.sqlite_error_code(), Some(DiskFull | SystemIoFailure | CannotOpen))
}

/// Gives up the reserve; whether there was one.
fn give_up(reserve: Option<&Reserve>) -> bool {
    let released = reserve.is_some_and(|reserve| reserve.release().unwrap_or(false));
    if released {
        tracing::warn!("the disk is full: the registry goes on with the reserve");
    }
    released
}

/// One instance as stored. Times are milliseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceRow {
    /// The instance's identity.
    pub id: String,
    /// The name people gave it; unique among instances.
    pub handle: Option<String>,
    /// What was asked for: JSON, opaque here.
    pub spec: String,
    /// Whether it is allowed to run.
    pub enabled: bool,
    /// Its place in the life cycle, opaque here.
    pub state: String,
    /// The exit code of its last run.
    pub exit_code: Option<i32>,
    /// Why it stopped: JSON, opaque here.
    pub stop_reason: Option<String>,
    /// How to find its live VM again: JSON, opaque here.
    pub vm: Option<String>,
    /// How often it has been booted.
    pub boot: u32,
    /// When it was created.
    pub created_at_ms: i64,
    /// When this row last changed.
    pub updated_at_ms: i64,
    /// When somebody last used it.
    pub last_active_at_ms: i64,
    /// When it last stopped.
    pub stopped_at_ms: Option<i64>,
    /// When its command was last executed.
    pub started_at_ms: Option<i64>,
    /// Its ports that are reachable from the host: JSON, opaque here.
    pub ports: String,
}

/// An event to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// When it happened, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// The instance it is about.
    pub instance_id: String,
    /// What happened.
    pub kind: String,
    /// More about it: JSON, opaque here.
    pub detail: String,
}

/// An event as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRow {
    /// Its number: from 1, growing without gaps, never used twice.
    pub seq: i64,
    /// What was stored.
    pub event: NewEvent,
}

/// A handle on the registry; clones share one writer, which ends with [`Registry::close`] or the last clone.
///
/// A job runs to its end even if the caller stops waiting for it. Jobs run in the order they were queued.
#[derive(Debug, Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    // `None` only while being dropped.
    jobs: Option<mpsc::Sender<Job>>,
    events: watch::Receiver<i64>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Inner {
    fn join(&self) {
        let handle = self.thread.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if handle.is_some_and(|handle| handle.join().is_err()) {
            tracing::error!("the registry's writer thread panicked");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Closing the queue is what tells the writer to finish.
        self.jobs = None;
        self.join();
    }
}

impl Registry {
    /// Opens the database at `path`, made or migrated as needed, and starts its writer. Blocks on the disk.
    ///
    /// # Errors
    /// [`RegistryError::TooNew`] if a newer release wrote it, [`RegistryError::Storage`] and
    /// [`RegistryError::DiskFull`] if it cannot be opened or migrated, [`RegistryError::Spawn`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, RegistryError> {
        Self::open_with(path, None)
    }

    /// The same with a reserve to give up when the disk is full: what failed for want of room is tried once more then.
    ///
    /// # Errors
    /// As of [`Registry::open`].
    pub fn open_with(path: impl AsRef<Path>, reserve: Option<Reserve>) -> Result<Self, RegistryError> {
        let opened = match Writer::open(path.as_ref(), reserve.clone()) {
            Err(error) if error.wants_room() && give_up(reserve.as_ref()) => {
                Writer::open(path.as_ref(), reserve)
            }
            opened => opened,
        };
        let (writer, events) = opened?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("registry".to_owned())
            .spawn(move || writer.run(queue))
            .map_err(RegistryError::Spawn)?;
        Ok(Self { inner: Arc::new(Inner { jobs: Some(jobs), events, thread: Mutex::new(Some(thread)) }) })
    }

    /// Stores a new instance, and the event that tells of it.
    ///
    /// # Errors
    /// [`RegistryError::IdTaken`], [`RegistryError::HandleTaken`], or that the database failed.
    pub async fn insert(&self, row: InstanceRow, event: Option<NewEvent>) -> Result<(), RegistryError> {
        self.change(Change::Insert(Box::new(row)), event).await.map(drop)
    }

    /// Replaces the stored instance of the same id, and stores the event that tells of it.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`], [`RegistryError::HandleTaken`], or that the database failed.
    pub async fn update(&self, row: InstanceRow, event: Option<NewEvent>) -> Result<(), RegistryError> {
        self.change(Change::Update(Box::new(row)), event).await.map(drop)
    }

    /// Removes an instance and returns whether it was there. The event is stored only if it was.
    ///
    /// # Errors
    /// That the database failed.
    pub async fn remove(
        &self,
        id: impl Into<String>,
        event: Option<NewEvent>,
    ) -> Result<bool, RegistryError> {
        self.change(Change::Remove(id.into()), event).await
    }

    /// Stores an event that comes with no change of an instance.
    ///
    /// # Errors
    /// That the database failed.
    pub async fn append_event(&self, event: NewEvent) -> Result<(), RegistryError> {
        self.change(Change::None, Some(event)).await.map(drop)
    }

    /// Every instance, ordered by id.
    ///
    /// # Errors
    /// That the database failed.
    pub async fn all(&self) -> Result<Vec<InstanceRow>, RegistryError> {
        self.run(|reply| Job::All { reply }).await
    }

    /// The oldest `limit` kept events with a number above `after_seq`, oldest first.
    ///
    /// # Errors
    /// That the database failed.
    pub async fn events(&self, after_seq: i64, limit: u32) -> Result<Vec<EventRow>, RegistryError> {
        self.run(|reply| Job::Events { after_seq, limit, reply }).await
    }

    /// The number of the newest committed event (0: none yet), and notice of newer ones.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<i64> {
        self.inner.events.clone()
    }

    /// Finishes what is queued, folds the write-ahead log into the database and stops the writer. Every later
    /// call on any clone fails with [`RegistryError::Closed`]; closing again does nothing.
    ///
    /// # Errors
    /// That the write-ahead log could not be folded in; nothing is lost, the next open does it.
    pub async fn close(&self) -> Result<(), RegistryError> {
        match self.run(|reply| Job::Close { reply }).await {
            // The writer ends right after its reply, so this does not keep the executor waiting.
            Ok(()) => self.inner.join(),
            Err(RegistryError::Closed) => {}
            Err(error) => {
                self.inner.join();
                return Err(error);
            }
        }
        Ok(())
    }

    async fn change(&self, change: Change, event: Option<NewEvent>) -> Result<bool, RegistryError> {
        self.run(|reply| Job::Change { change, event, reply }).await
    }

    async fn run<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, RegistryError>>) -> Job,
    ) -> Result<T, RegistryError> {
        let (reply, answer) = oneshot::channel();
        let jobs = self.inner.jobs.as_ref().ok_or(RegistryError::Closed)?;
        jobs.send(job(reply)).await.map_err(|_| RegistryError::Closed)?;
        answer.await.map_err(|_| RegistryError::Closed)?
    }
}

#[cfg(test)]
mod tests;
