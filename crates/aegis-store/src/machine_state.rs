//! The machine-state file format: devices, and those parts of the memory that are not zero.
//!
//! ```text
//!   head    magic (16)  note length (4)  devices length (4)  memory (8)  note  devices  crc (4)
//!   piece   at (8)  length (4)  crc (4)  bytes                                             any number
//!   end     all ones (8)  number of pieces (4)  crc (4)
//! ```
//!
//! Integers are little endian; a CRC-32 covers all that stands before it in its part and, in a piece, its bytes. In a
//! sealed file devices and the bytes of pieces are sealed, with the numbers 0, 1 and so on; it has a magic of its own. Such
//! a file is a cache: it is not synced, and one that a crash has cut short, or that has changed since, is refused
//! before anything is made of it. All functions block.

mod encryption;

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::ops::Range;
use std::path::Path;

use thiserror::Error;

pub use encryption::Key;
use encryption::{Place, TAG};

use crate::free_space::check_for;
use crate::orphans::PARTIAL;

const MAGIC: [u8; 16] = *b"AEGIS-saved-v1\x0d\x0a";
const SEALED_MAGIC: [u8; 16] = *b"AEGIS-seald-v1\x0d\x0a";
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
pub enum MachineStateError {
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

/// Writes a file of which `extents` is what memory there is, and `read` gives it; sealed, if there is a key. Returns its
/// length, bytes. It appears under its name when it is whole.
///
/// # Errors
/// The system's; [`MachineStateError::Damaged`] if the head is beyond the bounds.
pub fn write(
    path: &Path,
    head: &Head,
    extents: &[Range<u64>],
    read: impl Fn(u64, &mut [u8]) -> io::Result<()>,
    key: Option<&Key>,
) -> Result<u64, MachineStateError> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}{PARTIAL}", std::process::id()));
    let partial = Path::new(&partial);
    let written = write_to(partial, head, extents, read, key).and_then(|length| {
        std::fs::rename(partial, path)?;
        Ok(length)
    });
    written.inspect_err(|_| {
        // What cannot be removed here, the next sweep of its directory removes.
        let _absent = std::fs::remove_file(partial);
    })
}

fn write_to(
    path: &Path,
    head: &Head,
    extents: &[Range<u64>],
    read: impl Fn(u64, &mut [u8]) -> io::Result<()>,
    key: Option<&Key>,
) -> Result<u64, MachineStateError> {
    if head.note.len() > MOST_NOTE || head.devices.len() > MOST_DEVICES || head.memory > MOST_MEMORY {
        return Err(MachineStateError::Damaged("there is more of the machine than can be saved"));
    }
    let file = File::create(path)?;
    check_for(&file, extents.iter().map(|extent| extent.end.saturating_sub(extent.start)).sum())?;
    let mut file = BufWriter::with_capacity(PIECE, file);
    let memory = head.memory.to_le_bytes();
    let devices = sealed(key, 0, Place::Devices, &head.devices)?;
    let (note, devices) = (head.note.as_bytes(), &*devices);
    let magic = if key.is_some() { &SEALED_MAGIC } else { &MAGIC };
    let parts: [&[u8]; 6] = [magic, &length(note), &length(devices), &memory, note, devices];
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
            count += 1;
            write_piece(&mut file, at, &sealed(key, count.into(), Place::Memory(at), bytes)?)?;
        }
    }
    let end = [END.to_le_bytes().as_slice(), &count.to_le_bytes()].concat();
    file.write_all(&end)?;
    file.write_all(&checksum(&[&end]))?;
    let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
    Ok(file.metadata()?.len())
}

/// The bytes as they are written.
fn sealed<'a>(
    key: Option<&Key>,
    number: u64,
    place: Place,
    bytes: &'a [u8],
) -> Result<Cow<'a, [u8]>, MachineStateError> {
    let Some(key) = key else { return Ok(Cow::Borrowed(bytes)) };
    let sealed = key.seal(number, place, bytes);
    sealed.map(Cow::Owned).ok_or(MachineStateError::Damaged("a piece of it cannot be sealed"))
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
pub struct MachineState<R> {
    head: Head,
    sealed: bool,
    key: Option<Key>,
    rest: R,
}

