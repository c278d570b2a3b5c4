//! A process that outlives us: a monitor, or what serves one. Recognised beyond doubt, watched without polling.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use aegis_jail::{FileRule, Isolation, Jail, ProgramPid};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::sync::watch;

use crate::{End, VmmError};

/// A process, told from any later one with the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since the host booted (field 22 of `/proc/PID/stat`).
    pub start_ticks: u64,
    /// Its executable.
    pub executable: PathBuf,
}

impl ProcessId {
    /// Whether its executable is still the file of that name: an update may have replaced it.
    pub(crate) fn is_current(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        let file = |path: &Path| std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
        // Followed by the kernel, whatever is there under that name now.
        let own = file(Path::new(&format!("/proc/{}/exe", self.pid)));
        own.is_some() && own == file(&self.executable)
    }
}

/// State letter and start time out of `/proc/PID/stat`; the name in it may hold anything, parentheses too.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    Some((fields.first()?.chars().next()?, fields.get(19)?.parse().ok()?))
}

fn stat(pid: i32) -> Option<(char, u64)> {
    parse_stat(&String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/stat")).ok()?))
}

/// The executable of a process. An upgrade that replaced the file leaves a marker behind the name.
fn executable(pid: i32) -> Option<PathBuf> {
    let link = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let text = link.to_string_lossy();
    Some(text.strip_suffix(" (deleted)").map_or_else(|| link.clone(), PathBuf::from))
}

/// What is between a process and the host from its first instruction on.
#[derive(Debug)]
pub enum Wall {
    /// Nothing.
    None,
    /// Namespaces of its own, with a root that has these files. The rest it does itself.
    Isolation(Vec<FileRule>, Isolation),
    /// All there is.
    Jail(Box<Jail>),
}

impl Wall {
    /// The name of the control group that the process is in, where there are such.
    fn group(&self) -> Option<String> {
        let isolation = match self {
            Wall::None => None,
            Wall::Isolation(_, isolation) => Some(isolation),
            Wall::Jail(jail) => jail.isolation(),
        };
        isolation.map(|isolation| isolation.group.name.clone())
    }
}

/// A living or just ended process.
#[derive(Debug)]
pub struct Process {
    id: ProcessId,
    pidfd: OwnedFd,
    ended: watch::Receiver<Option<End>>,
}

impl Process {
    /// Starts `command` in a session of its own, with `fds` open in it under the given numbers, and as far confined as
    /// is said.
    ///
    /// # Errors
    /// The system's.
    pub fn spawn(mut command: Command, fds: Vec<(OwnedFd, i32)>, wall: Wall) -> io::Result<Process> {
        if matches!(wall, Wall::Jail(_)) {
            // A monitor's memory is its machine's, which is kept.
            aegis_sys::child::readable(&mut command);
        }
        aegis_sys::child::detached(&mut command, fds)?;
        let (group, named) = (wall.group(), PathBuf::from(command.get_program()));
        let program = match wall {
            Wall::None => None,
            // Where the host does not allow it the program confines itself all the same.
            Wall::Isolation(files, isolation) => aegis_jail::isolate(&mut command, &files, &isolation)?.1,
            Wall::Jail(jail) => jail.attach(&mut command)?,
        };
        let mut child = command.spawn().inspect_err(|_| {
            // It has told why, and ends.
            program.iter().for_each(ProgramPid::reap);
        })?;
        let pid = match &program {
            None => i32::try_from(child.id()).map_err(io::Error::other)?,
            Some(program) => {
                // Of a program with a namespace of processes the child is who made it, and ends at once.
                let maker = child.wait()?;
                program
                    .get()
                    .ok_or_else(|| io::Error::other(format!("what was to make it has ended: {maker}")))?
            }
        };
        let pidfd = open(pid)?;
        let (_, start_ticks) = stat(pid).ok_or(io::ErrorKind::NotFound)?;
        // One that has ended at once has none; how it has ended is told as of any other.
        let executable = executable(pid).unwrap_or(named);
        let (tell, ended) = watch::channel(None);
        let watched = aegis_sys::poll::watch(pidfd.try_clone()?, Interest::READABLE)?;
        // Owned by the process it waits for: it ends when that does.
        tokio::spawn(async move {
            let _exit = watched.readable().await;
            let end = end_of_child(watched.get_ref());
            if let Some(group) = group {
                aegis_jail::remove_group(&group);
            }
            tell.send_replace(Some(end));
        });
        Ok(Process { id: ProcessId { pid, start_ticks, executable }, pidfd, ended })
    }

    /// Takes over a process that somebody else started; `None` if it is gone.
    ///
    /// # Errors
    /// The system's.
    pub fn adopt(id: &ProcessId) -> io::Result<Option<Process>> {
        let pidfd = match open(id.pid) {
            Ok(pidfd) => pidfd,
            Err(error) if error.raw_os_error() == Some(3) => return Ok(None),
            Err(error) => return Err(error),
        };
        // Checked after the descriptor is open: from here on the number cannot come to mean another process.
        let same = stat(id.pid).is_some_and(|(state, start)| start == id.start_ticks && state != 'Z')
            && executable(id.pid).as_deref() == Some(&id.executable);
        if !same {
            return Ok(None);
        }
        let watched = aegis_sys::poll::watch(pidfd.try_clone()?, Interest::READABLE)?;
        let (tell, ended) = watch::channel(None);
        // Owned by the process it waits for: it ends when that does.
        tokio::spawn(async move {
            let _exit = watched.readable().await;
            tell.send_replace(Some(End::Gone));
        });
        Ok(Some(Process { id: id.clone(), pidfd, ended }))
    }
    /// What finds it again.
    #[must_use]
    pub fn id(&self) -> &ProcessId {
        &self.id
    }

    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(pidfd_send_signal(self.pidfd.as_fd(), signal)?)
    }

    /// Whether the whole process is stopped by a signal.
    pub(crate) fn is_stopped(&self) -> bool {
        stat(self.id.pid).is_some_and(|(state, _)| state == 'T')
    }
    /// Waits until it is no more.
    pub async fn ended(&self) -> End {
        let mut ended = self.ended.clone();
        let end = ended.wait_for(Option::is_some).await;
        end.ok().and_then(|end| end.clone()).unwrap_or(End::Gone)
    }
    /// Ends it at once, and returns when it is gone.
    pub async fn kill(&self) {
        // Failing means that it is gone already.
        let _gone = self.signal(Signal::KILL);
        self.ended().await;
    }
}

