//! Where an instance's output goes: its log, and whoever is attached.
//!
//! The log keeps the newest part of everything. An attached client gets every byte of the command's output: the
//! guest is granted credit only when the client has taken what came before. A client that attaches late, or again
//! after a restart of the daemon, first reads from the log what it does not hold yet.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aegis_lifecycle::stop_reason::StopReason;
use aegis_store::logs::{
    LogError, LogLimits, LogReader, LogSource, LogStream, LogWriter, NewRecord, PrimaryReader,
};
use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use crate::clock::now_ms;

/// How many pieces may wait for an attached client before the command has to.
const WAITING_PIECES: usize = 4;

/// Something for an attached client.
#[derive(Debug, Clone)]
pub enum Piece {
    /// Standard output.
    Stdout(Bytes),
    /// Standard error.
    Stderr(Bytes),
    /// No more will come.
    End(Ending),
}

/// How a run of the command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// It was executed and ended; the code, and the cause.
    Exit(i32, StopReason),
    /// It came to no exit code: it was never executed, or was lost with its machine.
    Failed(StopReason),
}

/// A client's view of the output.
#[derive(Debug)]
pub struct Attachment {
    /// What the client lacks of what has been already; to be read up to `live_from`.
    pub past: PrimaryReader,
    /// Number of the newest record when the client was attached: what comes after is live.
    pub past_until: u64,
    /// Offsets of standard output and error where the live part begins.
    pub live_from: [u64; 2],
    /// The live part.
    pub live: mpsc::Receiver<Piece>,
}

#[derive(Debug)]
struct Inner {
    writer: Option<LogWriter>,
    boot: u32,
    offsets: [u64; 2],
    sinks: Vec<mpsc::Sender<Piece>>,
    ending: Option<Ending>,
}

/// The output of one instance.
#[derive(Debug)]
pub struct Output {
    dir: PathBuf,
    limits: LogLimits,
    inner: Mutex<Inner>,
    /// How many clients are attached.
    attached: watch::Sender<usize>,
}

/// One of the command's two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl OutputStream {
    fn index(self) -> usize {
        match self {
            OutputStream::Stdout => 0,
            OutputStream::Stderr => 1,
        }
    }

    fn stream(self) -> LogStream {
        match self {
            OutputStream::Stdout => LogStream::Stdout,
            OutputStream::Stderr => LogStream::Stderr,
        }
    }

    fn piece(self, bytes: Bytes) -> Piece {
        match self {
            OutputStream::Stdout => Piece::Stdout(bytes),
            OutputStream::Stderr => Piece::Stderr(bytes),
        }
    }
}

fn unix_ms() -> u64 {
    u64::try_from(now_ms()).unwrap_or(0)
}

impl Output {
    /// The output of an instance whose log is in `dir`; `ending` tells of its last run, if it has ended.
    #[must_use]
    pub fn new(dir: PathBuf, limits: LogLimits, boot: u32, ending: Option<Ending>) -> Output {
        let inner = Inner { writer: None, boot, offsets: [0; 2], sinks: vec![], ending };
        Output { dir, limits, inner: Mutex::new(inner), attached: watch::Sender::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open<'a>(&self, inner: &'a mut Inner) -> Result<&'a mut LogWriter, LogError> {
        let writer = match inner.writer.take() {
            Some(writer) => writer,
            None => LogWriter::open(&self.dir, self.limits)?,
        };
        Ok(inner.writer.insert(writer))
    }

    /// Begins a run of the command.
    pub fn begin(&self, boot: u32) {
        let mut inner = self.lock();
        inner.boot = boot;
        inner.offsets = [0; 2];
        inner.ending = None;
    }

    /// Goes on with a run that an earlier daemon began. Returns how many bytes of both streams the log holds.
    ///
    /// # Errors
    /// If the log cannot be opened.
    pub fn resume(&self, boot: u32) -> Result<[u64; 2], LogError> {
        let mut inner = self.lock();
        let writer = self.open(&mut inner)?;
        let held = [LogStream::Stdout, LogStream::Stderr].map(|stream| writer.resume_offset(boot, stream));
        inner.boot = boot;
        inner.offsets = held;
        inner.ending = None;
        Ok(held)
    }

    /// How many bytes of both streams of this run have been taken.
    #[must_use]
    pub fn offsets(&self) -> [u64; 2] {
        self.lock().offsets
    }

