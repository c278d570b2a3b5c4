//! Files that have no name, for monitors to read.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, memfd_create};

/// One that holds these bytes, to be read from its beginning.
pub(crate) fn with(bytes: &[u8]) -> io::Result<OwnedFd> {
    let file: File = memfd_create("aegis-devices", MemfdFlags::CLOEXEC)?.into();
    file.write_all_at(bytes, 0)?;
    Ok(file.into())
}
