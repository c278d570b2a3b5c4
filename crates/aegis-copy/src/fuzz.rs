//! What the fuzzer drives; see `fuzz/`.

use std::path::Path;

use aegis_fuzz::{Fence, Target};

use crate::wire::{self, GREETING};
use crate::{Limits, Target as Place, pack, unpack};

const LIMITS: Limits = Limits { entries: 200, bytes: 1 << 20, link: false };

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
        1 => Place::open(&inside, Some("new")),
        2 => Place::open(&inside, Some("d")),
        3 => Place::open(&inside, Some("l")),
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
    let copied = Place::open(dir.path(), Some("copy"))
        .and_then(|place| unpack(place, packed, None, Limits::default()));
    copied.unwrap_or_else(|error| panic!("what was packed is not taken: {error}"));
    let mut again = Vec::new();
    pack(&dir.path().join("copy"), &mut again).unwrap_or_else(|error| panic!("{error}"));
    // The times of directories differ, and nothing else; so the lengths do not.
    assert_eq!(packed.len(), again.len());
}

/// Records, one after the other.
///
/// # Panics
/// If one is written otherwise than it is read.
pub fn records(bytes: &[u8]) {
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
    let _last = crate::name_of(&String::from_utf8_lossy(bytes))
        .map(|name| assert!(!name.contains('/') && Path::new(name).file_name().is_some()));
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
