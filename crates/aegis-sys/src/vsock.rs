//! Listening for the host on a virtio socket (`vsock(7)`).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::check;

/// Connections that may wait to be accepted. The host makes one at a time.
const BACKLOG: libc::c_int = 8;

/// A listening socket on this port, for connections from anywhere: of a guest that is the host alone.
///
/// # Errors
/// The system's.
pub fn listen(port: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes integers only; the descriptor is checked, and nobody else has it.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        check(fd)?;
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: sockaddr_vm is plain data for which zeroes are valid.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    address.svm_cid = libc::VMADDR_CID_ANY;
    address.svm_port = port;
    let len = size_of::<libc::sockaddr_vm>() as libc::socklen_t;
    // SAFETY: the address is of the family's type and of the length that is told, and outlives the call.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) })?;
    // SAFETY: takes integers only.
    check(unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) })?;
    Ok(socket)
}

/// Waits for the next connection.
///
/// # Errors
/// The system's.
pub fn accept(listener: &OwnedFd) -> io::Result<OwnedFd> {
    loop {
        // SAFETY: nobody wants the peer's address, so there is no place for one.
        let fd = unsafe {
            libc::accept4(
                listener.as_raw_fd(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                libc::SOCK_CLOEXEC,
            )
        };
        match check(fd) {
            // SAFETY: the kernel has just made this descriptor, and nobody else knows its number.
            Ok(()) => return Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
            // The host may have gone before it was met.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted) => {}
            Err(error) => return Err(error),
        }
    }
}
