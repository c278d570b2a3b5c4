//! What instances wrote: byte for byte, numbered, bounded in size.
//!
//! # On disk
//!
//! An instance's log is a directory of segments, `log.<number of its first record, 20 digits>`. The newest one
//! grows by appending; when it is full a new one is begun and the oldest beyond the limit is deleted. Nothing
//! is ever changed in place. All numbers are little endian.
//!
//! A segment begins with a header, which repeats how far the primary's streams had come by then, so that this
//! is known even after the records that told it have been rotated away:
//!
//! ```text
//!  0   8  magic "AEGISLG1"
//!  8   4  CRC-32 of everything behind it in the header
//! 12   4  n: number of positions, at most 16 (the newest boots)
//! 16   8  number of the segment's first record
//! 24 20n  per boot: boot u32, end of its stdout u64, end of its stderr u64
//! ```
//!
//! Records follow without gaps:
//!
//! ```text
//!  0   4  magic "ALR1"
//!  4   4  CRC-32 of everything behind it in the record
//!  8   4  length of the whole record
//! 12   8  sequence number, from 1, without gaps
//! 20   8  time, ms since the Unix epoch
//! 28   4  boot
//! 32   8  offset of the payload's first byte in its stream of that boot (or of that exec)
//! 40   1  source: 0 primary, 1 exec, 2 system
//! 41   1  stream: 0 none, 1 stdout, 2 stderr
//! 42   1  e: length of the exec id, at most 64
//! 43   1  0
//! 44   e  exec id, UTF-8
//! 44+e    payload, at most 256 KiB
//! ```
//!
//! A record is written by one system call and never synced: a crash of the daemon loses nothing, a crash of the
//! host may lose the newest records. What is torn at the end is found by length and CRC: the writer cuts it off
//! when it opens the log, readers stop before it.

mod primary;
mod reader;
mod record;
mod segment;
mod writer;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

pub use primary::PrimaryReader;
pub use reader::LogReader;
pub use writer::LogWriter;

/// The longest payload of one record, in bytes; longer ones are split.
pub const MAX_PAYLOAD: usize = 256 * 1024;

/// The longest exec id, in bytes.
pub const MAX_EXEC_ID: usize = 64;

/// What can go wrong with a log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The log's directory or a segment could not be opened, listed or made.
    #[error("cannot open the log {}", path.display())]
    Open {
        /// The directory or segment.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A segment could not be read.
    #[error("cannot read the log {}", path.display())]
    Read {
        /// The segment.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A record could not be written, perhaps because the disk is full. The log ends with a whole record, and
    /// later appends may succeed.
    #[error("cannot write to the log {}", path.display())]
    Append {
        /// The segment.
        path: PathBuf,
        /// How many bytes of this payload are in the log: more than 0 only for a payload that had to be split.
        kept: usize,
        /// Why.
        source: io::Error,
    },
    /// What a crash or failed write left behind could not be cut off.
    #[error("cannot repair the log {}", path.display())]
    Repair {
        /// The segment.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An exec id is longer than [`MAX_EXEC_ID`]. Nothing was written.
    #[error("an exec id of {length} bytes is too long for the log (at most {MAX_EXEC_ID})")]
    ExecIdTooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// A log could not be removed.
    #[error("cannot remove the log {}", path.display())]
    Remove {
        /// The directory or segment.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// How much of a log is kept: about `segment_bytes × segments`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// Size at which a segment is full, in bytes. A segment holds at least one record, whatever its size.
    pub segment_bytes: u64,
    /// Number of segments kept, the growing one included; at least 1.
    pub segments: usize,
}

impl Default for LogLimits {
    /// The newest 50 MiB: five segments of 10 MiB.
    fn default() -> Self {
        Self { segment_bytes: 10 * 1024 * 1024, segments: 5 }
    }
}

/// Who wrote a record's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogSource {
    /// The instance's own command.
    Primary,
    /// A command run beside it.
    Exec,
    /// Aegis itself.
    System,
}

/// The stream a record's bytes came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogStream {
    /// No stream of a process.
    None,
    /// Standard output, or a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A record to be written.
#[derive(Debug, Clone, Copy)]
pub struct NewRecord<'a> {
    /// When the bytes arrived, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The boot they belong to.
    pub boot: u32,
    /// Who wrote them.
    pub source: LogSource,
    /// To which stream.
    pub stream: LogStream,
    /// Which exec, for [`LogSource::Exec`]: at most [`MAX_EXEC_ID`] bytes; an empty one counts as none.
    pub exec: Option<&'a str>,
    /// Offset of the first byte within that stream of that boot (or of that exec).
    pub offset: u64,
    /// The bytes, of any number.
    pub payload: &'a [u8],
}

/// A record as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// Its number: from 1, growing. A jump means that records in between were rotated away.
    pub seq: u64,
    /// When the bytes arrived, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The boot they belong to.
    pub boot: u32,
    /// Who wrote them.
    pub source: LogSource,
    /// To which stream.
    pub stream: LogStream,
    /// Which exec, for [`LogSource::Exec`].
    pub exec: Option<String>,
    /// Offset of the first byte within that stream of that boot (or of that exec).
    pub offset: u64,
    /// The bytes, at most [`MAX_PAYLOAD`].
    pub payload: Bytes,
}

impl LogRecord {
    /// Drops the first `bytes` bytes of the payload, at most all of them.
    fn skip(&mut self, bytes: usize) {
        let skipped = self.payload.split_to(bytes.min(self.payload.len()));
        self.offset = self.offset.saturating_add(skipped.len() as u64);
    }
}

/// Removes a log directory with everything in it; nothing there is no error.
///
/// # Errors
/// [`LogError::Remove`].
pub fn remove_all(dir: &Path) -> Result<(), LogError> {
    match fs::remove_dir_all(dir) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(LogError::Remove { path: dir.to_owned(), source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
