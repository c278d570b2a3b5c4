//! Which directory it is, whatever it is called.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, makedev, statx};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::lookup;
use crate::mounts::file_system;

/// Number of overlayfs (`linux/magic.h`). It tells the birth of whichever file is beneath, which is another one as soon
/// as something is written.
const OVERLAY: u32 = 0x794c_7630;

/// What distinguishes a file or directory from every other, also from one that gets its name or its number later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// The device of its file system.
    pub dev: u64,
    /// Its number there.
    pub ino: u64,
    /// When it was made, nanoseconds since 1970; nothing where the file system does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub birth: Option<i64>,
}

impl Identity {
    /// The identity of what is open.
    ///
    /// # Errors
    /// If its status cannot be read.
    pub fn of(fd: impl AsFd) -> io::Result<Identity> {
        let wanted = StatxFlags::INO | StatxFlags::BTIME;
        let status = statx(&fd, OsStr::new(""), AtFlags::EMPTY_PATH, wanted)?;
        let steady = file_system(&fd)? != OVERLAY;
        let born = steady && status.stx_mask & StatxFlags::BTIME.bits() != 0;
        let (seconds, rest) = (status.stx_btime.tv_sec, i64::from(status.stx_btime.tv_nsec));
        Ok(Identity {
            dev: makedev(status.stx_dev_major, status.stx_dev_minor),
            ino: status.stx_ino,
            birth: born.then(|| seconds.saturating_mul(1_000_000_000).saturating_add(rest)),
        })
    }

    /// Whether both are the same directory. The number of a device may be another one after a boot of the host, so it
    /// counts only where the moment of birth is not known; that moment cannot be set by anybody.
    #[must_use]
    pub fn is(&self, other: &Identity) -> bool {
        match (self.birth, other.birth) {
            (Some(one), Some(two)) => one == two && self.ino == other.ino,
            _ => self.dev == other.dev && self.ino == other.ino,
        }
    }
}

/// Why a directory was not opened again.
#[derive(Debug, Error)]
pub enum Unopened {
    /// Another one is there now, or a symbolic link is on the way to it.
    #[error("it is not the directory that it was")]
    Changed,
    /// It cannot be opened.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<Errno> for Unopened {
    fn from(error: Errno) -> Unopened {
        match error {
            Errno::LOOP | Errno::NOTDIR => Unopened::Changed,
            error => Unopened::Io(error.into()),
        }
    }
}

/// Opens the directory at an absolute path without links, as [`resolve`] returns it, if it is still the one it was. The
/// descriptor refers only (`O_PATH`): what is to be done with the directory is to be done by it, not by the path.
///
/// # Errors
/// If it is another one, or cannot be opened.
pub fn open_unchanged(path: &Path, known: &Identity) -> Result<OwnedFd, Unopened> {
    let Ok(below) = path.strip_prefix("/") else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path is not absolute").into());
    };
    if path.components().any(|part| matches!(part, std::path::Component::ParentDir)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path goes back up").into());
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty())?;
    let opened =
        if below.as_os_str().is_empty() { root } else { lookup::open(root, below, flags, Mode::empty())? };
    if Identity::of(&opened)?.is(known) { Ok(opened) } else { Err(Unopened::Changed) }
}

/// The directory that a user names: links are followed, once, and what they lead to is returned as a path without any,
/// with the identity to compare it by later.
///
/// # Errors
/// If it is no directory, cannot be opened, or is exchanged while it is looked at.
pub fn resolve(path: &Path) -> io::Result<(PathBuf, Identity)> {
    let opened = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let identity = Identity::of(&opened)?;
    let canonical = std::fs::canonicalize(path)?;
    match open_unchanged(&canonical, &identity) {
        Ok(_) => Ok((canonical, identity)),
        Err(Unopened::Changed) => Err(io::Error::other("it was exchanged while it was looked at")),
        Err(Unopened::Io(error)) => Err(error),
    }
}
