//! What a child does between `fork` and `exec`.
//!
//! Only async-signal-safe calls may happen there: the closures below make system calls on values prepared
//! before the fork, and never allocate, lock or format.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::check;

/// Whom a child becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// Settings of a workload process.
#[derive(Debug)]
pub struct Workload {
    /// Whom it runs as.
    pub identity: Identity,
    /// Whether its standard input is a terminal that becomes its controlling one.
    pub controlling_terminal: bool,
}

/// Makes `command` start in a session of its own, with default signals and scheduling, as its user.
pub fn as_workload(command: &mut Command, workload: Workload) {
    let Workload { identity, controlling_terminal } = workload;
    let setup = move || {
        reset_signals();
        // SAFETY: plain system calls on integers and on a structure that outlives the call; the group list outlives
        // its call, and its length is passed with it.
        unsafe {
            check(libc::setsid())?;
            check(libc::sched_setscheduler(0, libc::SCHED_OTHER, &libc::sched_param { sched_priority: 0 }))?;
            if controlling_terminal {
                check(libc::ioctl(0, libc::TIOCSCTTY as _, 0))?;
            }
            check(libc::setgroups(identity.groups.len() as _, identity.groups.as_ptr()))?;
            check(libc::setgid(identity.gid))?;
            check(libc::setuid(identity.uid))
        }
    };
    // SAFETY: the closure is async-signal-safe, see the module's head.
    unsafe { command.pre_exec(setup) };
}

/// Makes `command` start in a process group of its own, with default signals, and be told to end when the thread that
/// starts it does.
pub fn dependent(command: &mut Command) {
    let setup = || {
        reset_signals();
        // SAFETY: takes integers only.
        unsafe {
            check(libc::setpgid(0, 0))?;
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM, 0, 0, 0))
        }
    };
    // SAFETY: the closure is async-signal-safe, see the module's head.
    unsafe { command.pre_exec(setup) };
}

/// Numbers below are for descriptors that programs are started with; none of this process's own is there.
pub const PLACED_BELOW: RawFd = 64;

/// Takes all numbers below [`PLACED_BELOW`] that are free, for good. To be called before a program that starts others by
/// [`detached`] opens anything.
///
/// A descriptor that is placed in a child takes the place of what has that number there. That may be the pipe by which
/// `Command` learns whether the program was executed: it would take the program for started, and the child would write
/// its error into what was placed.
///
/// # Errors
/// The system's.
pub fn reserve_numbers() -> io::Result<()> {
    static RESERVED: Mutex<Vec<OwnedFd>> = Mutex::new(Vec::new());
    let mut reserved = RESERVED.lock().unwrap_or_else(PoisonError::into_inner);
    if !reserved.is_empty() {
        return Ok(());
    }
    let nothing = File::open("/dev/null")?;
    loop {
        // SAFETY: takes integers only; the kernel gives the lowest number that is free.
        let copy = unsafe { libc::fcntl(nothing.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3) };
        check(copy)?;
        // SAFETY: the kernel has just made this descriptor, and nobody else knows its number.
        let copy = unsafe { OwnedFd::from_raw_fd(copy) };
        if copy.as_raw_fd() >= PLACED_BELOW {
            return Ok(());
        }
        reserved.push(copy);
    }
}

/// Makes `command` start in a session of its own and outlive its parent, with `fds` open under the numbers given.
///
/// No other descriptor is inherited but the three standard ones: whoever started this process may have left some open.
/// The target numbers must be above 2, distinct, and below [`PLACED_BELOW`].
///
/// # Errors
/// If a number is not, or the numbers cannot be reserved (see [`reserve_numbers`]).
pub fn detached(command: &mut Command, fds: Vec<(OwnedFd, RawFd)>) -> io::Result<()> {
    let mut staged = [-1; (PLACED_BELOW - 3) as usize];
    if fds.iter().any(|(_, target)| !(3..PLACED_BELOW).contains(target)) || fds.len() > staged.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    reserve_numbers()?;
    let setup = move || {
        reset_signals();
        // SAFETY: plain system calls on integers; sources are owned by this closure and open.
        unsafe {
            check(libc::setsid())?;
            // A kernel before 5.11 does not know that; what is inherited there is what this process was left.
            libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
            for (slot, (source, _)) in staged.iter_mut().zip(&fds) {
                // Beyond every target, so that placing one never overwrites a source that is still to be placed.
                *slot = libc::fcntl(source.as_raw_fd(), libc::F_DUPFD_CLOEXEC, PLACED_BELOW);
                check(*slot)?;
            }
            for (slot, (_, target)) in staged.iter().zip(&fds) {
                check(libc::dup2(*slot, *target))?;
            }
        }
        Ok(())
    };
    // SAFETY: the closure is async-signal-safe, see the module's head.
    unsafe { command.pre_exec(setup) };
    Ok(())
}

