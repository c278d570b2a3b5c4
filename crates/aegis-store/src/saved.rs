//! Machines at rest, in files: devices, and those parts of the memory that are not zero.
//!
//! ```text
//!   head    magic (16)  note length (4)  devices length (4)  memory (8)  note  devices  crc (4)
//!   piece   at (8)  length (4)  crc (4)  bytes                                             any number
//!   end     all ones (8)  number of pieces (4)  crc (4)
//! ```
//!
//! Integers are little endian; a CRC-32 covers all that stands before it in its part and, in a piece, its bytes. Such
//! a file is a cache: it is not synced, and one that a crash has cut short, or that has changed since, is refused
//! before anything is made of it. All functions block.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::ops::Range;
use std::path::Path;

use thiserror::Error;

use crate::sweep::PARTIAL;

const MAGIC: [u8; 16] = *b"AEGIS-saved-v1\x0d\x0a";
/// Longest piece, bytes.
const PIECE: usize = 256 << 10;
/// Longest note, bytes.
const MOST_NOTE: usize = 64 << 10;
/// Most that devices may take, bytes.
const MOST_DEVICES: usize = 16 << 20;
/// Most memory, bytes.
const MOST_MEMORY: u64 = 1 << 40;
/// Where no piece can be: the mark of the end.
const END: u64 = u64::MAX;

/// Why a file cannot be written or used.
#[derive(Debug, Error)]
pub enum SavedError {
    /// It is not what was once written.
    #[error("{0}")]
    Damaged(&'static str),
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// All but the memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// What its writer notes about it.
    pub note: String,
    /// The machine's devices.
    pub devices: Vec<u8>,
    /// Size of its memory, bytes.
    pub memory: u64,
}

fn checksum(parts: &[&[u8]]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().to_le_bytes()
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes()
}

/// Writes a file of which `extents` is what memory there is, and `read` gives it. Returns its length, bytes. It appears
/// under its name when it is whole.
///
/// # Errors
/// The system's; [`SavedError::Damaged`] if the head is beyond the bounds.
pub fn write(
    path: &Path,
    head: &Head,
    extents: &[Range<u64>],
    read: impl Fn(u64, &mut [u8]) -> io::Result<()>,
) -> Result<u64, SavedError> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}{PARTIAL}", std::process::id()));
    let partial = Path::new(&partial);
    let written = write_to(partial, head, extents, read).and_then(|length| {
        std::fs::rename(partial, path)?;
        Ok(length)
    });
    written.inspect_err(|_| {
        // What cannot be removed here, the next sweep of its directory removes.
        let _absent = std::fs::remove_file(partial);
    })
}

/// The process that writes, or wrote, the file with this name, if it is one that is not finished.
#[must_use]
pub fn writer(name: &str) -> Option<u32> {
    let (_, number) = name.strip_suffix(PARTIAL)?.rsplit_once('.')?;
    number.parse().ok()
}

fn write_to(
    path: &Path,
    head: &Head,
    extents: &[Range<u64>],
    read: impl Fn(u64, &mut [u8]) -> io::Result<()>,
) -> Result<u64, SavedError> {
    if head.note.len() > MOST_NOTE || head.devices.len() > MOST_DEVICES || head.memory > MOST_MEMORY {
        return Err(SavedError::Damaged("there is more of the machine than can be saved"));
    }
    let mut file = BufWriter::with_capacity(PIECE, File::create(path)?);
    let memory = head.memory.to_le_bytes();
    let (note, devices) = (head.note.as_bytes(), head.devices.as_slice());
    let parts: [&[u8]; 6] = [&MAGIC, &length(note), &length(devices), &memory, note, devices];
    for part in parts {
        file.write_all(part)?;
    }
    file.write_all(&checksum(&parts))?;
    let mut buffer = vec![0; PIECE];
    let mut count = 0u32;
    for extent in extents {
        for at in extent.clone().step_by(PIECE) {
            let len = usize::try_from(extent.end - at).unwrap_or(PIECE).min(PIECE);
            let bytes = buffer.get_mut(..len).unwrap_or_default();
            read(at, bytes)?;
            write_piece(&mut file, at, bytes)?;
            count += 1;
        }
    }
    let end = [END.to_le_bytes().as_slice(), &count.to_le_bytes()].concat();
    file.write_all(&end)?;
    file.write_all(&checksum(&[&end]))?;
    let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
    Ok(file.metadata()?.len())
}

fn write_piece(file: &mut impl Write, at: u64, bytes: &[u8]) -> io::Result<()> {
    let (at, len) = (at.to_le_bytes(), length(bytes));
    file.write_all(&at)?;
    file.write_all(&len)?;
    file.write_all(&checksum(&[&at, &len, bytes]))?;
    file.write_all(bytes)
}

/// A file whose head is in order.
#[derive(Debug)]
pub struct Saved<R> {
    head: Head,
    rest: R,
}

/// Opens a file.
///
/// # Errors
/// The system's; [`SavedError::Damaged`].
pub fn open(path: &Path) -> Result<Saved<BufReader<File>>, SavedError> {
    parse(BufReader::with_capacity(PIECE, File::open(path)?))
}

fn take<const N: usize>(from: &mut impl Read) -> Result<[u8; N], SavedError> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes).map_err(cut_short)?;
    Ok(bytes)
}

fn take_many(from: &mut impl Read, len: usize) -> Result<Vec<u8>, SavedError> {
    let mut bytes = vec![0; len];
    from.read_exact(&mut bytes).map_err(cut_short)?;
    Ok(bytes)
}

fn cut_short(error: io::Error) -> SavedError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => SavedError::Damaged("it is cut short"),
        _ => error.into(),
    }
}

