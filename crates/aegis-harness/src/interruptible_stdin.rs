//! Standard input of a copy, which ends when this process is told to end: what is half written then goes, and does not stay
//! on the instance's disk.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::signal::unix::{SignalKind, signal};

/// Standard input, until a signal comes.
pub(crate) struct Input {
    stream: File,
    /// Its other end is closed when a signal has come.
    told: OwnedFd,
}

impl Input {
    /// Takes standard input. From now on no SIGTERM or SIGHUP ends this process.
    pub(crate) fn take() -> io::Result<Input> {
        let stream = File::from(rustix::stdio::stdin().try_clone_to_owned()?);
        let (told, tell) = pipe_with(PipeFlags::CLOEXEC)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let (mut terminate, mut hangup) = {
            let _within = runtime.enter();
            (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?)
        };
        // Ends with the process, which lasts as long as its input.
        std::thread::Builder::new().spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
            });
            drop(tell);
        })?;
        Ok(Input { stream, told })
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = [self.told.as_fd(), self.stream.as_fd()]
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
            match poll(&mut ready, None) {
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(_) if !ready[0].revents().is_empty() => {
                    return Err(io::Error::other("this end was told to end"));
                }
                Ok(_) => return self.stream.read(buffer),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_is_read_ends_when_it_is_told_to() {
        let ((told, tell), (stream, to)) =
            (pipe_with(PipeFlags::CLOEXEC).unwrap(), pipe_with(PipeFlags::CLOEXEC).unwrap());
        let mut input = Input { stream: File::from(stream), told };
        let mut to = File::from(to);
        to.write_all(b"abc").unwrap();
        let mut bytes = [0; 8];
        assert_eq!(input.read(&mut bytes).unwrap(), 3);
        drop(tell);
        assert!(input.read(&mut bytes).is_err(), "nothing comes, and nobody waits for it");
        to.write_all(b"abc").unwrap();
        assert!(input.read(&mut bytes).is_err());
    }
}
