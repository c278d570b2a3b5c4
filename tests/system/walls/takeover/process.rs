//! Takes a process over as somebody does who has found a fault in it: its own thread makes the system calls.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::libc::{self, user_regs_struct};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// `syscall`.
const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// Bytes below the stack pointer that a leaf function may use without moving it (System V ABI, 3.2.2).
const RED_ZONE: u64 = 128;
/// Room for what arguments point to, bytes.
const ROOM: u64 = 4096;
/// Results from here on are errors.
const FIRST_ERROR: i64 = -4095;

/// An argument of a system call.
#[derive(Debug, Clone)]
pub(super) enum Argument {
    Number(i64),
    /// Bytes in the process's memory, by their address.
    Bytes(Vec<u8>),
}

impl From<i64> for Argument {
    fn from(number: i64) -> Argument {
        Argument::Number(number)
    }
}

impl From<&[u8]> for Argument {
    fn from(bytes: &[u8]) -> Argument {
        Argument::Bytes(bytes.to_vec())
    }
}

impl From<&str> for Argument {
    fn from(text: &str) -> Argument {
        Argument::Bytes([text.as_bytes(), b"\0"].concat())
    }
}

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It returned this.
    Done(i64),
    /// It failed with this error.
    Failed(i32),
    /// The process is no more: its filter ended it.
    Killed,
}

/// A process that is under control.
#[derive(Debug)]
pub(super) struct Taken {
    pid: Pid,
    memory: File,
    registers: user_regs_struct,
    instruction: u64,
    dead: bool,
}

impl Taken {
    /// Stops the first thread of a process, wherever it is.
    pub(super) fn over(pid: i32) -> Taken {
        let pid = Pid::from_raw(pid);
        ptrace::attach(pid).unwrap();
        waitpid(pid, Some(WaitPidFlag::__WALL)).unwrap();
        let registers = ptrace::getregs(pid).unwrap();
        let memory = File::options().read(true).write(true).open(format!("/proc/{pid}/mem")).unwrap();
        let instruction = find_instruction(pid, &memory).unwrap();
        Taken { pid, memory, registers, instruction, dead: false }
    }

    /// Has it make a call, and leaves it as it was.
    pub(super) fn call(&mut self, number: i64, arguments: &[Argument]) -> Outcome {
        if self.dead {
            return Outcome::Killed;
        }
        let base = (self.registers.rsp - RED_ZONE - ROOM) & !15;
        let (mut at, mut values) = (base, [0u64; 6]);
        for (value, argument) in values.iter_mut().zip(arguments) {
            *value = match argument {
                Argument::Number(number) => number.cast_unsigned(),
                Argument::Bytes(bytes) => {
                    self.memory.write_all_at(bytes, at).unwrap();
                    let here = at;
                    at += (bytes.len() as u64 + 15) & !15;
                    here
                }
            };
        }
        let [rdi, rsi, rdx, r10, r8, r9] = values;
        let (rax, rip) = (number.cast_unsigned(), self.instruction);
        // Not to be taken for a call that was interrupted, which would be begun again.
        let orig_rax = u64::MAX;
        let registers = user_regs_struct { rax, orig_rax, rip, rdi, rsi, rdx, r10, r8, r9, ..self.registers };
        ptrace::setregs(self.pid, registers).unwrap();
        let result = self.step();
        if !self.dead {
            ptrace::setregs(self.pid, self.registers).unwrap();
        }
        result
    }

    fn step(&mut self) -> Outcome {
        ptrace::step(self.pid, None).unwrap();
        let mut trapped = false;
        loop {
            match waitpid(self.pid, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Stopped(_, Signal::SIGTRAP)) => break,
                // What a filter says instead of making the call (`SECCOMP_RET_TRAP`). Firecracker ends when it hears of that.
                Ok(WaitStatus::Stopped(_, Signal::SIGSYS)) => {
                    trapped = true;
                    ptrace::step(self.pid, None).unwrap();
                }
                // It is told when it is let go.
                Ok(WaitStatus::Stopped(..)) => ptrace::step(self.pid, None).unwrap(),
                // A filter that ends one thread leaves its remains until all others have ended; nothing tells of that.
                Ok(WaitStatus::StillAlive) if !is_dead(self.pid) => {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                _ => {
                    self.dead = true;
                    return Outcome::Killed;
                }
            }
        }
        if trapped {
            return Outcome::Failed(libc::EPERM);
        }
        let result = ptrace::getregs(self.pid).unwrap().rax.cast_signed();
        match result {
            FIRST_ERROR..0 => Outcome::Failed(i32::try_from(-result).unwrap()),
            _ => Outcome::Done(result),
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if !self.dead {
            let _gone = ptrace::detach(self.pid, None);
        }
    }
}

/// Ends a process of which nothing but its first thread may be gone. Its parent hears of that when its tracer has.
pub(super) fn end(pid: i32) {
    let pid = Pid::from_raw(pid);
    // Its filter may have ended all of it.
    let _gone = kill(pid, Signal::SIGKILL);
    while !matches!(waitpid(pid, Some(WaitPidFlag::__WALL)), Ok(WaitStatus::Signaled(..)) | Err(_)) {}
}

/// Whether the first thread of a process has ended (`proc_pid_stat(5)`).
fn is_dead(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

/// Finds the instruction in what the process executes.
fn find_instruction(pid: Pid, memory: &File) -> io::Result<u64> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    for line in
        maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|access| access.starts_with("r-x")))
    {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let Some((start, end)) = range else { continue };
        let parse = |text| u64::from_str_radix(text, 16).map_err(io::Error::other);
        let (start, end) = (parse(start)?, parse(end)?);
        let mut bytes = vec![0; usize::try_from((end - start).min(4 << 20)).map_err(io::Error::other)?];
        if memory.read_exact_at(&mut bytes, start).is_err() {
            continue;
        }
        if let Some(at) = bytes.windows(2).position(|pair| pair == SYSCALL) {
            return Ok(start + at as u64);
        }
    }
    Err(io::ErrorKind::NotFound.into())
}
