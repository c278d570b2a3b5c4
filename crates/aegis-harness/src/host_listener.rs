//! Takes the host's connections to a port of the virtio socket.

use std::io;
use std::os::fd::OwnedFd;

use crate::kernel_arguments;

/// A port on which the host is waited for.
pub(crate) struct HostListener(OwnedFd);

impl HostListener {
    pub(crate) fn bind(port: u32) -> io::Result<HostListener> {
        Ok(HostListener(aegis_sys::vsock::listen(port)?))
    }

    /// The next connection, which never waits. It has been acknowledged, if that is wanted.
    pub(crate) fn accept(&self) -> io::Result<OwnedFd> {
        let host = aegis_sys::vsock::accept(&self.0)?;
        rustix::io::ioctl_fionbio(&host, true)?;
        if kernel_arguments::machine_parts().acknowledges {
            // If the host has gone meanwhile, whoever reads will find that.
            let _gone = rustix::io::write(&host, &[0]);
        }
        Ok(host)
    }
}
