//! Programs of the guest that are executed when it has become another instance, before its other processes go on: for
//! those that keep what must not be the same twice, as generators of random numbers and numbers of their own.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aegis_guest_protocol::argument::Argument;
use aegis_guest_protocol::messages::{Cause, ExitStatus, Process, Target, code};
use aegis_guest_protocol::rpc::RpcError;

use crate::async_fd::{Ended, asynchronous};
use crate::processes::{Child, Ends, Processes};
use crate::stdio_forwarder::{self, Output};

/// How long all of them together may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How much of what one says explains its failure, bytes.
const MOST_WORDS: usize = 400;
/// Their number among the processes that the host has asked for, none of which has it.
const NUMBER: Target = Target::Exec(u64::MAX);

fn failed(what: &str) -> RpcError {
    RpcError::new(code::SYSTEM, what.to_owned())
}

/// The programs in a directory, by name; others than executable files are left out.
pub(crate) fn programs(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let is_program = |path: &PathBuf| {
        fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    let mut all: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_program).collect();
    all.sort();
    all
}

/// Executes the programs in a directory, one after the other, each with the word for the cause.
///
/// # Errors
/// [`code::SYSTEM`] for the first that fails, and if they take too long; that one is killed.
pub async fn run(processes: &Processes, dir: &Path, cause: Cause) -> Result<(), RpcError> {
    let all = async {
        for program in programs(dir) {
            run_one(processes, &program, cause).await?;
        }
        Ok(())
    };
    let late = || {
        // It may have ended in this very moment.
        let _gone = processes.signal(NUMBER, 9);
        Err(failed(&format!("the programs in {} take longer than {TIMEOUT:?}", dir.display())))
    };
    tokio::time::timeout(TIMEOUT, all).await.unwrap_or_else(|_| late())
}

async fn run_one(processes: &Processes, program: &Path, cause: Cause) -> Result<(), RpcError> {
    let name = program.display();
    let process = Process {
        command: vec![program.as_os_str().as_bytes().to_vec().into(), cause.as_str().into()],
        env: BTreeMap::new(),
        workdir: "/".to_owned(),
        user: "root".to_owned(),
        tty: None,
        stdin: false,
    };
    match to_its_end(processes, &process).await? {
        (Some(ExitStatus::Code(0)), _) => Ok(()),
        (Some(status), words) => Err(failed(&format!("{name} failed ({}): {}", status.code(), words.trim()))),
        (None, _) => Err(failed(&format!("{name} was lost"))),
    }
}

/// Executes a program until it ends; returns how, and the last of what it said.
pub(crate) async fn to_its_end(
    processes: &Processes,
    process: &Process,
) -> Result<(Option<ExitStatus>, String), RpcError> {
    let (child, mut exit) = processes.start(NUMBER, process)?;
    let words = last_words(child).await;
    let words = words.map_err(|error| failed(&format!("{}: {error}", shown(process))))?;
    Ok((exit.wait_for(Option::is_some).await.ok().and_then(|status| *status), words))
}

fn shown(process: &Process) -> String {
    process.command.iter().map(Argument::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// Takes what a program says until its end, and returns the last of it.
async fn last_words(child: Child) -> io::Result<String> {
    let Ends::Pipes { stdout, stderr, .. } = child.ends else { return Ok(String::new()) };
    let (out, err) = tokio::join!(tail(stdout, child.ended.clone()), tail(stderr, child.ended));
    Ok([out?, err?].concat())
}

async fn tail(from: OwnedFd, mut ended: Ended) -> io::Result<String> {
    let from = asynchronous(from)?;
    let mut kept: VecDeque<u8> = VecDeque::new();
    while let Output::Bytes(bytes) = stdio_forwarder::next_output(&from, &mut ended, 4096).await {
        kept.extend(&bytes);
        kept.drain(..kept.len().saturating_sub(MOST_WORDS));
    }
    // What it has started may go on.
    stdio_forwarder::leave(from);
    Ok(String::from_utf8_lossy(kept.make_contiguous()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_executable_files_are_programs_and_they_come_by_name() {
        let dir = tempfile::tempdir().unwrap();
        for (name, mode) in [("20-b", 0o755), ("10-a", 0o700), ("README", 0o644)] {
            let path = dir.path().join(name);
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::create_dir(dir.path().join("30-c")).unwrap();
        assert_eq!(programs(dir.path()), [dir.path().join("10-a"), dir.path().join("20-b")]);
        assert!(programs(&dir.path().join("none")).is_empty());
    }
}
