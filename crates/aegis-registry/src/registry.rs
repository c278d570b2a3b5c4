//! The handle on the registry, and the jobs that it queues.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use aegis_store::reserve::Reserve;
use tokio::sync::{mpsc, oneshot, watch};

use crate::error::RegistryError;
use crate::reserve::release;
use crate::rows::{EventRow, InstanceRow, NewEvent};
use crate::writer::{Change, Job, Writer};

/// Jobs that may wait for the writer before callers have to wait too.
const QUEUE: usize = 256;

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
            Err(error) if error.could_be_disk_full() && release(reserve.as_ref()) => {
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
