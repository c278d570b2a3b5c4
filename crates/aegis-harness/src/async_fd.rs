//! Descriptors of pipes and terminals in the event loop.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

/// Whether the process behind a descriptor has ended.
pub type Ended = watch::Receiver<bool>;

/// Makes a descriptor asynchronous.
///
/// # Errors
/// The system's.
pub fn asynchronous(fd: OwnedFd) -> io::Result<Rc<AsyncFd<OwnedFd>>> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    Ok(Rc::new(aegis_sys::poll::watch(fd, Interest::READABLE | Interest::WRITABLE)?))
}

pub(crate) async fn write_all(to: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(to.get_ref().as_fd(), bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => to.writable().await?.clear_ready(),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
