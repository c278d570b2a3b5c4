//! A directory, and what is below it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::lookup;

/// A directory that is open, below which paths are taken: never out of it, and never through a symbolic link. It refers
/// only (`O_PATH`), so that no right to list it is needed.
#[derive(Debug)]
pub struct Dir(OwnedFd);

const REFERENCE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Only names, no way back up.
fn check(path: &Path) -> io::Result<()> {
    let fine = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    if path.components().all(fine) { Ok(()) } else { Err(invalid("the path leads out of its directory")) }
}

impl Dir {
    /// Opens what a user typed: links are his own, and followed. This is the only time.
    ///
    /// # Errors
    /// If it is no directory, or cannot be opened.
    pub fn open_root(path: &Path) -> io::Result<Dir> {
        Ok(Dir(rustix::fs::open(path, REFERENCE, Mode::empty())?))
    }

    /// The same directory once more.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn try_clone(&self) -> io::Result<Dir> {
        Ok(Dir(self.0.try_clone()?))
    }

    /// Opens what is at a path below this directory; the directory itself for an empty path and `.`. Never waits for the
    /// other end of a pipe.
    ///
    /// # Errors
    /// `InvalidInput` for an absolute path or one with `..`; `ELOOP` for a symbolic link anywhere on it, its last
    /// name included; and whatever the system says.
    pub fn open_beneath(&self, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        check(path)?;
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        Ok(lookup::open(&self.0, path, flags, mode)?)
    }

    /// A directory below this one.
    ///
    /// # Errors
    /// As [`Dir::open_beneath`].
    pub fn dir_beneath(&self, path: &Path) -> io::Result<Dir> {
        self.open_beneath(path, REFERENCE, Mode::empty()).map(Dir)
    }

    /// A regular file below this directory, to be read. Anything else is refused before it is opened: a pipe or a device
    /// might never answer.
    ///
    /// # Errors
    /// As [`Dir::open_beneath`]; `InvalidInput` for what is no regular file.
    pub fn file_beneath(&self, path: &Path) -> io::Result<File> {
        // A link is refused by opening it, with the error of its own.
        if !matches!(kind(&self.stat_beneath(path)?), FileType::RegularFile | FileType::Symlink) {
            return Err(invalid("it is not a regular file"));
        }
        let opened = self.open_beneath(path, OFlags::RDONLY, Mode::empty())?;
        if kind(&rustix::fs::fstat(&opened)?) != FileType::RegularFile {
            return Err(invalid("it is not a regular file"));
        }
        Ok(File::from(opened))
    }

    /// What is at a path; of a symbolic link as its last name, the link itself.
    ///
    /// # Errors
    /// As [`Dir::open_beneath`].
    pub fn stat_beneath(&self, path: &Path) -> io::Result<Stat> {
        let opened = self.open_beneath(path, OFlags::PATH, Mode::empty())?;
        Ok(rustix::fs::fstat(opened)?)
    }

    /// Makes a directory, or opens the one that is there.
    ///
    /// # Errors
    /// As [`Dir::open_beneath`]; `ENOTDIR` or `ELOOP` if something else is there.
    pub fn mkdir_beneath(&self, path: &Path, mode: Mode) -> io::Result<Dir> {
        let (parent, name) = self.parent_of(path)?;
        match rustix::fs::mkdirat(&parent.0, name, mode) {
            Ok(()) | Err(Errno::EXIST) => parent.dir_beneath(Path::new(name)),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a file that was not there, to be written.
    ///
    /// # Errors
    /// As [`Dir::open_beneath`]; `EEXIST` if anything is there, a link to nowhere as well.
    pub fn create_beneath(&self, path: &Path, mode: Mode) -> io::Result<File> {
        self.open_beneath(path, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, mode).map(File::from)
    }

    /// Takes a name away that is no directory's: of a link, the link.
    ///
    /// # Errors
    /// As [`Dir::open_beneath`].
    pub fn unlink_beneath(&self, path: &Path) -> io::Result<()> {
        let (parent, name) = self.parent_of(path)?;
        Ok(rustix::fs::unlinkat(&parent.0, name, AtFlags::empty())?)
    }

    /// The directory of a path's last name, and that name.
    ///
    /// # Errors
    /// As [`Dir::open_beneath`]; `InvalidInput` for a path without a name.
    pub fn parent_of<'a>(&self, path: &'a Path) -> io::Result<(Dir, &'a std::ffi::OsStr)> {
        check(path)?;
        let name = path.file_name().ok_or_else(|| invalid("the path has no name"))?;
        Ok((self.dir_beneath(path.parent().unwrap_or(Path::new("")))?, name))
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Dir {
    /// A directory that is open already.
    fn from(fd: OwnedFd) -> Dir {
        Dir(fd)
    }
}

impl From<Dir> for OwnedFd {
    fn from(dir: Dir) -> OwnedFd {
        dir.0
    }
}
