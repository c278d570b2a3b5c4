//! Managed files: what the harness last wrote to files that users may edit, kept on the instance's disk beside its root. A
//! file that differs from it has been edited.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::rootfs_paths;

/// Directory of the instance's disk.
const DIR: &str = "written";

/// What was written last, by file.
#[derive(Debug, Default)]
pub(crate) struct ManagedFiles {
    /// The instance's disk; `None` before it is mounted.
    disk: RefCell<Option<OwnedFd>>,
}

impl ManagedFiles {
    /// Keeps it on this disk from now on, or nowhere.
    pub(crate) fn keep_on(&self, disk: Option<OwnedFd>) {
        self.disk.replace(disk);
    }

    /// What was last written to `file`.
    pub(crate) fn last(&self, file: &Path) -> Option<Vec<u8>> {
        rootfs_paths::read(&self.path(file)?).ok()
    }

    /// Whether somebody else has changed `file` since it was last written.
    pub(crate) fn edited(&self, file: &Path) -> bool {
        match (self.last(file), rootfs_paths::read(file)) {
            (Some(last), Ok(now)) => last != now,
            _ => false,
        }
    }

    /// Writes `file`, whatever is in its place, and remembers it.
    ///
    /// # Errors
    /// Those of the file. What cannot be remembered counts as edited at the next start.
    pub(crate) fn write(&self, file: &Path, text: &[u8]) -> io::Result<()> {
        let is_of_image = self.last(file).is_none();
        self.remember(file, text);
        if is_of_image { rootfs_paths::put_over_image(file, text) } else { rootfs_paths::put(file, text) }
    }

    /// Remembers `text` as what was written to `file`.
    pub(crate) fn remember(&self, file: &Path, text: &[u8]) {
        let Some(path) = self.path(file) else { return };
        if self.last(file).is_some_and(|last| last == text) {
            return;
        }
        let _full = rootfs_paths::put(&path, text);
    }

    fn path(&self, file: &Path) -> Option<PathBuf> {
        let disk = self.disk.borrow();
        let name = file.file_name()?;
        Some(PathBuf::from(format!("/proc/self/fd/{}", disk.as_ref()?.as_raw_fd())).join(DIR).join(name))
    }
}

/// A directory as the place of the record.
///
/// # Errors
/// The system's.
pub(crate) fn open(disk: &Path) -> io::Result<OwnedFd> {
    fs::create_dir_all(disk.join(DIR))?;
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    Ok(rustix::fs::open(disk, flags, rustix::fs::Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_edited_if_it_is_not_what_was_written_last() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hosts");
        let record = ManagedFiles::default();
        fs::write(&file, "of the image").unwrap();
        assert!(!record.edited(&file), "nothing was written yet");
        record.keep_on(Some(open(dir.path()).unwrap()));
        assert!(!record.edited(&file));
        record.write(&file, b"ours").unwrap();
        assert_eq!((fs::read(&file).unwrap(), record.edited(&file)), (b"ours".to_vec(), false));
        fs::write(&file, "ours and theirs").unwrap();
        assert!(record.edited(&file));
        assert_eq!(record.last(&file).unwrap(), b"ours");
        fs::remove_file(&file).unwrap();
        assert!(!record.edited(&file), "what is gone is written again");
    }
}