/// Lets whoever may read the memory of a process that `command` starts do so without having started it: the daemon that did may
/// be gone. Without Yama there is no such rule, and nothing to lift.
pub fn readable(command: &mut Command) {
    let setup = || {
        // SAFETY: takes integers only.
        unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY, 0, 0, 0) };
        Ok(())
    };
    // SAFETY: the closure is async-signal-safe, see the module's head.
    unsafe { command.pre_exec(setup) };
}

/// A descriptor that the parent left open under this number.
///
/// # Errors
/// `EBADF` if there is none.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes integers only; a number that is no descriptor yields EBADF.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    check(copy)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// An empty mask, and the default for SIGPIPE, which Rust programs ignore. Handlers do not survive `exec` anyway.
fn reset_signals() {
    // SAFETY: the set is initialised by sigemptyset before use; the disposition is a constant.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::process::Stdio;

    #[test]
    fn descriptors_arrive_under_their_numbers_even_when_crossed() {
        let (mut first, first_end) = io::pipe().unwrap();
        let (mut second, second_end) = io::pipe().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo one >&5; echo two >&6"]).stdin(Stdio::null());
        detached(&mut command, vec![(first_end.into(), 5), (second_end.into(), 6)]).unwrap();
        let mut child = command.spawn().unwrap();
        drop(command);
        assert!(child.wait().unwrap().success());
        let (mut one, mut two) = (String::new(), String::new());
        first.read_to_string(&mut one).unwrap();
        second.read_to_string(&mut two).unwrap();
        assert_eq!((one.as_str(), two.as_str()), ("one\n", "two\n"));
    }

    #[test]
    fn nothing_else_that_this_process_has_open_is_inherited() {
        let (_reader, writer) = io::pipe().unwrap();
        // As a shell leaves it: `exec 77<>file`.
        let left = 77;
        // SAFETY: takes integers only; nobody else uses the number.
        check(unsafe { libc::dup2(writer.as_raw_fd(), left) }).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "! test -e /proc/self/fd/77 && test -e /proc/self/fd/5"]);
        detached(&mut command, vec![(writer.into(), 5)]).unwrap();
        assert!(command.status().unwrap().success());
    }

    #[test]
    fn a_detached_child_leads_its_own_session() {
        let mut command = Command::new("sh");
        command.args(["-c", "set -- $(cat /proc/self/stat); test \"$6\" = $$"]);
        detached(&mut command, Vec::new()).unwrap();
        assert!(command.status().unwrap().success());
    }

    #[test]
    fn a_program_that_is_not_there_is_told_whatever_numbers_are_placed_and_nothing_is_written_to_what_is() {
        let file = tempfile::tempfile().unwrap();
        for first in (3..PLACED_BELOW).step_by(10) {
            let mut command = Command::new("/nonexistent");
            let placed = (first..PLACED_BELOW.min(first + 10))
                .map(|number| (file.try_clone().unwrap().into(), number))
                .collect();
            detached(&mut command, placed).unwrap();
            let error = command.spawn().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "from {first}: {error}");
        }
        assert_eq!(file.metadata().unwrap().len(), 0);
    }

    #[test]
    fn numbers_that_no_program_is_started_with_are_refused() {
        for number in [2, PLACED_BELOW] {
            let file = File::open("/dev/null").unwrap();
            assert!(detached(&mut Command::new("true"), vec![(file.into(), number)]).is_err(), "{number}");
        }
    }
}
