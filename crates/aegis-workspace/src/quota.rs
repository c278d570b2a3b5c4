//! Quota accounting: how much is in a directory with a limit, counted together by all servers of that directory.
//!
//! The count is eight bytes of a file. Whoever comes first, which the lock tells, counts what is there; the others go
//! on from that. A reservation is made before anything grows, so the limit holds at each moment.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, flock, openat, statat};
use rustix::io::Errno;

use crate::Limit;

/// What a name takes, whatever it stands for, bytes: the space that no file's size tells.
pub(crate) const NAME_COST: u64 = 4096;

/// A count and its limit.
#[derive(Debug)]
pub(crate) struct Quota {
    count: File,
    /// Held shared as long as this server lives.
    _presence: File,
    limit: u64,
}

fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).open(path)
}

impl Limit {
    /// Makes the files of the count, if they are not there: a server sees these and not their directory, in which there are
    /// those of other directories. Returns their paths.
    ///
    /// # Errors
    /// The system's.
    pub fn make(&self) -> io::Result<[PathBuf; 2]> {
        if let Some(parent) = self.ledger.parent() {
            fs::create_dir_all(parent)?;
        }
        let files = [self.ledger.clone(), self.ledger.with_extension("lock")];
        files.iter().try_for_each(|path| open(path).map(drop))?;
        Ok(files)
    }
}

impl Quota {
    /// Joins the count of a directory, or begins it.
    pub(crate) fn open(root: BorrowedFd<'_>, limit: &Limit) -> io::Result<Quota> {
        let [count, presence] = limit.make()?;
        let (count, presence) = (open(&count)?, open(&presence)?);
        if flock(&presence, FlockOperation::NonBlockingLockExclusive).is_ok() {
            count.write_all_at(&used(root)?.to_ne_bytes(), 0)?;
        }
        flock(&presence, FlockOperation::LockShared)?;
        Ok(Quota { count, _presence: presence, limit: limit.bytes })
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

/// How much is in a directory: sizes of files, and a little for each name. Files with several names count once. Names are
/// looked up in their directories, and links not followed: a guest may exchange them meanwhile.
fn used(root: BorrowedFd<'_>) -> io::Result<u64> {
    let mut all = 0u64;
    let mut linked = HashSet::new();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut open = vec![Dir::new(openat(root, ".", flags, Mode::empty())?)?];
    while let Some(directory) = open.last_mut() {
        let Some(entry) = directory.next() else {
            open.pop();
            continue;
        };
        let Ok(entry) = entry else { continue };
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        all = all.saturating_add(NAME_COST);
        let parent = directory.fd()?;
        let Ok(status) = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let kind = FileType::from_raw_mode(status.st_mode);
        if kind == FileType::RegularFile
            && (status.st_nlink == 1 || linked.insert((status.st_dev, status.st_ino)))
        {
            all = all.saturating_add(u64::try_from(status.st_size).unwrap_or(0));
        }
        if kind == FileType::Directory {
            // What lies deeper than descriptors reach is not counted.
            let below = openat(parent, name, flags, Mode::empty()).and_then(Dir::new);
            open.extend(below);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn of(path: &Path) -> File {
        File::open(path).unwrap()
    }

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
        let one = Quota::open(of(&root).as_fd(), &limit(dir.path(), 20_000)).unwrap();
        assert_eq!(one.state(), (20_000, 1000 + 2 * NAME_COST));
        let other = Quota::open(of(&root).as_fd(), &limit(dir.path(), 20_000)).unwrap();
        one.take(6000).unwrap();
        assert_eq!(other.take(6000), Err(Errno::NOSPC));
        one.give(1000);
        other.take(5000).unwrap();
    }

    #[test]
    fn whoever_comes_first_counts_anew() {
        let dir = tempfile::tempdir().unwrap();
        let first = Quota::open(of(dir.path()).as_fd(), &limit(dir.path(), 1 << 30)).unwrap();
        first.take(1 << 20).unwrap();
        drop(first);
        let again = Quota::open(of(dir.path()).as_fd(), &limit(dir.path(), 1 << 30)).unwrap();
        assert!(again.state().1 < 1 << 20);
    }
}