/// Opens a file.
///
/// # Errors
/// The system's; [`MachineStateError::Damaged`].
pub fn open(path: &Path) -> Result<MachineState<BufReader<File>>, MachineStateError> {
    parse(BufReader::with_capacity(PIECE, File::open(path)?))
}

fn take<const N: usize>(from: &mut impl Read) -> Result<[u8; N], MachineStateError> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes).map_err(cut_short)?;
    Ok(bytes)
}

fn take_many(from: &mut impl Read, len: usize) -> Result<Vec<u8>, MachineStateError> {
    let mut bytes = vec![0; len];
    from.read_exact(&mut bytes).map_err(cut_short)?;
    Ok(bytes)
}

fn cut_short(error: io::Error) -> MachineStateError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => MachineStateError::Damaged("it is cut short"),
        _ => error.into(),
    }
}

/// Reads the head; the rest follows behind it.
///
/// # Errors
/// The reader's; [`MachineStateError::Damaged`].
pub fn parse<R: Read>(mut from: R) -> Result<MachineState<R>, MachineStateError> {
    let damaged = MachineStateError::Damaged("its head is not what was written");
    let magic = take::<16>(&mut from)?;
    if magic != MAGIC && magic != SEALED_MAGIC {
        return Err(MachineStateError::Damaged("it is no saved machine"));
    }
    let (note_len, devices_len) = (take::<4>(&mut from)?, take::<4>(&mut from)?);
    let memory = take::<8>(&mut from)?;
    let [note, devices] = [note_len, devices_len].map(|len| u32::from_le_bytes(len) as usize);
    if note > MOST_NOTE || devices > MOST_DEVICES || u64::from_le_bytes(memory) > MOST_MEMORY {
        return Err(damaged);
    }
    let (note, devices) = (take_many(&mut from, note)?, take_many(&mut from, devices)?);
    let sum = checksum(&[&magic, &note_len, &devices_len, &memory, &note, &devices]);
    if take::<4>(&mut from)? != sum {
        return Err(damaged);
    }
    let note = String::from_utf8(note).map_err(|_| damaged)?;
    let head = Head { note, devices, memory: u64::from_le_bytes(memory) };
    Ok(MachineState { head, sealed: magic == SEALED_MAGIC, key: None, rest: from })
}

impl<R: Read> MachineState<R> {
    /// Opens one that was sealed with this key.
    ///
    /// # Errors
    /// [`MachineStateError::Damaged`] if it was not.
    pub fn unseal(mut self, key: Key) -> Result<MachineState<R>, MachineStateError> {
        let damaged = MachineStateError::Damaged("it was not sealed with this key");
        let opened = key.open(0, Place::Devices, &mut self.head.devices).map(<[u8]>::to_vec);
        self.head.devices = opened.filter(|_| self.sealed).ok_or(damaged)?;
        self.key = Some(key);
        Ok(self)
    }

