//! A virtio-serial port (or, in tests, a socket) as an asynchronous byte pipe that survives its peer.
//!
//! A port whose host end is closed reads as end of file and polls as hung up, until a host connects again. Tokio
//! takes a hang-up as final, so the port is watched by an edge-triggered epoll of its own, and tokio watches that:
//! each change of the port's state wakes the waiter once.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use aegis_guest_protocol::frame::MAX_DATA;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, splice};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// For how long a port may say that no host is connected before that is believed. The kernel learns of a host that has
/// come by another queue than that of the host's bytes, and may hand out the first of these before it knows.
pub const HANG_UP: Duration = Duration::from_secs(1);

/// One direction of interest in a port.
#[derive(Debug)]
pub struct VirtioPort {
    fd: Rc<OwnedFd>,
    changes: AsyncFd<OwnedFd>,
}

impl VirtioPort {
    /// Watches `fd` for reading and for writing: two handles of the same port.
    ///
    /// # Errors
    /// The system's.
    pub fn split(fd: OwnedFd) -> io::Result<(VirtioPort, VirtioPort)> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        let fd = Rc::new(fd);
        Ok((VirtioPort::watch(&fd, epoll::EventFlags::IN)?, VirtioPort::watch(&fd, epoll::EventFlags::OUT)?))
    }

    fn watch(fd: &Rc<OwnedFd>, flags: epoll::EventFlags) -> io::Result<VirtioPort> {
        let watcher = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = flags | epoll::EventFlags::ET | epoll::EventFlags::RDHUP;
        epoll::add(&watcher, fd.as_fd(), epoll::EventData::new_u64(0), flags)?;
        Ok(VirtioPort { fd: Rc::clone(fd), changes: aegis_sys::poll::watch(watcher, Interest::READABLE)? })
    }

    /// Waits until the port's state has changed since the last call.
    ///
    /// # Errors
    /// The system's.
    pub async fn changed(&self) -> io::Result<()> {
        loop {
            let mut ready = self.changes.readable().await?;
            let mut event =
                [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }];
            let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            match epoll::wait(self.changes.get_ref(), &mut event, Some(&now)) {
                Ok(0) => ready.clear_ready(),
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads what is there; 0 means that no host is connected, and has not been for [`HANG_UP`].
    ///
    /// # Errors
    /// The system's.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut waited = false;
        loop {
            match rustix::io::read(&*self.fd, &mut *buffer) {
                // A socket says by a reset what a port says by reading nothing.
                Ok(0) | Err(Errno::CONNRESET) if waited => return Ok(0),
                Ok(0) | Err(Errno::CONNRESET) => match tokio::time::timeout(HANG_UP, self.changed()).await {
                    Ok(changed) => changed?,
                    // A host that has come and says nothing is no change: it is asked once more.
                    Err(_) => waited = true,
                },
                Ok(count) => return Ok(count),
                Err(Errno::AGAIN) => {
                    waited = false;
                    self.changed().await?;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes all of `bytes`; waits while no host is connected.
    ///
    /// # Errors
    /// The system's.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match rustix::io::write(&*self.fd, bytes) {
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(Errno::AGAIN) => self.changed().await?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Moves exactly `len` bytes from a pipe that holds them to the port, without copying them here, by way of `stage`.
    ///
    /// The stage is an empty pipe that nobody else writes to. Linux (6.1, `port_fops_splice_write`) hands the device
    /// one entry for each buffer in the pipe, and crashes over the unfilled ones if it moves fewer; a pipe into which
    /// a process writes may always hold more than was asked for, the stage never does.
    ///
    /// # Errors
    /// The system's; `UnexpectedEof` if the pipe ends before.
    pub async fn splice_all(&self, pipe: BorrowedFd<'_>, stage: &Stage, mut len: usize) -> io::Result<()> {
        while len > 0 {
            let mut staged = match splice(pipe, None, &stage.writer, None, len, SpliceFlags::NONBLOCK) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            len -= staged.min(len);
            while staged > 0 {
                match splice(&stage.reader, None, &*self.fd, None, staged, SpliceFlags::NONBLOCK) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(count) => staged -= count.min(staged),
                    Err(Errno::AGAIN) => self.changed().await?,
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }
}

/// A private pipe on the way from a process's pipe to a port. One that was left half full is of no further use.
#[derive(Debug)]
pub struct Stage {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Stage {
    /// An empty stage.
    ///
    /// # Errors
    /// The system's.
    pub fn new() -> io::Result<Stage> {
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A smaller one only takes more turns.
        let _smaller = rustix::pipe::fcntl_setpipe_size(&writer, MAX_DATA);
        Ok(Stage { reader, writer })
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// A named pipe tells as little as a port does of somebody who comes and says nothing.
    #[tokio::test]
    async fn a_host_that_comes_and_says_nothing_for_long_is_there_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("port");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let reading =
            open(&path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let (port, _writing) = VirtioPort::split(reading).unwrap();
        let mut buffer = [0; 10];
        assert_eq!(port.read(&mut buffer).await.unwrap(), 0, "nobody is there");
        let host = async {
            tokio::time::sleep(HANG_UP / 4).await;
            let mut host = tokio::net::unix::pipe::OpenOptions::new().open_sender(&path).unwrap();
            tokio::time::sleep(HANG_UP * 2).await;
            host.write_all(b"here").await.unwrap();
            host
        };
        let (count, host) = tokio::join!(port.read(&mut buffer), host);
        assert_eq!(&buffer[..count.unwrap()], b"here");
        drop(host);
        assert_eq!(port.read(&mut buffer).await.unwrap(), 0, "it has gone");
    }
}
