//! An ext4 that is mounted.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use crate::check;

/// `EXT4_IOC_RESIZE_FS` of the kernel's `fs/ext4/ext4.h`: `_IOW('f', 16, __u64)`.
const EXT4_IOC_RESIZE_FS: u64 = 0x4008_6610;

/// Makes the file system that `file` is in this many blocks long, while it is in use.
///
/// # Errors
/// The system's, for example if its disk is shorter.
pub fn resize(file: &File, blocks: u64) -> io::Result<()> {
    // SAFETY: the request reads a number of 64 bits, which outlives the call; the descriptor is open.
    check(unsafe { libc::ioctl(file.as_raw_fd(), EXT4_IOC_RESIZE_FS as _, &blocks) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_ext4_is_refused() {
        assert!(resize(&File::open("/proc/self/status").unwrap(), 1).is_err());
    }
}
