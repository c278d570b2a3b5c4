//! A namespace of processes for a child (`pid_namespaces(7)`).
//!
//! `unshare` gives one to the children of its caller, not to the caller. So the child makes a child of its own and ends,
//! and that one becomes the program: a sibling of its maker (`CLONE_PARENT`), so that whoever started the command is its
//! parent and learns of its end. Its number is told in a page that all three share, because `Command` knows its maker's.

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

/// The number of the process that a command with a namespace of processes becomes.
///
/// The child that `Command` returns makes it, ends at once, and is to be waited for as any other. The program itself is a
/// child of this process, too, and is to be waited for by this number.
#[derive(Debug, Clone)]
pub struct ProgramPid(Arc<SharedWord>);

/// A word in memory that stays the same one in children.
#[derive(Debug)]
struct SharedWord(NonNull<AtomicI32>);

// SAFETY: the memory is not bound to a thread, and is only used as an atomic.
unsafe impl Send for SharedWord {}
// SAFETY: as above.
unsafe impl Sync for SharedWord {}

impl SharedWord {
    fn new() -> io::Result<SharedWord> {
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: asks for new memory at no address in particular.
        let memory =
            unsafe { libc::mmap(std::ptr::null_mut(), size_of::<AtomicI32>(), protection, flags, -1, 0) };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // The kernel gives whole pages of zeroes.
        NonNull::new(memory.cast()).map(SharedWord).ok_or_else(io::Error::last_os_error)
    }

    fn get(&self) -> &AtomicI32 {
        // SAFETY: the memory is mapped as long as this lives, is aligned to a page, and began as a zero.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for SharedWord {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this size, and nobody borrows it any more.
        unsafe { libc::munmap(self.0.as_ptr().cast(), size_of::<AtomicI32>()) };
    }
}

impl ProgramPid {
    /// A place for one.
    ///
    /// # Errors
    /// If there is no memory.
    pub(crate) fn new() -> io::Result<ProgramPid> {
        Ok(ProgramPid(Arc::new(SharedWord::new()?)))
    }

    /// The number; `None` if it was never made.
    #[must_use]
    pub fn get(&self) -> Option<i32> {
        Some(self.0.get().load(Ordering::Acquire)).filter(|pid| *pid > 0)
    }

    /// Waits for a program that ends by itself, if it came to be: one that could not be executed, for instance. Blocks.
    pub fn reap(&self) {
        let Some(pid) = self.get() else { return };
        // One that has been waited for already is none of ours any more, and its number nobody else's that is ours.
        // SAFETY: takes integers, and no place for a status.
        while unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) } == -1
            && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
        {}
    }

    /// Returns in a child of whoever started this process, the first of a namespace if one was unshared before, and ends
    /// this process. Async-signal-safe; to be called in a child that has one thread.
    pub(crate) fn pass_on(&self) -> io::Result<()> {
        let flags = libc::CLONE_PARENT | libc::CLONE_PARENT_SETTID | libc::SIGCHLD;
        let word = self.0.0.as_ptr();
        // SAFETY: without `CLONE_VM` this is a `fork`: both go on with memory and stack of their own. The word is mapped,
        // and shared, so that the number that the kernel writes there in this process is seen where that is waited for.
        let made = unsafe { libc::syscall(libc::SYS_clone, flags, 0, word, 0, 0) };
        match made {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                // SAFETY: takes nothing.
                crate::check(unsafe { libc::setsid() })
            }
            // SAFETY: ends the process without running anything that its parent has set up for the end.
            _ => unsafe { libc::_exit(0) },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_program_is_passed_on_to_a_sibling_that_the_parent_can_wait_for() {
        let (program, mut command) = (ProgramPid::new().unwrap(), Command::new("sh"));
        command.args(["-c", "exit 7"]);
        let made = program.clone();
        // SAFETY: `pass_on` is async-signal-safe.
        unsafe { command.pre_exec(move || made.pass_on()) };
        assert_eq!(program.get(), None);
        let maker = command.spawn().unwrap().wait().unwrap();
        assert!(maker.success(), "{maker}");
        let (pid, mut status) = (program.get().unwrap(), 0);
        // SAFETY: takes a place for the status, which outlives the call.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        assert_eq!(libc::WEXITSTATUS(status), 7);
    }

    #[test]
    fn a_program_that_cannot_be_executed_is_an_error_and_leaves_nothing() {
        let (program, mut command) = (ProgramPid::new().unwrap(), Command::new("/nonexistent"));
        let made = program.clone();
        // SAFETY: `pass_on` is async-signal-safe.
        unsafe { command.pre_exec(move || made.pass_on()) };
        assert_eq!(command.spawn().unwrap_err().kind(), io::ErrorKind::NotFound);
        program.reap();
        // SAFETY: takes integers, and no place for a status.
        assert_eq!(unsafe { libc::waitpid(program.get().unwrap(), std::ptr::null_mut(), 0) }, -1);
    }
}
