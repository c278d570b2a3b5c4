//! The processes that the host asked for: starting, signalling, reaping.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::rc::Rc;

use aegis_guest_protocol::argument::Argument;
use aegis_guest_protocol::messages::{ExitStatus, Process, Target, TerminalSize, code};
use aegis_guest_protocol::rpc::RpcError;
use aegis_sys::child::{self, Workload};
use rustix::process::{WaitOptions, WaitStatus};
use tokio::sync::watch;

use crate::path_lookup::{self, DEFAULT_PATH};
use crate::platform::Platform;
use crate::process_user::{self, User};

/// The host's ends of a process's standard streams.
#[derive(Debug)]
pub enum Ends {
    /// Three pipes; no input if it was not asked for.
    Pipes {
        /// Where its input is written.
        stdin: Option<OwnedFd>,
        /// Where its output is read.
        stdout: OwnedFd,
        /// Where its errors are read.
        stderr: OwnedFd,
    },
    /// A terminal.
    Terminal(OwnedFd),
}

/// A process that was started.
#[derive(Debug)]
pub struct Child {
    /// Its process id, which is also its group's and session's.
    pub pid: u32,
    /// The host's ends.
    pub ends: Ends,
    /// Turns true when it has ended.
    pub ended: watch::Receiver<bool>,
}

#[derive(Debug)]
struct Entry {
    target: Target,
    ended: watch::Sender<bool>,
    status: Rc<watch::Sender<Option<ExitStatus>>>,
    terminal: Option<OwnedFd>,
}

/// The table of living processes.
#[derive(Debug)]
pub struct Processes {
    by_pid: RefCell<HashMap<u32, Entry>>,
    platform: Rc<dyn Platform>,
}

impl Processes {
    /// An empty table of what is started on this platform.
    #[must_use]
    pub fn new(platform: Rc<dyn Platform>) -> Processes {
        Processes { by_pid: RefCell::default(), platform }
    }

    /// Starts a process. On return its program has been executed.
    ///
    /// # Errors
    /// With one of [`code`]'s numbers, saying what is wrong.
    pub fn start(
        &self,
        target: Target,
        process: &Process,
    ) -> Result<(Child, watch::Receiver<Option<ExitStatus>>), RpcError> {
        let (mut command, user) = prepare(process)?;
        let (ends, terminal) =
            connect(&mut command, process, &user).map_err(system("open standard streams"))?;
        let workload = Workload { identity: user.identity, controlling_terminal: process.tty.is_some() };
        child::as_workload(&mut command, workload);
        let spawned = self.platform.start(&mut || Ok(command.spawn()?.id()));
        drop(command);
        let pid = spawned.map_err(|error| not_executed(process, &error))?;
        let (ended, when_ended) = watch::channel(false);
        let (status, exit) = watch::channel(None);
        let entry = Entry { target, ended, status: Rc::new(status), terminal };
        self.by_pid.borrow_mut().insert(pid, entry);
        Ok((Child { pid, ends, ended: when_ended }, exit))
    }

    /// Collects every child that has ended, ours and orphans that fell to us.
    pub fn reap(&self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let Ok(pid) = u32::try_from(pid.as_raw_nonzero().get()) else { continue };
            let Some(status) = exit_status(status) else { continue };
            if let Some(entry) = self.by_pid.borrow_mut().remove(&pid) {
                entry.ended.send_replace(true);
                entry.status.send_replace(Some(status));
            }
        }
    }

    /// Sends a signal to the process's group.
    ///
    /// # Errors
    /// [`code::WRONG_STATE`] if it has ended.
    pub fn signal(&self, target: Target, signal: i32) -> Result<(), RpcError> {
        let gone = || RpcError::new(code::WRONG_STATE, "the process has ended");
        let pid = self.pid_of(target).ok_or_else(gone)?;
        if !(1..=64).contains(&signal) {
            return Err(RpcError::new(code::SYSTEM, format!("no signal {signal}")));
        }
        aegis_sys::guest::signal_group(pid, signal).map_err(|_| gone())
    }

    /// Changes the size of the process's terminal.
    ///
    /// # Errors
    /// [`code::WRONG_STATE`] if it has ended or has no terminal.
    pub fn resize(&self, target: Target, size: TerminalSize) -> Result<(), RpcError> {
        let table = self.by_pid.borrow();
        let terminal =
            table.values().find(|entry| entry.target == target).and_then(|entry| entry.terminal.as_ref());
        let terminal =
            terminal.ok_or_else(|| RpcError::new(code::WRONG_STATE, "the process has no terminal"))?;
        set_size(terminal, size).map_err(system("resize the terminal"))
    }

    /// The groups of all living processes.
    #[must_use]
    pub fn groups(&self) -> Vec<u32> {
        self.by_pid.borrow().keys().copied().collect()
    }

    fn pid_of(&self, target: Target) -> Option<u32> {
        self.by_pid.borrow().iter().find(|(_, entry)| entry.target == target).map(|(pid, _)| *pid)
    }
}

fn exit_status(status: WaitStatus) -> Option<ExitStatus> {
    if let Some(code) = status.exit_status() {
        return u8::try_from(code).ok().map(ExitStatus::Code);
    }
    status.terminating_signal().and_then(|signal| u8::try_from(signal).ok()).map(ExitStatus::Signal)
}

fn system(what: &'static str) -> impl Fn(io::Error) -> RpcError {
    move |error| RpcError::new(code::SYSTEM, format!("cannot {what}: {error}"))
}

