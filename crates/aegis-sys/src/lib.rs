//! The only crate with unsafe code: system calls and instructions that no library wraps safely.
//!
//! Each function is safe to call with any arguments; what makes it so is said at its `unsafe` block.

use std::io;

pub mod child;
pub mod confine;
pub mod device_mapper;
pub mod ext4;
pub mod guest;
#[cfg(feature = "kvm")]
pub mod kvm;
pub mod listening;
pub mod loop_device;
pub mod malloc;
pub mod namespace;
pub mod network_interface;
pub mod poll;
pub mod tsc;
pub mod vsock;

/// Turns the C convention (-1 and errno) into a result.
fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
