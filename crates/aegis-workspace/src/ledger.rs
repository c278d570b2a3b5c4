//! How much is in a directory with a limit: counted together by all servers of that directory.
//!
//! The count is eight bytes of a file. Whoever comes first, which the lock tells, counts what is there; the others go
//! on from that. A reservation is made before anything grows, so the limit holds at each moment.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::Limit;

/// What a name takes, whatever it stands for, bytes: the space that no file's size tells.
pub(crate) const NAME_COST: u64 = 4096;

/// A count and its limit.
#[derive(Debug)]
pub(crate) struct Ledger {
    count: File,
    /// Held shared as long as this server lives.
    _presence: File,
    limit: u64,
}

fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).open(path)
}

impl Ledger {
    /// Joins the count of a directory, or begins it.
    pub(crate) fn open(root: &Path, limit: &Limit) -> io::Result<Ledger> {
        if let Some(parent) = limit.ledger.parent() {
            fs::create_dir_all(parent)?;
        }
        let count = open(&limit.ledger)?;
        let presence = open(&limit.ledger.with_extension("lock"))?;
        if flock(&presence, FlockOperation::NonBlockingLockExclusive).is_ok() {
            count.write_all_at(&used(root)?.to_ne_bytes(), 0)?;
        }
        flock(&presence, FlockOperation::LockShared)?;
        Ok(Ledger { count, _presence: presence, limit: limit.bytes })
    }

    /// How much may be in the directory, and how much is, bytes.
    pub(crate) fn state(&self) -> (u64, u64) {
        (self.limit, self.read().unwrap_or(self.limit))
    }

    fn read(&self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.count.read_exact_at(&mut bytes, 0)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    fn change(&self, change: impl FnOnce(u64) -> Result<u64, Errno>) -> Result<(), Errno> {
        let failed = |_: io::Error| Errno::IO;
        flock(&self.count, FlockOperation::LockExclusive)?;
        let result = self
            .read()
            .map_err(failed)
            .and_then(change)
            .and_then(|new| self.count.write_all_at(&new.to_ne_bytes(), 0).map_err(failed));
        flock(&self.count, FlockOperation::Unlock)?;
        result
    }

    /// Takes space that is about to be used.
    ///
    /// # Errors
    /// `ENOSPC`.
    pub(crate) fn take(&self, bytes: u64) -> Result<(), Errno> {
        if bytes == 0 {
            return Ok(());
        }
        let within = |used: u64| used.checked_add(bytes).filter(|new| *new <= self.limit);
        self.change(|used| within(used).ok_or(Errno::NOSPC))
    }

    /// Gives space back.
    pub(crate) fn give(&self, bytes: u64) {
        if bytes > 0 {
            // A count that is too high refuses too much, until the next time that it is begun.
            let _lost = self.change(|used| Ok(used.saturating_sub(bytes)));
        }
    }
}

/// How much is in a directory: sizes of files, and a little for each name. Files with several names count once.
fn used(root: &Path) -> io::Result<u64> {
    let mut all = 0u64;
    let mut linked = HashSet::new();
    let mut open: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            all = all.saturating_add(NAME_COST);
            let Ok(status) = entry.metadata() else { continue };
            if status.is_dir() {
                open.push(entry.path());
            } else if status.is_file() && (status.nlink() == 1 || linked.insert((status.dev(), status.ino())))
            {
                all = all.saturating_add(status.len());
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(dir: &Path, bytes: u64) -> Limit {
        Limit { bytes, ledger: dir.join("ledgers/one") }
    }

    #[test]
    fn the_limit_holds_over_all_servers_of_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("w");
        fs::create_dir(&root).unwrap();
        fs::write(root.join("a"), vec![0; 1000]).unwrap();
        fs::hard_link(root.join("a"), root.join("b")).unwrap();
        let one = Ledger::open(&root, &limit(dir.path(), 20_000)).unwrap();
        assert_eq!(one.state(), (20_000, 1000 + 2 * NAME_COST));
        let other = Ledger::open(&root, &limit(dir.path(), 20_000)).unwrap();
        one.take(6000).unwrap();
        assert_eq!(other.take(6000), Err(Errno::NOSPC));
        one.give(1000);
        other.take(5000).unwrap();
    }

    #[test]
    fn whoever_comes_first_counts_anew() {
        let dir = tempfile::tempdir().unwrap();
        let first = Ledger::open(dir.path(), &limit(dir.path(), 1 << 30)).unwrap();
        first.take(1 << 20).unwrap();
        drop(first);
        let again = Ledger::open(dir.path(), &limit(dir.path(), 1 << 30)).unwrap();
        assert!(again.state().1 < 1 << 20);
    }
}
