//! Confining a child between `fork` and `exec`.
//!
//! As in [`crate::child`], only async-signal-safe calls may happen there: the closure makes system calls on values that
//! were prepared before the fork, and never allocates, locks or formats.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::check;

/// One instruction of a filter, as `linux/filter.h` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// What it does.
    pub code: u16,
    /// How many instructions to skip if its condition holds.
    pub jt: u8,
    /// How many to skip if it does not.
    pub jf: u8,
    /// Its operand.
    pub k: u32,
}

/// What a child gives up.
#[derive(Debug)]
pub struct Confinement {
    /// Rules of Landlock, where the kernel has that.
    pub landlock: Option<OwnedFd>,
    /// Filters of system calls (`seccomp(2)`), in the order of their installation. The last has to allow `execve`, and
    /// those before it have to allow `seccomp`.
    pub filters: Vec<Vec<Instruction>>,
    /// Resources by number (`getrlimit(2)`), and the most of each.
    pub limits: Vec<(u32, u64)>,
    /// Capabilities that are kept where the child has them, a bit each (`capabilities(7)`).
    pub capabilities: u64,
}

/// Descriptors below are for the program: those placed by [`crate::child::detached`] never reach so far.
const BEYOND_PROGRAMS: i32 = 64;

/// `_LINUX_CAPABILITY_VERSION_3` of `linux/capability.h`, and its two structures.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Default, Clone, Copy)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Makes `command` start confined. To be called after everything else that prepares the child.
///
/// # Errors
/// If there are no descriptors left.
pub fn confine(command: &mut Command, confinement: Confinement) -> io::Result<()> {
    let Confinement { landlock, filters, limits, capabilities } = confinement;
    let landlock = landlock.map(|fd| beyond(&fd)).transpose()?;
    let filters: Vec<Vec<libc::sock_filter>> = filters
        .into_iter()
        .map(|filter| {
            filter.into_iter().map(|Instruction { code, jt, jf, k }| libc::sock_filter { code, jt, jf, k })
        })
        .map(Iterator::collect)
        .collect();
    let setup = move || {
        for (resource, most) in &limits {
            let limit = libc::rlimit { rlim_cur: *most, rlim_max: *most };
            // SAFETY: the structure outlives the call.
            check(unsafe { libc::setrlimit(*resource, &raw const limit) })?;
        }
        keep_capabilities(capabilities)?;
        // SAFETY: takes integers only.
        check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
        if let Some(rules) = &landlock {
            // SAFETY: takes integers only; the descriptor is owned by this closure and open.
            let result = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0) };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        filters.iter().try_for_each(|filter| install(filter))
    };
    // SAFETY: the closure is async-signal-safe, see the module's head.
    unsafe { command.pre_exec(setup) };
    Ok(())
}

/// The same descriptor under a number that no descriptor of a program has.
fn beyond(fd: &OwnedFd) -> io::Result<OwnedFd> {
    // SAFETY: takes integers only.
    let copy = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, BEYOND_PROGRAMS) };
    check(copy)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Keeps of the capabilities that the process has only these.
fn keep_capabilities(kept: u64) -> io::Result<()> {
    let mut header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    let mut data = [CapabilityData::default(); 2];
    // SAFETY: both structures are as the kernel has them for this version, and outlive the call.
    let read = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    if read != 0 {
        return Err(io::Error::last_os_error());
    }
    #[allow(clippy::cast_possible_truncation, reason = "the halves of the set")]
    let halves = [kept as u32, (kept >> 32) as u32];
    for (half, kept) in data.iter_mut().zip(halves) {
        half.permitted &= kept;
        half.effective = half.permitted;
        half.inheritable = 0;
    }
    // SAFETY: as above.
    let written = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) };
    if written == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn install(filter: &[libc::sock_filter]) -> io::Result<()> {
    // The kernel bounds the length of filters by 4096.
    let len = u16::try_from(filter.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the kernel copies the program and changes nothing; the instructions outlive the call.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_has_the_bounds_and_the_capabilities_that_it_was_left() {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -f; ulimit -c; grep -E '^(CapPrm|CapEff|NoNewPrivs)' /proc/self/status"]);
        let limits = vec![(libc::RLIMIT_FSIZE, 1 << 20), (libc::RLIMIT_CORE, 0)];
        let confinement = Confinement { landlock: None, filters: Vec::new(), limits, capabilities: 0 };
        confine(&mut command, confinement).unwrap();
        let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let lines: Vec<&str> = output.lines().collect();
        // Blocks of 512 or 1024 bytes, as the shell likes.
        assert!(["1024", "2048"].contains(&lines[0]), "{output}");
        assert_eq!(lines[1], "0");
        assert_eq!(lines[2..], ["CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"]);
    }
}
