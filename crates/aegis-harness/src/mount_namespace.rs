//! A private mount namespace: what is mounted there is gone when it is left.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Enters a new one, which begins as a copy, and returns the one that was left. This process must have one thread.
pub(crate) fn enter() -> io::Result<OwnedFd> {
    let before = rustix::fs::open("/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    aegis_sys::guest::own_mounts()?;
    Ok(before)
}

/// Returns, to where root and working directory were the top of everything. Without a process in it and a descriptor of
/// it the other one ends at once, and its mounts with it.
pub(crate) fn leave(before: &OwnedFd) -> io::Result<()> {
    Ok(move_into_link_name_space(before.as_fd(), Some(LinkNameSpaceType::Mount))?)
}
