//! Commands that have finished.

use std::io::Write;
use std::process::{Child, ExitStatus, Output};

use crate::DEADLINE;

/// What a finished command left.
#[derive(Debug)]
pub struct Done {
    /// Exit code, or 128 + signal.
    pub code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

impl Done {
    /// Standard output as text.
    #[must_use]
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    #[must_use]
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// Waits for a child, killing it when the deadline has passed.
///
/// # Panics
/// If it had to be killed.
pub fn wait(mut child: Child, input: Option<Vec<u8>>) -> Done {
    let feeder = input.zip(child.stdin.take()).map(|(bytes, mut stdin)| {
        // A child that wants no more input is no failure of the test.
        std::thread::spawn(move || drop(stdin.write_all(&bytes)))
    });
    let pid = rustix::process::Pid::from_child(&child);
    let (done, finished) = std::sync::mpsc::channel::<()>();
    let guard = std::thread::spawn(move || {
        let late = finished.recv_timeout(DEADLINE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
        if late {
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        late
    });
    let Output { status, stdout, stderr } = child.wait_with_output().expect("wait for the command");
    drop(done);
    let late = guard.join().expect("the guard");
    if let Some(feeder) = feeder {
        feeder.join().expect("the feeder");
    }
    let done = Done { code: code(status), stdout, stderr };
    assert!(!late, "not done within {DEADLINE:?}; stderr: {}", done.err());
    done
}

fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
