//! What the fuzzer drives; see `fuzz/`.

use std::ffi::OsStr;
use std::hash::{Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aegis_fuzz::{Fence, Target};

use crate::chunks::{self, Chunk};
use crate::wire::{self, GREETING, Kind};
use crate::{Limits, Target as Place, pack, unpack};

const LIMITS: Limits = Limits { entries: 200, bytes: 1 << 20, size: 1 << 24, link: false };

/// A stream without its greeting, unpacked into a directory with links that lead out of it. Then the directory is packed.
///
/// # Panics
/// If anything outside is changed, or read.
pub fn unpacked(bytes: &[u8]) {
    let Some((mode, stream)) = bytes.split_first() else { return };
    let fence = Fence::new();
    let inside = fence.inside();
    // Into the directory, in place of it, as something new, in place of a file, and of a link.
    let place = match mode & 7 {
        0 => Place::open(&inside, None),
        1 => Place::open(&inside, Some(OsStr::new("new"))),
        2 => Place::open(&inside, Some(OsStr::new("d"))),
        3 => Place::open(&inside, Some(OsStr::new("l"))),
        4 => Place::exactly(&inside.join("m")),
        5 => Place::exactly(&inside.join("l")),
        _ => Place::open(&inside.join("d"), None),
    };
    let Ok(place) = place else { return };
    let limits = Limits { link: mode & 8 != 0, ..LIMITS };
    let stream = [GREETING.as_slice(), stream].concat();
    if let Ok(count) = unpack(place, stream.as_slice(), None, limits) {
        assert!(count > 0 && count <= limits.entries);
    }
    fence.check();
    let mut packed = Vec::new();
    if pack(&inside, &mut packed).is_ok() {
        fence.check_shown(&packed);
        same_again(&packed);
    }
}

/// What was packed can be unpacked.
fn same_again(packed: &[u8]) {
    let Ok(dir) = tempfile::tempdir_in(aegis_fuzz::scratch()) else { return };
    let copied = Place::open(dir.path(), Some(OsStr::new("copy")))
        .and_then(|place| unpack(place, packed, None, Limits::default()));
    copied.unwrap_or_else(|error| panic!("what was packed is not taken: {error}"));
    let mut again = Vec::new();
    pack(&dir.path().join("copy"), &mut again).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(essence(packed), essence(&again));
}

/// What a stream says but for times of directories, and for how contents are cut into chunks: what is a hole in one file
/// system may be zeros in another.
fn essence(stream: &[u8]) -> Vec<(Vec<u8>, u16, Kind, u64, u64)> {
    let (mut rest, mut all) = (stream.get(GREETING.len()..).unwrap_or_default(), Vec::new());
    while let Ok(wire::Record::Entry(entry)) = wire::read(&mut rest) {
        let (size, hash) = if entry.kind == Kind::File { digest(&mut rest) } else { (0, 0) };
        all.push((entry.path, entry.mode, entry.kind, size, hash));
    }
    all
}

/// Size of a file in the stream, and a hash of what of it is not zero.
fn digest(from: &mut &[u8]) -> (u64, u64) {
    let (mut size, mut contents) = (0, std::hash::DefaultHasher::new());
    loop {
        match chunks::read(from) {
            Ok(Chunk::Data(count)) => {
                let (data, others) = from.split_at_checked(count).unwrap_or_default();
                (size..).zip(data).filter(|(_, byte)| **byte != 0).for_each(|one| one.hash(&mut contents));
                size += count as u64;
                *from = others;
            }
            Ok(Chunk::Hole(count)) => size += count,
            _ => return (size, contents.finish()),
        }
    }
}

/// Chunks of a file, one after the other.
///
/// # Panics
/// If one is written otherwise than it is read, or has more data than it may have.
pub fn contents(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok(chunk) = chunks::read(&mut rest) {
        let mut written = Vec::new();
        let _vectors_take_all = chunks::write(chunk, &mut written);
        assert_eq!(chunks::read(&mut written.as_slice()).ok(), Some(chunk));
        if let Chunk::Data(count) = chunk {
            assert!((1..=chunks::CHUNK).contains(&count));
            rest = rest.get(count..).unwrap_or_default();
        }
    }
}

/// Records, one after the other.
///
/// # Panics
/// If one is written otherwise than it is read.
pub fn records(bytes: &[u8]) {
    contents(bytes);
    let mut rest = bytes;
    while let Ok(record) = wire::read(&mut rest) {
        let mut written = Vec::new();
        // The words of a failure may be longer than they were when they are made printable, and are cut.
        if wire::write(&record, &mut written).is_ok() && !matches!(record, wire::Record::Failure(_)) {
            assert_eq!(wire::read(&mut written.as_slice()).ok(), Some(record));
        }
        if rest.is_empty() {
            break;
        }
    }
    let _last = crate::name_of(OsStr::from_bytes(bytes))
        .map(|name| assert!(!name.as_bytes().contains(&b'/') && Path::new(name).file_name().is_some()));
}

/// All of them by name; the seeds of each are in `fuzz/seeds/NAME`.
pub const TARGETS: [(&str, Target); 2] = [("copy-unpack", unpacked), ("copy-records", records)];

#[cfg(test)]
mod tests {
    #[test]
    fn seeds() {
        aegis_fuzz::replay(&super::TARGETS);
    }
}
