//! The journal of the inode table: a server that takes another one's place knows its inodes.
//!
//! A file of records, appended before the answer that makes them known goes out. It outlives the process and not the
//! host, and neither does the guest. A record that was cut off ends it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use crate::inode_table::{Change, InodeTable};

/// Shortest journal that is worth writing anew, bytes.
const LEAST: u64 = 1 << 20;
/// What a node takes in it, about, bytes.
const NODE: u64 = 80;
/// Longest journal that is read, bytes.
pub const MOST: u64 = 1 << 30;

/// The journal of one export.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    len: u64,
    buffer: Vec<u8>,
}

impl Journal {
    /// Opens a journal, and makes `nodes` what it tells.
    pub(crate) fn open(path: &Path, nodes: &mut InodeTable) -> io::Result<Journal> {
        let mut file = File::options().read(true).append(true).create(true).open(path)?;
        let mut bytes = Vec::new();
        Read::by_ref(&mut file).take(MOST).read_to_end(&mut bytes)?;
        let read = replay(&bytes, nodes);
        // What was cut off would make nonsense of what follows.
        file.set_len(read)?;
        Ok(Journal { file, len: read, buffer: Vec::new() })
    }

    /// Writes down what has changed since the last time.
    pub(crate) fn note(&mut self, nodes: &mut InodeTable) -> io::Result<()> {
        let changes = nodes.take_changes();
        if changes.is_empty() {
            return Ok(());
        }
        self.append(changes)?;
        if self.len > LEAST && self.len > 4 * NODE * nodes.len() as u64 {
            self.file.set_len(0)?;
            self.len = 0;
            self.append(nodes.all())?;
        }
        Ok(())
    }

    fn append(&mut self, changes: Vec<Change>) -> io::Result<()> {
        self.buffer.clear();
        for change in changes {
            let record = postcard::to_allocvec(&change).map_err(io::Error::other)?;
            self.buffer.extend(u32::try_from(record.len()).unwrap_or(0).to_le_bytes());
            self.buffer.extend(record);
        }
        self.file.write_all(&self.buffer)?;
        self.len += self.buffer.len() as u64;
        Ok(())
    }
}

/// Applies records, and returns how far they are whole.
pub(crate) fn replay(bytes: &[u8], nodes: &mut InodeTable) -> u64 {
    let mut rest = bytes;
    loop {
        let record = rest
            .split_first_chunk::<4>()
            .and_then(|(len, after)| after.split_at_checked(usize::try_from(u32::from_le_bytes(*len)).ok()?));
        let Some((record, after)) = record else { break };
        let Ok(change) = postcard::from_bytes::<Change>(record) else { break };
        nodes.apply(change);
        rest = after;
    }
    (bytes.len() - rest.len()) as u64
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;
    use crate::inode_table::{Key, Place, ROOT};
    use proptest::prelude::*;

    fn key(inode: u64) -> Key {
        Key { device: 1, inode, born: 5 }
    }

    #[test]
    fn another_server_knows_what_the_last_one_told_the_guest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let mut nodes = InodeTable::new(key(0));
        let mut journal = Journal::open(&path, &mut nodes).unwrap();
        let a = nodes.found(ROOT, OsStr::new("a"), key(1)).unwrap();
        let b = nodes.found(a, OsStr::new("b"), key(2)).unwrap();
        let gone = nodes.found(ROOT, OsStr::new("gone"), key(3)).unwrap();
        journal.note(&mut nodes).unwrap();
        nodes.moved(Place { parent: a, name: "b".into() }, Place { parent: ROOT, name: "c".into() });
        nodes.forget(gone, 1);
        journal.note(&mut nodes).unwrap();
        let mut again = InodeTable::new(key(0));
        drop(Journal::open(&path, &mut again).unwrap());
        assert_eq!(again.key(b), Some(key(2)));
        assert_eq!(again.at(ROOT, OsStr::new("c")), Some(b));
        assert_eq!(again.key(gone), None);
        assert!(again.found(ROOT, OsStr::new("new"), key(4)).unwrap() > gone);
    }

    #[test]
    fn a_journal_does_not_grow_without_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let mut nodes = InodeTable::new(key(0));
        let mut journal = Journal::open(&path, &mut nodes).unwrap();
        let kept = nodes.found(ROOT, OsStr::new("kept"), key(1)).unwrap();
        for number in 2..100_000 {
            let id = nodes.found(ROOT, OsStr::new("x"), key(number)).unwrap();
            nodes.forget(id, 1);
            journal.note(&mut nodes).unwrap();
        }
        assert!(path.metadata().unwrap().len() < 2 * LEAST);
        let mut again = InodeTable::new(key(0));
        drop(Journal::open(&path, &mut again).unwrap());
        assert_eq!(again.at(ROOT, OsStr::new("kept")), Some(kept));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_a_journal_up_to_some_point(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut nodes = InodeTable::new(key(0));
            prop_assert!(replay(&bytes, &mut nodes) <= bytes.len() as u64);
            prop_assert!(nodes.key(ROOT).is_some());
        }
    }
}
