//! Segments: their names, their headers, and reading records from one.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::LogError;
use super::LogStream;
use super::record::{self, Check, FIXED, View, take};

const MAGIC: [u8; 8] = *b"AEGISLG1";

/// Boots whose positions are remembered: only those of a VM that may still run matter, and that is the newest.
const MAX_BOOTS: usize = 16;

/// Header bytes before the positions.
const PREFIX: usize = 24;
const POSITION: usize = 20;

/// Bytes read at once.
const READ: usize = 128 * 1024;

pub(super) fn path_of(dir: &Path, first_seq: u64) -> PathBuf {
    dir.join(format!("log.{first_seq:020}"))
}

/// The first numbers of all segments in `dir`, ascending; none if there is no such directory.
pub(super) fn list(dir: &Path) -> Result<Vec<u64>, LogError> {
    let fail = |source| LogError::Open { path: dir.to_owned(), source };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(fail(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.map_err(fail)?.file_name();
        found.extend(name.to_str().and_then(first_seq_of));
    }
    found.sort_unstable();
    Ok(found)
}

fn first_seq_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("log.")?;
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// How many bytes of the primary's streams the log has held, per boot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Positions {
    // Ascending by boot; the boot that writes is nearly always the last.
    boots: Vec<Position>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    boot: u32,
    stdout: u64,
    stderr: u64,
}

impl Positions {
    pub(super) fn advance(&mut self, boot: u32, stream: LogStream, end: u64) {
        let index = match self.boots.last() {
            Some(last) if last.boot == boot => self.boots.len() - 1,
            _ => match self.boots.binary_search_by_key(&boot, |p| p.boot) {
                Ok(index) => index,
                // An old boot has no place among newer ones when there is none left.
                Err(0) if self.boots.len() == MAX_BOOTS => return,
                Err(index) => {
                    self.boots.insert(index, Position { boot, stdout: 0, stderr: 0 });
                    let excess = self.boots.len().saturating_sub(MAX_BOOTS);
                    self.boots.drain(..excess);
                    index - excess
                }
            },
        };
        let Some(position) = self.boots.get_mut(index) else { return };
        match stream {
            LogStream::Stdout => position.stdout = position.stdout.max(end),
            LogStream::Stderr => position.stderr = position.stderr.max(end),
            LogStream::None => {}
        }
    }

    pub(super) fn get(&self, boot: u32, stream: LogStream) -> u64 {
        let position = self.boots.iter().rev().find(|p| p.boot == boot);
        position.map_or(0, |position| match stream {
            LogStream::Stdout => position.stdout,
            LogStream::Stderr => position.stderr,
            LogStream::None => 0,
        })
    }
}

/// What a segment begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) first_seq: u64,
    pub(super) positions: Positions,
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(PREFIX + MAX_BOOTS * POSITION);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[0; 4]);
        // `Positions` never holds more than `MAX_BOOTS`.
        bytes.extend_from_slice(&u32::try_from(self.positions.boots.len()).unwrap_or(0).to_le_bytes());
        bytes.extend_from_slice(&self.first_seq.to_le_bytes());
        for position in &self.positions.boots {
            bytes.extend_from_slice(&position.boot.to_le_bytes());
            bytes.extend_from_slice(&position.stdout.to_le_bytes());
            bytes.extend_from_slice(&position.stderr.to_le_bytes());
        }
        let crc = crc32fast::hash(&bytes[12..]);
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header that `bytes` begins with and its length, if it is whole and valid.
    fn decode(bytes: &[u8]) -> Option<(Self, usize)> {
        let mut rest = bytes;
        let magic: [u8; 8] = take(&mut rest)?;
        let crc = u32::from_le_bytes(take(&mut rest)?);
        let count = usize::try_from(u32::from_le_bytes(take(&mut rest)?)).ok()?;
        if magic != MAGIC || count > MAX_BOOTS {
            return None;
        }
        let length = PREFIX + count * POSITION;
        if crc32fast::hash(bytes.get(12..length)?) != crc {
            return None;
        }
        let first_seq = u64::from_le_bytes(take(&mut rest)?);
        let mut boots = Vec::with_capacity(count);
        for _ in 0..count {
            boots.push(Position {
                boot: u32::from_le_bytes(take(&mut rest)?),
                stdout: u64::from_le_bytes(take(&mut rest)?),
                stderr: u64::from_le_bytes(take(&mut rest)?),
            });
        }
        Some((Self { first_seq, positions: Positions { boots } }, length))
    }
}

/// Reads the records of one segment, in order, also while they are being written.
#[derive(Debug)]
pub(super) struct SegmentReader {
    file: File,
    path: PathBuf,
    pub(super) header: Header,
    /// File offset of the next record.
    offset: u64,
    /// Bytes read ahead: those of the file from `offset` on are at `start..end`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl SegmentReader {
    /// `None` if the segment does not exist (any more), or has no valid header (yet).
    pub(super) fn open(dir: &Path, first_seq: u64) -> Result<Option<Self>, LogError> {
        let path = path_of(dir, first_seq);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(LogError::Open { path, source }),
        };
        let mut bytes = [0; PREFIX + MAX_BOOTS * POSITION];
        let mut used = 0;
        while used < bytes.len() {
            match file.read_at(&mut bytes[used..], used as u64) {
                Ok(0) => break,
                Ok(read) => used += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(LogError::Read { path, source }),
            }
        }
        let Some((header, length)) = Header::decode(&bytes[..used]) else { return Ok(None) };
        if header.first_seq != first_seq {
            return Ok(None);
        }
        let offset = length as u64;
        Ok(Some(Self { file, path, header, offset, buffer: Vec::new(), start: 0, end: 0 }))
    }

    /// The next record; `None` where no whole, valid record follows (yet).
    pub(super) fn next(&mut self) -> Result<Option<View<'_>>, LogError> {
        let Some(length) = self.load()? else { return Ok(None) };
        let range = self.start..self.start + length;
        self.start += length;
        self.offset += length as u64;
        Ok(record::parse(&self.buffer[range]))
    }

    /// File offset behind the last record returned.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Brings the next record into the buffer whole and returns its length.
    fn load(&mut self) -> Result<Option<usize>, LogError> {
        let mut fresh = self.start == self.end;
        loop {
            match record::check(&self.buffer[self.start..self.end]) {
                Check::Whole(length) => return Ok(Some(length)),
                Check::Short(needed) => {
                    if !self.fill(needed)? {
                        self.forget();
                        return Ok(None);
                    }
                }
                // What was read ahead may have been the torn end of a write that failed and was cut off since.
                Check::Bad if !fresh => {
                    self.forget();
                    fresh = true;
                }
                Check::Bad => {
                    self.forget();
                    return Ok(None);
                }
            }
        }
    }

    fn forget(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// Reads ahead until `needed` bytes are there; returns whether they are.
    fn fill(&mut self, needed: usize) -> Result<bool, LogError> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        if self.buffer.len() < needed.max(FIXED) {
            self.buffer.resize(needed.max(READ), 0);
        }
        while self.end < needed {
            match self.file.read_at(&mut self.buffer[self.end..], self.offset + self.end as u64) {
                Ok(0) => return Ok(false),
                Ok(read) => self.end += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(LogError::Read { path: self.path.clone(), source }),
            }
        }
        Ok(true)
    }
}