/// A user of this guest.
///
/// # Errors
/// [`code::NO_SUCH_USER`].
pub fn user(name: &str) -> Result<User, RpcError> {
    let file = process_user::account_file;
    process_user::resolve(name, &file("/etc/passwd"), &file("/etc/group"))
        .map_err(|error| RpcError::new(code::NO_SUCH_USER, error.to_string()))
}

fn prepare(process: &Process) -> Result<(Command, User), RpcError> {
    let user = user(&process.user)?;
    let workdir = Path::new(&process.workdir);
    match std::fs::metadata(workdir) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => {
            return Err(RpcError::new(code::NO_WORKDIR, format!("{}: not a directory", process.workdir)));
        }
        Err(error) => {
            return Err(RpcError::new(
                code::NO_WORKDIR,
                format!("working directory {}: {error}", process.workdir),
            ));
        }
    }
    let env = environment(process, &user);
    let (name, arguments) = process
        .command
        .split_first()
        .ok_or_else(|| RpcError::new(code::NOT_FOUND, "the command is empty"))?;
    let file = path_lookup::find(word(name), env.get("PATH").map_or(DEFAULT_PATH, String::as_str), workdir)?;
    let mut command = Command::new(file);
    command.arg0(word(name)).args(arguments.iter().map(word)).current_dir(workdir).env_clear().envs(env);
    Ok((command, user))
}

fn word(argument: &Argument) -> &OsStr {
    OsStr::from_bytes(argument.as_bytes())
}

fn environment(process: &Process, user: &User) -> BTreeMap<String, String> {
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), DEFAULT_PATH.to_owned()),
        ("HOME".to_owned(), user.home.clone()),
        ("USER".to_owned(), user.name.clone()),
    ]);
    if process.tty.is_some() {
        env.insert("TERM".to_owned(), "xterm-256color".to_owned());
    }
    env.extend(process.env.clone());
    env
}

/// Gives the command its standard streams; returns the host's ends, and a handle to resize the terminal by.
fn connect(command: &mut Command, process: &Process, user: &User) -> io::Result<(Ends, Option<OwnedFd>)> {
    match process.tty {
        Some(size) => {
            let (host, guest) = terminal(size, user)?;
            let spare = host.try_clone()?;
            command.stdin(guest.try_clone()?).stdout(guest.try_clone()?).stderr(guest);
            Ok((Ends::Terminal(host), Some(spare)))
        }
        None => {
            let stdin = if process.stdin {
                let (theirs, ours) = pipe(user, true)?;
                command.stdin(theirs);
                Some(ours)
            } else {
                command.stdin(Stdio::null());
                None
            };
            let (stdout, out) = pipe(user, false)?;
            let (stderr, err) = pipe(user, false)?;
            command.stdout(out).stderr(err);
            Ok((Ends::Pipes { stdin, stdout, stderr }, None))
        }
    }
}

/// Size of a pipe that carries output: what one splice can move.
const PIPE_BYTES: usize = 256 << 10;

/// Reading and writing end. The process's end belongs to its user, so that `/dev/stdout` can be opened.
fn pipe(user: &User, for_input: bool) -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // A larger pipe is only faster.
    let _smaller = rustix::pipe::fcntl_setpipe_size(&writer, PIPE_BYTES);
    let theirs = if for_input { &reader } else { &writer };
    own(theirs, user)?;
    Ok((reader, writer))
}

fn own(fd: &OwnedFd, user: &User) -> io::Result<()> {
    if user.identity.uid != 0 {
        let uid = rustix::fs::Uid::from_raw(user.identity.uid);
        rustix::fs::fchown(fd, Some(uid), Some(rustix::fs::Gid::from_raw(user.identity.gid)))?;
    }
    Ok(())
}

fn terminal(size: TerminalSize, user: &User) -> io::Result<(OwnedFd, OwnedFd)> {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let host = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&host)?;
    unlockpt(&host)?;
    let name = ptsname(&host, Vec::new())?;
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
    let guest = rustix::fs::open(name.as_c_str(), flags, rustix::fs::Mode::empty())?;
    own(&guest, user)?;
    set_size(&host, size)?;
    Ok((host, guest))
}

fn set_size(terminal: &OwnedFd, size: TerminalSize) -> io::Result<()> {
    let size = rustix::termios::Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}

/// What a failed `exec` means. The file exists by now, so "not found" speaks of its interpreter.
fn not_executed(process: &Process, error: &io::Error) -> RpcError {
    let name = process.command.first().map(Argument::to_string_lossy).unwrap_or_default();
    match error.kind() {
        io::ErrorKind::NotFound => {
            RpcError::new(code::NOT_FOUND, format!("{name}: its interpreter or loader was not found"))
        }
        io::ErrorKind::PermissionDenied => {
            RpcError::new(code::NOT_EXECUTABLE, format!("{name}: permission denied"))
        }
        // ENOEXEC has no kind of its own.
        _ if error.raw_os_error() == Some(8) => {
            RpcError::new(code::NOT_EXECUTABLE, format!("{name}: not an executable format"))
        }
        io::ErrorKind::ArgumentListTooLong => {
            RpcError::new(code::NOT_EXECUTABLE, format!("{name}: argument list too long"))
        }
        io::ErrorKind::WouldBlock => RpcError::new(
            code::SYSTEM,
            format!("cannot execute {name}: the instance has as many processes as its memory allows"),
        ),
        _ => RpcError::new(code::SYSTEM, format!("cannot execute {name}: {error}")),
    }
}
