//! Loop devices: a file as a block device.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use crate::check;

/// `LOOP_CTL_GET_FREE` of `linux/loop.h`: the number of a device that nobody uses.
const LOOP_CTL_GET_FREE: u64 = 0x4c82;
/// `LOOP_CONFIGURE` of `linux/loop.h`: file and settings in one step.
const LOOP_CONFIGURE: u64 = 0x4c0a;
/// `LO_FLAGS_READ_ONLY` and `LO_FLAGS_AUTOCLEAR` of `linux/loop.h`: the device is free again when it is unmounted.
const FLAGS: u32 = 1 | 4;

/// `struct loop_info64` of `linux/loop.h`.
#[repr(C)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of `linux/loop.h`.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// The number of a loop device that is free now; `control` is `/dev/loop-control`.
///
/// # Errors
/// The system's.
pub fn free(control: &File) -> io::Result<u32> {
    // SAFETY: this request takes no argument; the descriptor is open for the time of the call.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) };
    check(number)?;
    u32::try_from(number).map_err(io::Error::other)
}

/// Shows a part of `file`, its beginning and length in bytes, as the block device `device`, which can only be read and is
/// freed by its last user.
///
/// # Errors
/// The system's; `EBUSY` if somebody has taken the device.
pub fn show(device: &File, file: &File, part: (u64, u64)) -> io::Result<()> {
    // SAFETY: integers and arrays of integers, for which zeroes are valid.
    let mut config: Config = unsafe { std::mem::zeroed() };
    config.fd = u32::try_from(file.as_raw_fd()).map_err(io::Error::other)?;
    config.info.flags = FLAGS;
    (config.info.offset, config.info.size_limit) = part;
    // SAFETY: the structure has the layout that the request asks for and outlives the call; both descriptors are open.
    check(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &config) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_are_as_long_as_the_kernel_s() {
        assert_eq!((size_of::<Info>(), size_of::<Config>()), (232, 304));
    }

    #[test]
    fn what_is_no_loop_device_is_refused() {
        let null = File::open("/dev/null").unwrap();
        assert!(free(&null).is_err());
        assert!(show(&null, &null, (0, 512)).is_err());
    }
}
