//! Detached mounts (`open_tree(2)`) of parts of the initramfs: taken before the root is entered, and moved to their places after
//! it, so that links of an image lead nowhere else.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

/// A copy of what is mounted at `path`, or of that directory of it.
pub(crate) fn take(path: &Path) -> io::Result<OwnedFd> {
    Ok(open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?)
}

/// Mounts it at `at`, a directory.
pub(crate) fn put(tree: &OwnedFd, at: &Path) -> io::Result<()> {
    Ok(move_mount(tree, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}
