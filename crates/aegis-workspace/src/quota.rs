//! Quota accounting: how much is in a directory with a limit, counted together by all servers of that directory.
//!
//! The count is eight bytes of a file. Whoever comes first, which the lock tells, counts what is there; the others go
//! on from that. What it cannot look at counts as it did. A reservation is made before anything grows, so the limit holds at each moment.

use std::collections::HashSet;
use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, flock, openat, statat};
use rustix::io::Errno;

use crate::Limit;
use crate::fd_cache::path_of;

/// What a name takes, whatever it stands for, bytes: the space that no file's size tells.
pub(crate) const NAME_COST: u64 = 4096;

/// How deep directories are counted: each one above takes a descriptor.
const MOST_DEPTH: usize = 512;

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

fn read(count: &File) -> io::Result<u64> {
    let mut bytes = [0; 8];
    count.read_exact_at(&mut bytes, 0)?;
    Ok(u64::from_ne_bytes(bytes))
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
            let Usage { bytes, partial } = used(root)?;
            // What cannot be looked at is what it was when it was written.
            let before = if partial { read(&count).unwrap_or(0) } else { 0 };
            count.write_all_at(&bytes.max(before).to_ne_bytes(), 0)?;
        }
        flock(&presence, FlockOperation::LockShared)?;
        Ok(Quota { count, _presence: presence, limit: limit.bytes })
    }

    /// How much may be in the directory, and how much is, bytes.
    pub(crate) fn state(&self) -> (u64, u64) {
        (self.limit, read(&self.count).unwrap_or(self.limit))
    }

    fn change(&self, change: impl FnOnce(u64) -> Result<u64, Errno>) -> Result<(), Errno> {
        let failed = |_: io::Error| Errno::IO;
        flock(&self.count, FlockOperation::LockExclusive)?;
        let result = read(&self.count)
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

/// What was found in a directory.
#[derive(Debug, Default, PartialEq, Eq)]
struct Usage {
    /// Sizes of files, and a little for each name. Files with several names count once.
    bytes: u64,
    /// Whether some of it could not be looked at.
    partial: bool,
}

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A directory that is being counted. Its mode is put back at the end, if it had to be opened up.
struct Counted {
    entries: Dir,
    mode: Option<(OwnedFd, Mode)>,
}

impl Counted {
    /// Opens what is under a name, if that is a directory.
    fn at(parent: BorrowedFd<'_>, name: &CStr) -> Result<Counted, Errno> {
        Counted::open(openat(parent, name, DIRECTORY | OFlags::PATH, Mode::empty())?)
    }

    /// Opens a directory, also one whose mode keeps its owner out: a guest's root may hide files in such.
    fn open(place: OwnedFd) -> Result<Counted, Errno> {
        let old = Mode::from_raw_mode(statat(&place, c"", AtFlags::EMPTY_PATH)?.st_mode & 0o777);
        let listing = Mode::RUSR | Mode::XUSR;
        let open_up = || rustix::fs::chmod(path_of(&place).as_str(), old | listing);
        let opened_up = !old.contains(listing) && open_up().is_ok();
        let entries = openat(&place, c".", DIRECTORY | OFlags::RDONLY, Mode::empty()).and_then(Dir::new);
        let mode = opened_up.then_some((place, old));
        match entries {
            Ok(entries) => Ok(Counted { entries, mode }),
            Err(error) => {
                put_back(mode.as_ref());
                Err(error)
            }
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        put_back(self.mode.as_ref());
    }
}

fn put_back(mode: Option<&(OwnedFd, Mode)>) {
    if let Some((place, mode)) = mode {
        // Whoever may open a directory up may put its mode back.
        let _gone = rustix::fs::chmod(path_of(place).as_str(), *mode);
    }
}

/// How much is in a directory. Names are looked up in their directories, and links not followed: a guest may exchange them
/// meanwhile.
fn used(root: BorrowedFd<'_>) -> io::Result<Usage> {
    let mut usage = Usage::default();
    let mut linked = HashSet::new();
    let mut open = vec![Counted::open(root.try_clone_to_owned()?)?];
    while let (depth, Some(directory)) = (open.len(), open.last_mut()) {
        let Some(entry) = directory.entries.next() else {
            open.pop();
            continue;
        };
        let Ok(entry) = entry else {
            usage.partial = true;
            continue;
        };
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        usage.bytes = usage.bytes.saturating_add(NAME_COST);
        let parent = directory.entries.fd()?;
        let kind = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map(|status| {
            let kind = FileType::from_raw_mode(status.st_mode);
            let counts = status.st_nlink == 1 || linked.insert((status.st_dev, status.st_ino));
            if kind == FileType::RegularFile && counts {
                usage.bytes = usage.bytes.saturating_add(u64::try_from(status.st_size).unwrap_or(0));
            }
            kind
        });
        let below = match kind {
            Ok(FileType::Directory) if depth == MOST_DEPTH => Err(Errno::MFILE),
            Ok(FileType::Directory) => Counted::at(parent, name).map(Some),
            other => other.map(|_| None),
        };
        match below {
            Ok(below) => open.extend(below),
            // It has gone, or is something else now.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            // It belongs to somebody else, or lies too deep.
            Err(_) => usage.partial = true,
        }
    }
    Ok(usage)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::fd::AsFd;
    use std::os::unix::fs::PermissionsExt;

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

    /// Hides 1,000 bytes below a directory, in a way that keeps the owner of the files out; unless that is root.
    fn hidden(mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("w/secret");
        fs::create_dir_all(secret.join("deep")).unwrap();
        fs::write(secret.join("deep/file"), vec![0; 1000]).unwrap();
        fs::set_permissions(&secret, Permissions::from_mode(mode)).unwrap();
        (dir, secret)
    }

    #[test]
    fn what_modes_hide_counts_and_keeps_its_mode() {
        for mode in [0, 0o444, 0o111, 0o300] {
            let (dir, secret) = hidden(mode);
            let root = dir.path().join("w");
            let quota = Quota::open(of(&root).as_fd(), &limit(dir.path(), 1 << 20)).unwrap();
            assert_eq!(quota.state().1, 1000 + 3 * NAME_COST, "{mode:o}");
            assert_eq!(fs::metadata(&secret).unwrap().permissions().mode() & 0o777, mode);
        }
    }

    #[test]
    fn a_directory_that_is_closed_itself_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("w");
        fs::create_dir(&root).unwrap();
        fs::write(root.join("a"), vec![0; 1000]).unwrap();
        let place = rustix::fs::open(&root, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        fs::set_permissions(&root, Permissions::from_mode(0o000)).unwrap();
        let quota = Quota::open(place.as_fd(), &limit(dir.path(), 1 << 20)).unwrap();
        assert_eq!(quota.state().1, 1000 + NAME_COST);
    }

    #[test]
    fn what_lies_too_deep_counts_as_it_did() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("w");
        let deep: PathBuf =
            std::iter::once(root.clone()).chain(std::iter::repeat_n("d".into(), MOST_DEPTH)).collect();
        fs::create_dir_all(&deep).unwrap();
        let limit = limit(dir.path(), 100 << 20);
        let first = Quota::open(of(&root).as_fd(), &limit).unwrap();
        first.take(1 << 20).unwrap();
        let before = first.state().1;
        drop(first);
        assert!(used(of(&root).as_fd()).unwrap().partial);
        assert_eq!(Quota::open(of(&root).as_fd(), &limit).unwrap().state().1, before);
    }
}
