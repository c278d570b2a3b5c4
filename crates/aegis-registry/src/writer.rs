//! The thread that owns the connection.
//!
//! Changes that wait together are committed together: one flush to disk for all of them. Each runs in a
//! savepoint of its own, so one that is refused leaves the others alone; if the commit itself fails, all of
//! them failed, and none has been answered before.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot, watch};

use crate::error::{RegistryError, could_be_disk_full};
use crate::migrations::{MIGRATIONS, migrate};
use crate::reserve::release;
use crate::rows::{EventRow, InstanceRow, NewEvent};
use crate::sql;
use aegis_store::reserve::Reserve;

/// Changes that share one commit at most; bounds how long the first of them waits.
const BATCH: usize = 64;

/// How long another process, such as a backup, may hold the database.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

type Reply<T> = oneshot::Sender<Result<T, RegistryError>>;

pub(super) enum Job {
    Change { change: Change, event: Option<NewEvent>, reply: Reply<bool> },
    All { reply: Reply<Vec<InstanceRow>> },
    Events { after_seq: i64, limit: u32, reply: Reply<Vec<EventRow>> },
    Close { reply: Reply<()> },
}

pub(super) enum Change {
    Insert(Box<InstanceRow>),
    Update(Box<InstanceRow>),
    Remove(String),
    None,
}

impl Change {
    fn operation(&self) -> &'static str {
        match self {
            Self::Insert(_) => "store a new instance",
            Self::Update(_) => "update an instance",
            Self::Remove(_) => "remove an instance",
            Self::None => "store an event",
        }
    }
}

/// What a change did: whether its instance existed, and the number of its event.
struct Applied {
    existed: bool,
    event: Option<i64>,
}

/// A change with its reply, as it waits for its commit.
type Pending = (Change, Option<NewEvent>, Reply<bool>);

pub(super) struct Writer {
    pub(super) conn: Connection,
    path: PathBuf,
    reserve: Option<Reserve>,
    events: watch::Sender<i64>,
}

impl Writer {
    pub(super) fn open(
        path: &Path,
        reserve: Option<Reserve>,
    ) -> Result<(Self, watch::Receiver<i64>), RegistryError> {
        let fail = |source| RegistryError::storage("open the registry", path, Arc::new(source));
        let mut conn = Connection::open(path).map_err(fail)?;
        configure(&conn).map_err(fail)?;
        migrate(&mut conn, path, MIGRATIONS)?;
        let (events, newest) = watch::channel(sql::last_event(&conn).map_err(fail)?);
        Ok((Self { conn, path: path.to_owned(), reserve, events }, newest))
    }

    pub(super) fn run(self, mut queue: mpsc::Receiver<Job>) {
        while let Some(first) = queue.blocking_recv() {
            let (batch, other) = collect(first, &mut queue);
            self.commit(batch);
            if let Some(reply) = other.and_then(|job| self.answer(job)) {
                // Answered last: from then on the files are free for others.
                return send(reply, self.finish());
            }
        }
        if let Err(error) = self.finish() {
            tracing::warn!(%error, "cannot finish the registry cleanly");
        }
    }

    /// Answers a job that changes nothing; a request to close comes back.
    fn answer(&self, job: Job) -> Option<Reply<()>> {
        let fail = |operation| move |source| RegistryError::storage(operation, &self.path, Arc::new(source));
        match job {
            // `collect` never hands one over.
            Job::Change { .. } => {}
            Job::All { reply } => send(reply, sql::all(&self.conn).map_err(fail("list instances"))),
            Job::Events { after_seq, limit, reply } => {
                send(reply, sql::events(&self.conn, after_seq, limit).map_err(fail("list events")));
            }
            Job::Close { reply } => return Some(reply),
        }
        None
    }

