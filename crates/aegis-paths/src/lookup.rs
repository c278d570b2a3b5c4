//! The one way in which this crate resolves a path of several names.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, openat, openat2, statat};
use rustix::io::Errno;

/// How often a resolution is tried again that the kernel could not complete because of a rename meanwhile.
const MOST_TRIES: usize = 16;

/// Opens a relative path that has nothing but names, below `at`. No symbolic link is followed, not even the last: that is
/// `ELOOP`. Nothing waits: neither a pipe for its other end, nor a terminal becomes ours.
pub(crate) fn open(at: impl AsFd, path: &Path, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
    let at = at.as_fd();
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // The kernel refuses what has no meaning beside `PATH`.
    let flags = if flags.contains(OFlags::PATH) { flags } else { flags | OFlags::NONBLOCK | OFlags::NOCTTY };
    let limits = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    // A directory is wanted and a link is there: "too many links" without the flag, "not a directory" with it.
    let told = if flags.contains(OFlags::DIRECTORY) { flags - OFlags::NOFOLLOW } else { flags };
    for _ in 0..MOST_TRIES {
        match openat2(at, path, told, mode, limits) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Kernels before 5.6, and containers whose filter does not know the call. Walking is as safe, only slower.
            Err(Errno::NOSYS | Errno::PERM) => break,
            opened => return opened,
        }
    }
    walk(at, path, flags, mode)
}

/// The same, name by name.
pub(crate) fn walk(at: impl AsFd, path: &Path, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
    let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut names = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name),
        _ => None,
    });
    let Some(mut name) = names.next() else { return openat(at, ".", flags, mode) };
    let mut dir: Option<OwnedFd> = None;
    loop {
        let here = dir.as_ref().map_or(at.as_fd(), AsFd::as_fd);
        let next = names.next();
        let (flags, mode) = if next.is_some() { (step, Mode::empty()) } else { (flags, mode) };
        let opened =
            openat(here, name, flags, mode).map_err(|error| link_instead(here, name.as_bytes(), error))?;
        match next {
            None => return Ok(opened),
            Some(following) => name = following,
        }
        dir = Some(opened);
    }
}

/// A link where a directory is wanted is "not a directory" to `openat`, and `ELOOP` to `openat2`.
fn link_instead(at: impl AsFd, name: &[u8], error: Errno) -> Errno {
    if error != Errno::NOTDIR {
        return error;
    }
    match statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Symlink => Errno::LOOP,
        _ => error,
    }
}
