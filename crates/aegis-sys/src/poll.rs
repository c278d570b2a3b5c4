//! Waiting for a descriptor to become readable or writable.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the current runtime.
///
/// # Errors
/// The system's; a plain file cannot be waited for.
///
/// # Panics
/// Outside a runtime with I/O enabled.
pub fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor must stay open and the same for as long as it is registered. An OwnedFd names one
    // open descriptor until it is dropped, and AsyncFd unregisters before it drops what it holds.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(io::Error::from)
}
