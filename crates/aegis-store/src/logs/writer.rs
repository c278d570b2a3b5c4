//! Appending to a log.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tokio::sync::watch;

use super::record::Head;
use super::segment::{self, Header, Positions, SegmentReader};
use super::{LogError, LogLimits, LogSource, LogStream, MAX_EXEC_ID, MAX_PAYLOAD, NewRecord};

/// Appends to one log. There must be only one writer per log at a time, which the daemon's lock guarantees.
/// Methods block on the disk (in practice: on the page cache).
#[derive(Debug)]
pub struct LogWriter {
    dir: PathBuf,
    limits: LogLimits,
    /// First numbers of the segments there are, ascending; the last one is being written.
    segments: VecDeque<u64>,
    file: File,
    path: PathBuf,
    /// Bytes of the segment up to the end of its last whole record.
    length: u64,
    /// Whether the segment holds a record.
    begun: bool,
    /// Whether there may be more than `length` bytes in the file, after a failed write.
    torn: bool,
    positions: Positions,
    newest: watch::Sender<u64>,
}

impl LogWriter {
    /// Opens the log in `dir`, made if needed, behind its last whole record; a torn end is cut off.
    /// Reads the newest segment once, to check it.
    ///
    /// # Errors
    /// [`LogError::Open`], [`LogError::Read`], [`LogError::Repair`], [`LogError::Append`] for the first
    /// segment's header.
    pub fn open(dir: impl Into<PathBuf>, limits: LogLimits) -> Result<Self, LogError> {
        let dir = dir.into();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(|source| LogError::Open { path: dir.clone(), source })?;
        let limits = LogLimits { segments: limits.segments.max(1), ..limits };
        let mut segments = VecDeque::from(segment::list(&dir)?);
        let mut lowest_next = 1;
        while let Some(&first_seq) = segments.back() {
            if let Some(end) = End::find(&dir, first_seq)? {
                let next_seq = end.next_seq.max(lowest_next);
                return Self::resume(dir, limits, segments, end, next_seq);
            }
            discard(&dir, first_seq)?;
            segments.pop_back();
            // Numbers that the lost segment may have used are not given out again.
            lowest_next = lowest_next.max(first_seq);
        }
        let positions = Positions::default();
        let (file, path, length) = begin(&dir, lowest_next, &positions)?;
        Ok(Self {
            dir,
            limits,
            segments: VecDeque::from([lowest_next]),
            file,
            path,
            length,
            begun: false,
            torn: false,
            positions,
            newest: watch::channel(lowest_next - 1).0,
        })
    }

    fn resume(
        dir: PathBuf,
        limits: LogLimits,
        segments: VecDeque<u64>,
        end: End,
        next_seq: u64,
    ) -> Result<Self, LogError> {
        let path = segment::path_of(&dir, end.first_seq);
        let file = OpenOptions::new()
            .append(true)
            .open(&path)
            .map_err(|source| LogError::Open { path: path.clone(), source })?;
        let mut writer = Self {
            dir,
            limits,
            segments,
            file,
            path,
            length: end.length,
            begun: end.next_seq > end.first_seq,
            torn: true,
            positions: end.positions,
            newest: watch::channel(next_seq - 1).0,
        };
        writer.repair()?;
        writer.prune();
        Ok(writer)
    }

    /// How many bytes of the primary's `stream` of `boot` the log has taken: where the guest should go on. Right
    /// for the newest 16 boots, however much was rotated away; 0 for a boot that wrote nothing.
    #[must_use]
    pub fn resume_offset(&self, boot: u32, stream: LogStream) -> u64 {
        self.positions.get(boot, stream)
    }

    /// The number of the newest record; 0 in a new log.
    #[must_use]
    pub fn last_seq(&self) -> u64 {
        *self.newest.borrow()
    }

    /// Follows [`LogWriter::last_seq`]. Readers wait on it; it closes when the writer is dropped.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// Appends bytes and returns the number of their record, of the last one if they had to be split. An empty
    /// payload makes one empty record.
    ///
    /// # Errors
    /// [`LogError::ExecIdTooLong`]; [`LogError::Append`] and [`LogError::Repair`] if the disk is full or broken.
    /// The log then ends with a whole record and the writer stays usable.
    pub fn append(&mut self, entry: NewRecord<'_>) -> Result<u64, LogError> {
        let length = entry.exec.map_or(0, str::len);
        if length > MAX_EXEC_ID {
            return Err(LogError::ExecIdTooLong { length });
        }
        let mut kept = 0;
        loop {
            let part = &entry.payload[kept..entry.payload.len().min(kept + MAX_PAYLOAD)];
            let offset = entry.offset.saturating_add(kept as u64);
            let seq = self.append_part(&NewRecord { offset, payload: part, ..entry }, kept)?;
            kept += part.len();
            if kept == entry.payload.len() {
                return Ok(seq);
            }
        }
    }

