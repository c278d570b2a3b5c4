//! A reserve of space on the instance's disk for what a start itself takes. Joining the disks makes files on them (overlayfs
//! tries what the upper file system can do), and so do hostnames and mount points: without any the machine could not come up.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, StatVfs};

/// Its directory on the instance's disk.
const DIR: &str = "reserve";
/// How many files it is, each an inode: overlayfs takes up to four at a time, names and a mount point one each.
const FILES: u64 = 8;
/// Length of the first of them, bytes; the others are empty.
const BYTES: u64 = 64 << 10;

/// Whether a disk has so little left that the reserve is needed.
fn is_short(disk: &StatVfs) -> bool {
    disk.f_favail < FILES || disk.f_bavail.saturating_mul(disk.f_frsize) < BYTES
}

fn file(dir: &Path, number: u64) -> PathBuf {
    dir.join(number.to_string())
}

/// Gives room on the disk that is mounted at `disk`, if it has none. What cannot be given is missed by what follows.
pub(crate) fn open(disk: &Path) {
    if rustix::fs::statvfs(disk).is_ok_and(|status| is_short(&status)) {
        let dir = disk.join(DIR);
        (0..FILES).for_each(|number| drop(fs::remove_file(file(&dir, number))));
    }
}

/// Keeps room on a disk, as far as there is some. What is kept already costs one look.
pub(crate) fn keep(disk: &impl AsRawFd) -> io::Result<()> {
    let dir = PathBuf::from(format!("/proc/self/fd/{}", disk.as_raw_fd())).join(DIR);
    // Those with the higher numbers are made first: with the one that takes room the reserve is complete.
    if file(&dir, 0).exists() {
        return Ok(());
    }
    fs::create_dir_all(&dir)?;
    (1..FILES).rev().try_for_each(|number| make(&file(&dir, number)).map(drop))?;
    let first = make(&file(&dir, 0))?;
    let room = rustix::fs::fallocate(&first, FallocateFlags::empty(), 0, BYTES);
    Ok(room.inspect_err(|_| drop(fs::remove_file(file(&dir, 0))))?)
}

fn make(path: &Path) -> io::Result<File> {
    File::options().write(true).create(true).truncate(false).open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_reserve_is_kept_once_and_given_when_there_is_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let disk = File::open(dir.path()).unwrap();
        let count = || fs::read_dir(dir.path().join(DIR)).unwrap().count() as u64;
        keep(&disk).unwrap();
        let first = fs::metadata(file(&dir.path().join(DIR), 0)).unwrap();
        assert_eq!((count(), first.len()), (FILES, BYTES));
        assert!(first.blocks() * 512 >= BYTES, "it takes room");
        open(dir.path());
        assert_eq!(count(), FILES, "a disk with room needs none of it");
        // As on a disk on which all of it could not be made again.
        for number in [0, 3, 4] {
            fs::remove_file(file(&dir.path().join(DIR), number)).unwrap();
        }
        keep(&disk).unwrap();
        assert_eq!(count(), FILES);
    }

    #[test]
    fn a_disk_is_short_without_inodes_or_without_blocks() {
        let mut disk = rustix::fs::statvfs("/").unwrap();
        (disk.f_frsize, disk.f_bavail, disk.f_favail) = (4096, 1000, 1000);
        assert!(!is_short(&disk));
        assert!(is_short(&StatVfs { f_favail: 2, ..disk }));
        assert!(is_short(&StatVfs { f_bavail: 3, ..disk }));
    }
}
