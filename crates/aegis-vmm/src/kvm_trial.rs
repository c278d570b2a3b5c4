//! A trial of the host's KVM in a process of its own, which may hang without harm.

use std::io::Read;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, pidfd_open, setrlimit};

/// Where Linux offers hardware virtualisation.
const DEVICE: &str = "/dev/kvm";
/// How much of the processor a trial may take, seconds; one that works takes some milliseconds.
const PROCESSOR_SECONDS: u64 = 1;
/// How long it may take altogether.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest answer, bytes.
const LONGEST_ANSWER: u64 = 1024;

/// What a program does that is executed for a trial, see [`in_child`]: tries, and answers with what is wrong.
///
/// # Errors
/// What is wrong with the host's KVM.
pub fn try_here() -> Result<(), String> {
    let most = Rlimit { current: Some(PROCESSOR_SECONDS), maximum: Some(PROCESSOR_SECONDS) };
    setrlimit(Resource::Cpu, most).map_err(|error| format!("the trial of /dev/kvm: {error}"))?;
    aegis_sys::kvm::try_kvm(Path::new(DEVICE)).map_err(|fault| fault.to_string())
}

/// Has `command` try the host's KVM: a program that calls [`try_here`], prints the error, if there is one, and ends.
///
/// # Errors
/// Why KVM is of no use, as a clause for people.
pub fn in_child(mut command: Command) -> Result<(), String> {
    if !Path::new(DEVICE).exists() {
        return Err(format!("there is no {DEVICE}"));
    }
    let failed = |error: std::io::Error| format!("{DEVICE} is there, but could not be tried: {error}");
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map_err(failed)?;
    let in_time = ends_in_time(child.id());
    if !matches!(in_time, Ok(true)) {
        // An error means that it has ended by itself.
        let _gone = child.kill();
    }
    let status = child.wait().map_err(failed)?;
    in_time.map_err(failed)?;
    let mut answer = String::new();
    if let Some(output) = child.stdout {
        output.take(LONGEST_ANSWER).read_to_string(&mut answer).map_err(failed)?;
    }
    judge(status, answer.trim())
}

fn judge(status: ExitStatus, answer: &str) -> Result<(), String> {
    match (status.success(), answer) {
        (true, "") => Ok(()),
        (_, "") => Err(format!("{DEVICE} is there, but a machine that was tried did not end ({status})")),
        (_, why) => Err(why.to_owned()),
    }
}

/// Whether a child ends within the time that it has.
fn ends_in_time(pid: u32) -> std::io::Result<bool> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(std::io::ErrorKind::NotFound)?;
    let descriptor = pidfd_open(pid, PidfdFlags::empty())?;
    let timeout = Timespec::try_from(TIMEOUT).map_err(std::io::Error::other)?;
    let mut waited = [PollFd::new(&descriptor, PollFlags::IN)];
    Ok(rustix::io::retry_on_intr(|| poll(&mut waited, Some(&timeout)))? > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Result<(), String> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        if Path::new(DEVICE).exists() { in_child(command) } else { Err("no device".to_owned()) }
    }

    #[test]
    fn a_trial_that_says_nothing_and_ends_well_is_a_good_one() {
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(judge(ExitStatus::from_raw(0), ""), Ok(()));
        assert_eq!(judge(ExitStatus::from_raw(1 << 8), "broken"), Err("broken".to_owned()));
        let killed = judge(ExitStatus::from_raw(9), "").unwrap_err();
        assert!(killed.contains("did not end (signal: 9"), "{killed}");
    }

    #[test]
    fn a_trial_that_takes_the_processor_for_good_is_ended() {
        if !Path::new(DEVICE).exists() {
            return;
        }
        let error = shell("ulimit -t 1; while :; do :; done").unwrap_err();
        assert!(error.contains("did not end (signal:"), "{error}");
    }
}
