//! Tells the host when connections of the past are gone.
//!
//! A guest that goes on from a saved state closes all virtio sockets that were connected (`VIRTIO_VSOCK_EVENT_TRANSPORT_RESET` of
//! the virtio specification, 5.10.6.7), also those that a host in a hurry has made since. The host keeps a connection here while
//! it saves a machine. The next one is taken when that is closed, and says so by a byte.

use std::io;

use crate::threads::spawn;

/// Number of the port.
const SENTINEL: u32 = 5;

/// Takes one connection after the other.
pub(crate) fn start() -> io::Result<()> {
    let listener = aegis_sys::vsock::listen(SENTINEL)?;
    spawn("sentinel", move || {
        loop {
            let host = aegis_sys::vsock::accept(&listener)?;
            let said = rustix::io::write(&host, &[0]);
            // Until it is closed; nothing is said here.
            while said.is_ok() && matches!(rustix::io::read(&host, &mut [0; 16]), Ok(1..)) {}
        }
    })
}