/// Living processes with their arguments.
fn all() -> Vec<(ProcessId, Vec<String>)> {
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: i32| {
        let (state, start_ticks) = stat(pid)?;
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok().filter(|_| state != 'Z')?;
        let arguments =
            line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        Some((ProcessId { pid, start_ticks, executable: executable(pid)? }, arguments))
    })
    .collect()
}

fn open(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// How a child has ended.
fn end_of_child(pidfd: &OwnedFd) -> End {
    match waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED) {
        Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => End::Exited(code, String::new()),
            (None, Some(signal)) => End::Killed(signal),
            (None, None) => End::Gone,
        },
        _ => End::Gone,
    }
}

/// Ends processes that are machines by their arguments, and none of `known`. Returns the machines' names.
pub(crate) async fn end_strays(
    known: &[i32],
    machine_name: impl Fn(&[String]) -> Option<String>,
) -> Vec<String> {
    let mut ended = Vec::new();
    for (id, words) in all().into_iter().filter(|(id, _)| !known.contains(&id.pid)) {
        let Some(name) = machine_name(&words) else { continue };
        if let Ok(Some(stray)) = Process::adopt(&id) {
            stray.kill().await;
            ended.push(name);
        }
    }
    ended
}

/// The first line of what a program says of its version.
pub(crate) async fn version_line(executable: &Path) -> Result<String, VmmError> {
    let output = tokio::process::Command::new(executable).arg("--version").output().await;
    let output = output.map_err(VmmError::io("ask the monitor for its version"))?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

/// Finds a program in `PATH` or where administrators' programs live.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path)
        .chain(["/usr/bin", "/usr/local/bin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    dirs.map(|dir| dir.join(name)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_hostile_process_name_does_not_confuse_the_parser() {
        let stat = "42 (a) R 1 (x) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20";
        assert_eq!(parse_stat(stat), Some(('S', 777)));
    }

    proptest! {
        #[test]
        fn arbitrary_stat_lines_never_panic(text in ".{0,200}") {
            let _parsed = parse_stat(&text);
        }
    }

    #[tokio::test]
    async fn a_process_whose_program_was_replaced_is_not_current() {
        let dir = tempfile::tempdir().unwrap();
        let (program, newer) = (dir.path().join("program"), dir.path().join("newer"));
        let sleep = find_program("sleep").unwrap();
        std::fs::copy(&sleep, &program).unwrap();
        std::fs::copy(&sleep, &newer).unwrap();
        let mut command = Command::new(&program);
        command.arg("60");
        let process = Process::spawn(command, Vec::new(), Wall::None).unwrap();
        assert!(process.id().is_current());
        std::fs::rename(&newer, &program).unwrap();
        assert!(!process.id().is_current());
        process.kill().await;
        assert!(!process.id().is_current(), "one that is gone is not either");
    }

    #[tokio::test]
    async fn a_reused_number_is_never_adopted() {
        let mut command = Command::new("sleep");
        command.arg("60");
        let process = Process::spawn(command, Vec::new(), Wall::None).unwrap();
        assert!(Process::adopt(process.id()).unwrap().is_some());
        let later = ProcessId { start_ticks: process.id().start_ticks + 1, ..process.id().clone() };
        assert!(Process::adopt(&later).unwrap().is_none());
        let other = ProcessId { executable: "/bin/other".into(), ..process.id().clone() };
        assert!(Process::adopt(&other).unwrap().is_none());
        process.kill().await;
        assert_eq!(process.ended().await, End::Killed(9));
        assert!(Process::adopt(process.id()).unwrap().is_none());
    }

    #[tokio::test]
    async fn an_adopted_process_is_watched_to_its_end() {
        let mut command = Command::new("sleep");
        command.arg("60");
        let process = Process::spawn(command, Vec::new(), Wall::None).unwrap();
        let adopted = Process::adopt(process.id()).unwrap().unwrap();
        process.kill().await;
        assert_eq!(adopted.ended().await, End::Gone);
    }
}