/// Reads the head; the rest follows behind it.
///
/// # Errors
/// The reader's; [`SavedError::Damaged`].
pub fn parse<R: Read>(mut from: R) -> Result<Saved<R>, SavedError> {
    let damaged = SavedError::Damaged("its head is not what was written");
    if take::<16>(&mut from)? != MAGIC {
        return Err(SavedError::Damaged("it is no saved machine"));
    }
    let (note_len, devices_len) = (take::<4>(&mut from)?, take::<4>(&mut from)?);
    let memory = take::<8>(&mut from)?;
    let [note, devices] = [note_len, devices_len].map(|len| u32::from_le_bytes(len) as usize);
    if note > MOST_NOTE || devices > MOST_DEVICES || u64::from_le_bytes(memory) > MOST_MEMORY {
        return Err(damaged);
    }
    let (note, devices) = (take_many(&mut from, note)?, take_many(&mut from, devices)?);
    let sum = checksum(&[&MAGIC, &note_len, &devices_len, &memory, &note, &devices]);
    if take::<4>(&mut from)? != sum {
        return Err(damaged);
    }
    let note = String::from_utf8(note).map_err(|_| damaged)?;
    Ok(Saved { head: Head { note, devices, memory: u64::from_le_bytes(memory) }, rest: from })
}

impl<R: Read> Saved<R> {
    /// All but the memory.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Gives all of the memory that is not zero to `write`, piece by piece, each of them checked. What was written is
    /// of use only if this succeeds.
    ///
    /// # Errors
    /// The reader's and the writer's; [`SavedError::Damaged`].
    pub fn fill(mut self, write: impl Fn(u64, &[u8]) -> io::Result<()>) -> Result<Head, SavedError> {
        let mut buffer = vec![0; PIECE];
        let mut count = 0u32;
        loop {
            let (at, len, sum) =
                (take::<8>(&mut self.rest)?, take::<4>(&mut self.rest)?, take::<4>(&mut self.rest)?);
            let (start, length) = (u64::from_le_bytes(at), u32::from_le_bytes(len));
            if start == END {
                let whole = length == count && sum == checksum(&[&at, &len]);
                return if whole {
                    Ok(self.head)
                } else {
                    Err(SavedError::Damaged("its end is not what was written"))
                };
            }
            let within = start.checked_add(length.into()).is_some_and(|end| end <= self.head.memory);
            let Some(bytes) = buffer.get_mut(..length as usize).filter(|_| within) else {
                return Err(SavedError::Damaged("a piece of its memory is out of place"));
            };
            self.rest.read_exact(bytes).map_err(cut_short)?;
            if sum != checksum(&[&at, &len, bytes]) {
                return Err(SavedError::Damaged("a piece of its memory is not what was written"));
            }
            write(start, bytes)?;
            count = count.wrapping_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use proptest::prelude::*;

    use super::*;

    const MEMORY: usize = 1 << 20;

    fn sample(dir: &Path) -> (Vec<u8>, Vec<u8>) {
        let mut memory = vec![0; MEMORY];
        memory[4096..9000].fill(7);
        memory[500_000..900_000].fill(9);
        let head = Head { note: "{\"a\":1}".into(), devices: vec![5; 300], memory: MEMORY as u64 };
        let path = dir.join("saved");
        let read = |at: u64, into: &mut [u8]| {
            let at = usize::try_from(at).unwrap();
            into.copy_from_slice(&memory[at..at + into.len()]);
            Ok(())
        };
        let length = write(&path, &head, &[4096..9000, 500_000..900_000], read).unwrap();
        let file = std::fs::read(&path).unwrap();
        assert_eq!((file.len() as u64, std::fs::read_dir(dir).unwrap().count()), (length, 1));
        (file, memory)
    }

    fn load(file: &[u8]) -> Result<(Head, Vec<u8>), SavedError> {
        let memory = RefCell::new(vec![0; MEMORY]);
        let saved = parse(file)?;
        assert!(saved.head().memory <= MEMORY as u64, "the sums let another head pass");
        let head = saved.fill(|at, bytes| {
            let at = usize::try_from(at).unwrap();
            memory.borrow_mut()[at..at + bytes.len()].copy_from_slice(bytes);
            Ok(())
        })?;
        Ok((head, memory.into_inner()))
    }

    #[test]
    fn a_file_that_is_not_finished_names_its_writer() {
        assert_eq!(writer("abc.template.123.partial"), Some(123));
        assert_eq!(writer("abc.template"), None);
        assert_eq!(writer("x.partial"), None);
    }

    #[test]
    fn what_was_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let (file, memory) = sample(dir.path());
        let (head, loaded) = load(&file).unwrap();
        assert_eq!((head.note.as_str(), head.devices.as_slice()), ("{\"a\":1}", [5; 300].as_slice()));
        assert!(loaded == memory);
    }

    #[test]
    fn a_file_that_ends_anywhere_before_its_end_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (file, _) = sample(dir.path());
        for length in
            (0..file.len()).filter(|length| *length < 400 || length % 4093 == 0 || file.len() - length < 40)
        {
            assert!(matches!(load(&file[..length]), Err(SavedError::Damaged(_))), "{length}");
        }
    }

    proptest! {
        #[test]
        fn a_file_with_one_other_byte_is_refused(at: prop::sample::Index, bit in 0u32..8) {
            let dir = tempfile::tempdir().unwrap();
            let (mut file, _) = sample(dir.path());
            let at = at.index(file.len());
            file[at] ^= 1 << bit;
            prop_assert!(load(&file).is_err());
        }

        #[test]
        fn arbitrary_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400), begins_well: bool) {
            let file = if begins_well { [&MAGIC, bytes.as_slice()].concat() } else { bytes };
            prop_assert!(load(&file).is_err());
        }
    }
}