    /// Applies a batch in one transaction and answers everybody after its commit. If the database fails a batch,
    /// each of its changes is tried alone, so that one of them cannot take the others down.
    pub(super) fn commit(&self, batch: Vec<Pending>) {
        let done = match self.transact(&batch) {
            Err(error) if could_be_disk_full(&error) && release(self.reserve.as_ref()) => {
                self.transact(&batch)
            }
            done => done,
        };
        match done {
            Ok(results) => {
                // Told before the callers, so that whoever has his answer also finds his event announced.
                if let Some(seq) = results.iter().flatten().filter_map(|applied| applied.event).max() {
                    self.events.send_replace(seq);
                }
                for ((_, _, reply), result) in batch.into_iter().zip(results) {
                    send(reply, result.map(|applied| applied.existed));
                }
            }
            Err(source) if batch.len() == 1 => {
                let source = Arc::new(source);
                for (change, _, reply) in batch {
                    send(
                        reply,
                        Err(RegistryError::storage(change.operation(), &self.path, Arc::clone(&source))),
                    );
                }
            }
            Err(_) => batch.into_iter().for_each(|pending| self.commit(vec![pending])),
        }
    }

    /// One transaction; the inner results tell of changes that were refused and wrote nothing.
    fn transact(&self, batch: &[Pending]) -> rusqlite::Result<Vec<Result<Applied, RegistryError>>> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        if !self.conn.is_autocommit() {
            // A roll-back failed before; nothing may be built on what is left of that transaction.
            self.conn.execute_batch("ROLLBACK")?;
        }
        let transaction = Transaction::new_unchecked(&self.conn, TransactionBehavior::Immediate)?;
        let mut results = Vec::with_capacity(batch.len());
        for (change, event, _) in batch {
            results.push(apply(&transaction, change, event.as_ref())?);
        }
        transaction.commit()?;
        Ok(results)
    }

    fn finish(self) -> Result<(), RegistryError> {
        let fail = |source| RegistryError::storage("close the registry", &self.path, Arc::new(source));
        self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(fail)?;
        self.conn.close().map_err(|(_, source)| fail(source))
    }
}

/// The changes that wait right now, up to the first job that is no change: it has to see all of them.
fn collect(first: Job, queue: &mut mpsc::Receiver<Job>) -> (Vec<Pending>, Option<Job>) {
    let mut batch = Vec::new();
    let mut next = Some(first);
    while let Some(job) = next {
        match job {
            Job::Change { change, event, reply } => batch.push((change, event, reply)),
            other => return (batch, Some(other)),
        }
        next = if batch.len() < BATCH { queue.try_recv().ok() } else { None };
    }
    (batch, None)
}

fn configure(conn: &Connection) -> rusqlite::Result<()> {
    conn.busy_timeout(BUSY_TIMEOUT)?;
    conn.pragma_update(None, "journal_mode", "WAL")?;
    // With FULL a commit survives a power cut; batches make the flush cheap.
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "foreign_keys", true)
}

/// Checks before it writes, so that a refused change has written nothing.
fn apply(
    conn: &Connection,
    change: &Change,
    event: Option<&NewEvent>,
) -> rusqlite::Result<Result<Applied, RegistryError>> {
    if let Some(refusal) = refusal(conn, change)? {
        return Ok(Err(refusal));
    }
    let existed = match change {
        Change::Insert(row) => sql::put(conn, row).map(|()| false)?,
        Change::Update(row) => sql::put(conn, row).map(|()| true)?,
        Change::Remove(id) if !sql::delete(conn, id)? => {
            return Ok(Ok(Applied { existed: false, event: None }));
        }
        Change::Remove(_) => true,
        Change::None => false,
    };
    let event = event.map(|event| sql::add_event(conn, event)).transpose()?;
    Ok(Ok(Applied { existed, event }))
}

fn refusal(conn: &Connection, change: &Change) -> rusqlite::Result<Option<RegistryError>> {
    let row = match change {
        Change::Insert(row) if sql::exists(conn, &row.id)? => {
            return Ok(Some(RegistryError::IdTaken(row.id.clone())));
        }
        Change::Update(row) if !sql::exists(conn, &row.id)? => {
            return Ok(Some(RegistryError::NotFound(row.id.clone())));
        }
        Change::Insert(row) | Change::Update(row) => row,
        Change::Remove(_) | Change::None => return Ok(None),
    };
    let Some(handle) = &row.handle else { return Ok(None) };
    let owner = sql::handle_owner(conn, handle)?;
    Ok(owner.filter(|id| *id != row.id).map(|_| RegistryError::HandleTaken(handle.clone())))
}

/// Answers a caller, who may have stopped waiting.
fn send<T>(reply: Reply<T>, result: Result<T, RegistryError>) {
    drop(reply.send(result));
}