    /// All but the memory. The devices of a sealed one can be read when it was opened.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Gives all of the memory that is not zero to `write`, piece by piece, each of them checked. What was written is
    /// of use only if this succeeds.
    ///
    /// # Errors
    /// The reader's and the writer's; [`MachineStateError::Damaged`].
    pub fn fill(mut self, write: impl Fn(u64, &[u8]) -> io::Result<()>) -> Result<Head, MachineStateError> {
        if self.sealed && self.key.is_none() {
            return Err(MachineStateError::Damaged("it is sealed"));
        }
        let mut buffer = vec![0; PIECE + TAG];
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
                    Err(MachineStateError::Damaged("its end is not what was written"))
                };
            }
            let plain = (length as usize).checked_sub(if self.sealed { TAG } else { 0 });
            let end = plain.and_then(|plain| start.checked_add(plain as u64));
            let within = end.is_some_and(|end| end <= self.head.memory);
            let Some(bytes) = buffer.get_mut(..length as usize).filter(|_| within) else {
                return Err(MachineStateError::Damaged("a piece of its memory is out of place"));
            };
            self.rest.read_exact(bytes).map_err(cut_short)?;
            if sum != checksum(&[&at, &len, bytes]) {
                return Err(MachineStateError::Damaged("a piece of its memory is not what was written"));
            }
            count = count.wrapping_add(1);
            let plain = match &self.key {
                None => &*bytes,
                Some(key) => key.open(count.into(), Place::Memory(start), bytes).ok_or(
                    MachineStateError::Damaged("a piece of its memory was not sealed with this key"),
                )?,
            };
            write(start, plain)?;
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
        sample_with(dir, None)
    }

    fn sample_with(dir: &Path, key: Option<&Key>) -> (Vec<u8>, Vec<u8>) {
        let mut memory = vec![0; MEMORY];
        memory[4096..9000].fill(7);
        memory[500_000..].fill(9);
        let head = Head { note: "{\"a\":1}".into(), devices: vec![5; 300], memory: MEMORY as u64 };
        let path = dir.join("saved");
        let read = |at: u64, into: &mut [u8]| {
            let at = usize::try_from(at).unwrap();
            into.copy_from_slice(&memory[at..at + into.len()]);
            Ok(())
        };
        let length = write(&path, &head, &[4096..9000, 500_000..MEMORY as u64], read, key).unwrap();
        let file = std::fs::read(&path).unwrap();
        assert_eq!((file.len() as u64, std::fs::read_dir(dir).unwrap().count()), (length, 1));
        (file, memory)
    }

    fn load(file: &[u8]) -> Result<(Head, Vec<u8>), MachineStateError> {
        load_with(file, None)
    }

    fn load_with(file: &[u8], key: Option<Key>) -> Result<(Head, Vec<u8>), MachineStateError> {
        let memory = RefCell::new(vec![0; MEMORY]);
        let saved = parse(file)?;
        let saved = match key {
            Some(key) => saved.unseal(key)?,
            None => saved,
        };
        assert!(saved.head().memory <= MEMORY as u64, "the sums let another head pass");
        let head = saved.fill(|at, bytes| {
            let at = usize::try_from(at).unwrap();
            memory.borrow_mut()[at..at + bytes.len()].copy_from_slice(bytes);
            Ok(())
        })?;
        Ok((head, memory.into_inner()))
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
    fn what_is_sealed_is_read_with_its_key_and_by_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let key = Key::random().unwrap();
        let again = || Key::from_hex(&key.to_hex());
        let (file, memory) = sample_with(dir.path(), Some(&key));
        let (head, loaded) = load_with(&file, again()).unwrap();
        assert_eq!(head.devices, [5; 300]);
        assert!(loaded == memory);
        let shows = |bytes: &[u8]| file.windows(bytes.len()).any(|part| part == bytes);
        assert!(!shows(&[7; 16]) && !shows(&[9; 16]) && !shows(&[5; 16]));
        assert!(load(&file).is_err(), "without a key");
        assert!(load_with(&file, Key::random()).is_err(), "with another one");
        let (clear, _) = sample(dir.path());
        assert!(load_with(&clear, again()).is_err(), "one that is not sealed");
        assert!(Key::from_hex("00ff").is_none() && Key::from_hex("x").is_none());
    }

    #[test]
    fn a_file_that_ends_anywhere_before_its_end_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (file, _) = sample(dir.path());
        for length in
            (0..file.len()).filter(|length| *length < 400 || length % 4093 == 0 || file.len() - length < 40)
        {
            assert!(matches!(load(&file[..length]), Err(MachineStateError::Damaged(_))), "{length}");
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
            let key = Key::random().unwrap();
            let (mut file, _) = sample_with(dir.path(), Some(&key));
            let at = at.min(file.len() - 1);
            file[at] ^= 1 << bit;
            prop_assert!(load_with(&file, Some(key)).is_err());
        }

        #[test]
        fn arbitrary_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            for file in [bytes.clone(), [&MAGIC, bytes.as_slice()].concat(), [&SEALED_MAGIC, bytes.as_slice()].concat()] {
                prop_assert!(load(&file).is_err() && load_with(&file, Key::random()).is_err());
            }
        }
    }
}
