//! System calls that PID 1 of a guest needs.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::check;

/// `RNDRESEEDCRNG` of `linux/random.h`: mix what was added into the generator now.
const RNDRESEEDCRNG: u64 = 0x5207;

/// `PR_SET_IO_FLUSHER` of `linux/prctl.h`.
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// Sends `signal` to every process but PID 1 and this one. Finding none is no error.
///
/// # Errors
/// The system's, such as an invalid signal.
pub fn signal_everyone(signal: i32) -> io::Result<()> {
    // SAFETY: takes integers only.
    match check(unsafe { libc::kill(-1, signal) }) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        other => other,
    }
}

/// Sends `signal` to the process group that `leader` leads.
///
/// # Errors
/// The system's; `ESRCH` if the group is gone.
pub fn signal_group(leader: u32, signal: i32) -> io::Result<()> {
    let leader = i32::try_from(leader).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    if leader < 2 {
        // -0 and -1 would mean "my own group" and "everyone".
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    // SAFETY: takes integers only.
    check(unsafe { libc::kill(-leader, signal) })
}

/// Makes the kernel's generator use entropy that was just written to `/dev/urandom`.
///
/// # Errors
/// The system's.
pub fn reseed(urandom: &File) -> io::Result<()> {
    // SAFETY: this request takes no argument; the descriptor is open for the time of the call.
    check(unsafe { libc::ioctl(urandom.as_raw_fd(), RNDRESEEDCRNG as _) })
}

/// Gives this process a namespace of mounts of its own, which begins as a copy of the one that it was in. It must have
/// one thread.
///
/// # Errors
/// The system's.
pub fn own_mounts() -> io::Result<()> {
    // SAFETY: takes integers only; descriptors stay shared, memory stays what it is.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })
}

/// Gives this process a root and a working directory of its own: what it enters later is not entered by the kernel's
/// threads, with which PID 1 begins to share them.
///
/// # Errors
/// The system's.
pub fn own_root() -> io::Result<()> {
    // SAFETY: takes integers only; descriptors stay shared, memory stays what it is.
    check(unsafe { libc::unshare(libc::CLONE_FS) })
}

/// Brings the loopback interface up.
///
/// # Errors
/// The system's.
pub fn loopback_up() -> io::Result<()> {
    // SAFETY: ifreq is plain data for which zeroes are valid; the name fits and stays terminated; the
    // descriptor is checked, used and closed here.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        check(socket)?;
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
            *to = *from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        let result = check(libc::ioctl(socket, libc::SIOCSIFFLAGS as _, &request));
        libc::close(socket);
        result
    }
}

/// Keeps this process's memory resident, and marks it as one that writeback depends on.
///
/// # Errors
/// The system's. The mark is best effort: an older kernel lacks it.
pub fn protect_memory() -> io::Result<()> {
    // SAFETY: takes integers only.
    unsafe {
        libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
        check(libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE))
    }
}

/// Makes this process one that does not interrupt others when it wakes (`SCHED_BATCH`). It runs at once on an idle
/// processor, and otherwise when the one that woke it has nothing more to do for now.
///
/// # Errors
/// The system's.
pub fn yield_to_others() -> io::Result<()> {
    let none = libc::sched_param { sched_priority: 0 };
    // SAFETY: the structure outlives the call.
    check(unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &none) })
}

/// Type of a handle that FUSE gives out: number and generation of a node.
const FUSE_HANDLE: libc::c_int = 0x81;

/// Opens a node of a FUSE file system for reference by its number, if the kernel has it in memory; the server is not asked.
/// `mount` is anything that is open in it, not only for reference.
///
/// # Errors
/// `ESTALE` if the kernel does not have it; otherwise the system's.
pub fn fuse_node(mount: BorrowedFd<'_>, node: u64) -> io::Result<OwnedFd> {
    /// `struct file_handle` with the contents of such a handle, in the machine's order.
    #[repr(C)]
    struct Handle {
        bytes: libc::c_uint,
        kind: libc::c_int,
        /// The number's upper and lower half, and the generation.
        contents: [u32; 3],
    }
    let [upper, lower] =
        [node >> 32, node & u64::from(u32::MAX)].map(|half| u32::try_from(half).unwrap_or(0));
    let mut handle = Handle { bytes: 12, kind: FUSE_HANDLE, contents: [upper, lower, 0] };
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    // SAFETY: the handle says how long it is, and outlives the call; the descriptor is open for the time of the call.
    let fd = unsafe {
        libc::syscall(libc::SYS_open_by_handle_at, mount.as_raw_fd(), std::ptr::from_mut(&mut handle), flags)
    };
    let fd = libc::c_int::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    check(fd)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_would_mean_everyone_is_refused() {
        for leader in [0, 1, u32::MAX] {
            assert_eq!(signal_group(leader, 0).unwrap_err().raw_os_error(), Some(libc::ESRCH));
        }
    }
}
