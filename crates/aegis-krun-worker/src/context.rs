//! libkrun's C interface (`include/libkrun.h` of libkrun), as far as machines here need it. All unsafe code of this program is
//! here: each call takes strings that live until it returns, and libkrun copies what it keeps.

use std::ffi::CString;
use std::io;

/// Version of libkrun, which `Cargo.toml` pins.
pub(crate) const VERSION: &str = "1.19.7";

/// The kernel is an ELF file (`KRUN_KERNEL_FORMAT_ELF`).
const ELF: u32 = 1;
/// A disk's file holds its bytes as they are (`KRUN_DISK_FORMAT_RAW`).
const RAW: u32 = 0;
/// What a guest is told to be on disk is there (`KRUN_SYNC_FULL`).
const SYNC_FULL: u32 = 2;
/// Where libkrun's own words go, which of them (`KRUN_LOG_LEVEL_ERROR`, `KRUN_LOG_STYLE_NEVER`), and that the environment has no say
/// in it (`KRUN_LOG_OPTION_NO_ENV`).
const LOG_FD: i32 = 2;
const LOG_ERRORS: u32 = 1;
const LOG_WITHOUT_COLOURS: u32 = 2;
const LOG_AS_SAID: u32 = 1;
/// Where the guest's console goes, and that nothing comes from there.
const STDOUT: i32 = 1;
const NO_INPUT: i32 = -1;

/// A machine that is being described.
#[derive(Debug)]
pub(crate) struct Context(u32);

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
}

fn c(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(io::Error::other)
}

impl Context {
    /// A machine that is nothing yet. libkrun would add a console and a door to the host's network by itself: it has neither.
    pub(crate) fn new() -> io::Result<Context> {
        // SAFETY: the descriptor is this process's own and stays open.
        check(unsafe { krun::krun_init_log(LOG_FD, LOG_ERRORS, LOG_WITHOUT_COLOURS, LOG_AS_SAID) })?;
        let id = krun::krun_create_ctx();
        check(id)?;
        let context = Context(u32::try_from(id).map_err(io::Error::other)?);
        check(krun::krun_disable_implicit_console(context.0))?;
        check(krun::krun_disable_implicit_vsock(context.0))?;
        Ok(context)
    }

    pub(crate) fn set_size(&self, vcpus: u8, memory_mib: u32) -> io::Result<()> {
        check(krun::krun_set_vm_config(self.0, vcpus, memory_mib))
    }

    pub(crate) fn set_kernel(&self, kernel: &str, initramfs: &str, arguments: &str) -> io::Result<()> {
        let (kernel, initramfs, arguments) = (c(kernel)?, c(initramfs)?, c(arguments)?);
        // SAFETY: the strings live until the call returns, and libkrun copies them.
        check(unsafe {
            krun::krun_set_kernel(self.0, kernel.as_ptr(), ELF, initramfs.as_ptr(), arguments.as_ptr())
        })
    }

    pub(crate) fn add_disk(&self, name: &str, path: &str, read_only: bool) -> io::Result<()> {
        let (name, path) = (c(name)?, c(path)?);
        // SAFETY: the strings live until the call returns, and libkrun copies them.
        check(unsafe {
            krun::krun_add_disk3(self.0, name.as_ptr(), path.as_ptr(), RAW, read_only, false, SYNC_FULL)
        })
    }

    /// The guest's serial console becomes this process's standard output.
    pub(crate) fn set_console(&self) -> io::Result<()> {
        // SAFETY: libkrun takes the descriptor over, and nothing else here writes to it.
        check(unsafe { krun::krun_add_serial_console_default(self.0, NO_INPUT, STDOUT) })
    }

    /// A virtio socket on which the guest reaches nothing: no connection of it becomes one of the host's (`TSI`).
    pub(crate) fn add_virtio_socket(&self) -> io::Result<()> {
        check(krun::krun_add_vsock(self.0, 0))
    }

    /// A socket at this path whose connections are passed on to a port of the guest.
    pub(crate) fn add_port(&self, number: u32, socket: &str) -> io::Result<()> {
        let socket = c(socket)?;
        // SAFETY: the string lives until the call returns, and libkrun copies it.
        check(unsafe { krun::krun_add_vsock_port2(self.0, number, socket.as_ptr(), true) })
    }

    /// Becomes the machine. The process ends with it, so that this returns only if it could not be made.
    pub(crate) fn enter(self) -> io::Error {
        io::Error::from_raw_os_error(-krun::krun_start_enter(self.0))
    }
}