    fn append_part(&mut self, part: &NewRecord<'_>, kept: usize) -> Result<u64, LogError> {
        let seq = self.last_seq().saturating_add(1);
        let head =
            Head::new(seq, part).ok_or(LogError::ExecIdTooLong { length: part.exec.map_or(0, str::len) })?;
        let size = (head.as_bytes().len() + part.payload.len()) as u64;
        self.repair()?;
        if self.begun && self.length + size > self.limits.segment_bytes {
            self.rotate(seq, kept)?;
        }
        if let Err(source) = write_once(&self.file, head.as_bytes(), part.payload) {
            self.torn = true;
            if let Err(error) = self.repair() {
                tracing::warn!(%error, "a torn record stays until the next append");
            }
            return Err(LogError::Append { path: self.path.clone(), kept, source });
        }
        self.length += size;
        self.begun = true;
        if part.source == LogSource::Primary {
            let end = part.offset.saturating_add(part.payload.len() as u64);
            self.positions.advance(part.boot, part.stream, end);
        }
        self.newest.send_replace(seq);
        Ok(seq)
    }

    /// Cuts off what a failed write may have left.
    fn repair(&mut self) -> Result<(), LogError> {
        if self.torn {
            self.file
                .set_len(self.length)
                .map_err(|source| LogError::Repair { path: self.path.clone(), source })?;
            self.torn = false;
        }
        Ok(())
    }

    fn rotate(&mut self, first_seq: u64, kept: usize) -> Result<(), LogError> {
        let (file, path, length) =
            begin(&self.dir, first_seq, &self.positions).map_err(|error| match error {
                LogError::Append { path, source, .. } => LogError::Append { path, kept, source },
                other => other,
            })?;
        (self.file, self.path, self.length, self.begun) = (file, path, length, false);
        self.segments.push_back(first_seq);
        self.prune();
        Ok(())
    }

    /// Deletes the oldest segments beyond the limit. What cannot be deleted is tried again at the next rotation.
    fn prune(&mut self) {
        while self.segments.len() > self.limits.segments {
            let Some(&oldest) = self.segments.front() else { return };
            if let Err(error) = discard(&self.dir, oldest) {
                tracing::warn!(%error, "the log grows beyond its limit");
                return;
            }
            self.segments.pop_front();
        }
    }
}

/// The end of the last whole record of a segment.
struct End {
    first_seq: u64,
    next_seq: u64,
    length: u64,
    positions: Positions,
}

impl End {
    /// `None` if the segment's header is not whole.
    fn find(dir: &Path, first_seq: u64) -> Result<Option<Self>, LogError> {
        let Some(mut reader) = SegmentReader::open(dir, first_seq)? else { return Ok(None) };
        let mut positions = reader.header.positions.clone();
        let mut next_seq = first_seq;
        while let Some(record) = reader.next()? {
            next_seq = record.seq.saturating_add(1);
            if record.source == LogSource::Primary {
                positions.advance(record.boot, record.stream, record.end());
            }
        }
        Ok(Some(Self { first_seq, next_seq, length: reader.offset(), positions }))
    }
}

/// Begins a segment; on failure nothing of it stays.
fn begin(dir: &Path, first_seq: u64, positions: &Positions) -> Result<(File, PathBuf, u64), LogError> {
    let path = segment::path_of(dir, first_seq);
    let header = Header { first_seq, positions: positions.clone() }.encode();
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&path)
        .map_err(|source| LogError::Open { path: path.clone(), source })?;
    // The name may be left from a failed attempt.
    match file.set_len(0).and_then(|()| file.write_all(&header)) {
        Ok(()) => Ok((file, path, header.len() as u64)),
        Err(source) => {
            discard(dir, first_seq)?;
            Err(LogError::Append { path, kept: 0, source })
        }
    }
}

fn discard(dir: &Path, first_seq: u64) -> Result<(), LogError> {
    let path = segment::path_of(dir, first_seq);
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(LogError::Remove { path, source }),
        _ => Ok(()),
    }
}

/// Writes head and payload with one system call; everything less is an error.
fn write_once(mut file: &File, head: &[u8], payload: &[u8]) -> io::Result<()> {
    let parts = [IoSlice::new(head), IoSlice::new(payload)];
    let written = loop {
        match file.write_vectored(&parts) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => break result?,
        }
    };
    if written == head.len() + payload.len() {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::StorageFull, "the file system took only part of a record"))
    }
}
