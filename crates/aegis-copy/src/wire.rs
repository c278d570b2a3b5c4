//! The stream: a greeting, then records, the last of which is an end or a failure.
//!
//! ```text
//! greeting  8 bytes
//! record    kind u8, 0, path length u16, target length u16, mode u16, nanoseconds u32, seconds i64, number u64
//!           path, target, then for a file its contents in chunks
//! ```
//!
//! Numbers are little-endian. Paths are relative to the root of the tree, whose own path is empty; it comes first.

use std::io::{Read, Write};

use crate::CopyError;

/// The last byte is the version: a guest that went on from where it was saved may have an older end.
pub(crate) const GREETING: &[u8; 8] = b"AEGISCP2";
/// Length of a record without its texts.
const RECORD: usize = 28;
/// Longest path or target: `PATH_MAX`.
pub(crate) const MOST_TEXT: usize = 4096;

const END: u8 = 0;
const DIRECTORY: u8 = 1;
const FILE: u8 = 2;
const SYMLINK: u8 = 3;
const FAILURE: u8 = 4;

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    /// Its contents follow, see [`crate::chunks`].
    File,
    /// With its target.
    Symlink(Vec<u8>),
}

/// A file of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permission bits.
    pub(crate) mode: u16,
    /// Modification time: seconds since 1970, and nanoseconds.
    pub(crate) mtime: (i64, u32),
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    Entry(Entry),
    /// That was all, so many entries.
    End(u64),
    /// It went wrong; the cause.
    Failure(String),
}

fn cut(text: &str) -> &[u8] {
    text.as_bytes().get(..text.len().min(MOST_TEXT)).unwrap_or_default()
}

/// Writes a record; nothing of it if a text is too long.
pub(crate) fn write(record: &Record, to: &mut impl Write) -> Result<(), CopyError> {
    let (kind, size) = match record {
        Record::End(count) => (END, *count),
        Record::Failure(_) => (FAILURE, 0),
        Record::Entry(Entry { kind: Kind::Directory, .. }) => (DIRECTORY, 0),
        Record::Entry(Entry { kind: Kind::File, .. }) => (FILE, 0),
        Record::Entry(Entry { kind: Kind::Symlink(_), .. }) => (SYMLINK, 0),
    };
    let (path, mode, mtime) = match record {
        Record::End(_) => (&b""[..], 0, (0, 0)),
        Record::Failure(cause) => (cut(cause), 0, (0, 0)),
        Record::Entry(Entry { path, mode, mtime, .. }) => (path.as_slice(), *mode, *mtime),
    };
    let target = match record {
        Record::Entry(Entry { kind: Kind::Symlink(target), .. }) => target.as_slice(),
        _ => &[],
    };
    let length = |text: &[u8]| {
        let length = u16::try_from(text.len()).ok().filter(|_| text.len() <= MOST_TEXT);
        length.ok_or_else(|| CopyError::Stream(format!("a path of {} bytes", text.len())))
    };
    let (path_len, target_len) = (length(path)?, length(target)?);
    let mut bytes = Vec::with_capacity(RECORD + path.len() + target.len());
    bytes.extend([kind, 0]);
    bytes.extend(path_len.to_le_bytes());
    bytes.extend(target_len.to_le_bytes());
    bytes.extend(mode.to_le_bytes());
    bytes.extend(mtime.1.to_le_bytes());
    bytes.extend(mtime.0.to_le_bytes());
    bytes.extend(size.to_le_bytes());
    bytes.extend(path);
    bytes.extend(target);
    to.write_all(&bytes).map_err(CopyError::stream)
}

fn text(length: u16, from: &mut impl Read) -> Result<Vec<u8>, CopyError> {
    if usize::from(length) > MOST_TEXT {
        return Err(CopyError::Stream(format!("a path of {length} bytes")));
    }
    let mut text = vec![0; usize::from(length)];
    from.read_exact(&mut text).map_err(CopyError::stream)?;
    Ok(text)
}

/// Bytes of a record, from `at` on.
fn field<const N: usize>(bytes: &[u8; RECORD], at: usize) -> [u8; N] {
    std::array::from_fn(|i| bytes.get(at + i).copied().unwrap_or(0))
}

/// Reads a greeting.
pub(crate) fn greeted(from: &mut impl Read) -> Result<(), CopyError> {
    let mut greeting = [0; GREETING.len()];
    from.read_exact(&mut greeting).map_err(CopyError::stream)?;
    let (ours, theirs) = (GREETING.split_last(), greeting.split_last());
    match (theirs, ours) {
        (Some(theirs), Some(ours)) if theirs == ours => Ok(()),
        (Some((_, theirs)), Some((_, ours))) if theirs == ours => Err(CopyError::OtherVersion),
        _ => Err(CopyError::Stream("it does not greet".to_owned())),
    }
}

/// Reads a record. The contents of a file are left in the reader.
pub(crate) fn read(from: &mut impl Read) -> Result<Record, CopyError> {
    let mut bytes = [0; RECORD];
    from.read_exact(&mut bytes).map_err(CopyError::stream)?;
    let path = text(u16::from_le_bytes(field(&bytes, 2)), from)?;
    let target = text(u16::from_le_bytes(field(&bytes, 4)), from)?;
    let size = u64::from_le_bytes(field(&bytes, 20));
    let kind = match bytes[0] {
        END => return Ok(Record::End(size)),
        FAILURE => return Ok(Record::Failure(printable(&path))),
        DIRECTORY => Kind::Directory,
        FILE => Kind::File,
        SYMLINK => Kind::Symlink(target),
        other => return Err(CopyError::Stream(format!("a record of kind {other}"))),
    };
    let mtime = (i64::from_le_bytes(field(&bytes, 12)), u32::from_le_bytes(field(&bytes, 8)));
    if mtime.1 >= 1_000_000_000 {
        return Err(CopyError::Stream("a time out of range".to_owned()));
    }
    Ok(Record::Entry(Entry { path, kind, mode: u16::from_le_bytes(field(&bytes, 6)) & 0o7777, mtime }))
}

pub(crate) fn printable(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_record_comes_back(
            path in prop::collection::vec(any::<u8>(), 0..100), target in prop::collection::vec(any::<u8>(), 0..100),
            mode in 0u16..0o10_000, seconds in any::<i64>(), nanoseconds in 0u32..1_000_000_000, size in any::<u64>(), pick in 0u8..5,
        ) {
            let entry = |kind| Record::Entry(Entry { path: path.clone(), kind, mode, mtime: (seconds, nanoseconds) });
            let record = match pick {
                0 => Record::End(size),
                1 => Record::Failure("no room".to_owned()),
                2 => entry(Kind::Directory),
                3 => entry(Kind::File),
                _ => entry(Kind::Symlink(target)),
            };
            let mut bytes = Vec::new();
            write(&record, &mut bytes).unwrap();
            prop_assert_eq!(read(&mut bytes.as_slice()).unwrap(), record);
            bytes.pop();
            prop_assert!(read(&mut bytes.as_slice()).is_err(), "cut off");
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(read(&mut bytes.as_slice()));
        }
    }
}