    /// Takes a piece of the command's output: returns when the log and every attached client have it.
    pub async fn push(&self, which: OutputStream, bytes: Bytes) {
        let sinks = {
            let mut inner = self.lock();
            let (boot, offset) = (inner.boot, inner.offsets[which.index()]);
            self.append(&mut inner, LogSource::Primary, which.stream(), None, boot, offset, &bytes);
            inner.offsets[which.index()] += bytes.len() as u64;
            inner.sinks.retain(|sink| !sink.is_closed());
            inner.sinks.clone()
        };
        for sink in sinks {
            // A client that has gone is nobody to wait for.
            let _gone = sink.send(which.piece(bytes.clone())).await;
        }
    }

    /// Logs a piece of the output of an `exec`.
    pub fn log_exec(&self, exec_id: &str, stream: LogStream, offset: u64, bytes: &[u8]) {
        let mut inner = self.lock();
        let boot = inner.boot;
        self.append(&mut inner, LogSource::Exec, stream, Some(exec_id), boot, offset, bytes);
    }

    /// Logs a line of Aegis itself.
    pub fn log_system(&self, text: &str) {
        let mut inner = self.lock();
        let boot = inner.boot;
        let line = format!("{text}\n");
        self.append(&mut inner, LogSource::System, LogStream::Stdout, None, boot, 0, line.as_bytes());
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of a record")]
    fn append(
        &self,
        inner: &mut Inner,
        source: LogSource,
        stream: LogStream,
        exec: Option<&str>,
        boot: u32,
        offset: u64,
        payload: &[u8],
    ) {
        let record = NewRecord { at_ms: unix_ms(), boot, source, stream, exec, offset, payload };
        let appended = self.open(inner).and_then(|writer| writer.append(record));
        if let Err(error) = appended {
            // The log is the lesser good: the command and its clients go on without it.
            tracing::warn!(dir = %self.dir.display(), %error, "log not written");
        }
    }

    /// Attaches a client that holds the first `held` bytes of both streams of the current or last run.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn attach(&self, held: [u64; 2]) -> Result<Attachment, LogError> {
        let (sink, live) = mpsc::channel(WAITING_PIECES);
        let mut inner = self.lock();
        // Makes sure that there is a log to read.
        let past_until = self.open(&mut inner)?.last_seq();
        let past = LogReader::open(&self.dir)?.primary_from(inner.boot, held[0], held[1]);
        let live_from = match &inner.ending {
            None => {
                inner.sinks.push(sink);
                inner.offsets
            }
            Some(ending) => {
                // There is room: the channel is new.
                let _sent = sink.try_send(Piece::End(ending.clone()));
                [u64::MAX; 2]
            }
        };
        Ok(Attachment { past, past_until, live_from, live })
    }

    /// Ends the run: attached clients are told when they have taken all that came before.
    pub fn finish(&self, ending: Ending) {
        let mut inner = self.lock();
        let sinks = std::mem::take(&mut inner.sinks);
        inner.ending = Some(ending.clone());
        drop(inner);
        for sink in sinks {
            // Owned by the channel: ends when the client takes it or goes.
            let piece = Piece::End(ending.clone());
            tokio::spawn(async move { sink.send(piece).await });
        }
    }

    /// A reader of the log, and the number of the newest record, which changes as records are added.
    ///
    /// # Errors
    /// If the log cannot be opened.
    pub fn read(&self) -> Result<(LogReader, watch::Receiver<u64>), LogError> {
        let mut inner = self.lock();
        let newest = self.open(&mut inner)?.subscribe();
        Ok((LogReader::open(&self.dir)?, newest))
    }

    /// Counts a client in until the guard is dropped.
    #[must_use]
    pub fn count_client(&self) -> ClientCount {
        self.attached.send_modify(|count| *count += 1);
        ClientCount(self.attached.clone())
    }

    /// How many clients are attached.
    #[must_use]
    pub fn clients(&self) -> watch::Receiver<usize> {
        self.attached.subscribe()
    }

    /// Closes the log, so that it can be removed; whoever follows it sees the end.
    pub fn close(&self) {
        let mut inner = self.lock();
        inner.writer = None;
        inner.sinks.clear();
    }
}

/// An attached client; it has gone when this is dropped.
#[derive(Debug)]
pub struct ClientCount(watch::Sender<usize>);

impl Drop for ClientCount {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}
