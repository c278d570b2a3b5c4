//! The sockets that a monitor makes, in a directory of their own.
//!
//! Whoever has taken it over may put there what he likes, so nothing of that name but a socket is connected to, and no link is
//! followed.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags};
use tokio::net::UnixStream;

/// How long to wait before looking again whether a socket is there and listened on, at first and at most. The kernel tells of
/// neither: the one is two steps of the monitor's, the other is the guest's doing.
const LOOK: Duration = Duration::from_millis(1);
const LOOK_AT_MOST: Duration = Duration::from_millis(20);

/// Looks again and again, less and less often.
#[derive(Debug)]
pub(crate) struct Patience(Duration);

impl Patience {
    pub(crate) fn new() -> Patience {
        Patience(LOOK)
    }

    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(LOOK_AT_MOST);
    }
}

/// The directory.
#[derive(Debug)]
pub(crate) struct SocketDirectory(OwnedFd);

impl SocketDirectory {
    /// An empty one at this path, whatever was there before.
    pub(crate) fn make(path: &Path) -> io::Result<SocketDirectory> {
        match std::fs::remove_dir_all(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::DirBuilder::new().mode(0o700).create(path)?;
        SocketDirectory::open(path)
    }

    /// The one that is at this path.
    pub(crate) fn open(path: &Path) -> io::Result<SocketDirectory> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(SocketDirectory(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// A descriptor for the monitor.
    pub(crate) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }

    async fn connect_now(&self, name: &str) -> io::Result<UnixStream> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let socket = rustix::fs::openat(&self.0, name, flags, Mode::empty())?;
        if FileType::from_raw_mode(rustix::fs::fstat(&socket)?.st_mode) != FileType::Socket {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{name} is no socket")));
        }
        UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await
    }

    /// Connects to a socket, as soon as it is there.
    pub(crate) async fn connect(&self, name: &str) -> io::Result<UnixStream> {
        let mut patience = Patience::new();
        loop {
            match self.connect_now(name).await {
                Err(error) if is_early(&error) => patience.wait().await,
                other => return other,
            }
        }
    }
}

/// Whether a socket that is not there, or has nobody behind it, may still come to have.
fn is_early(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn nothing_but_a_socket_is_connected_to_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = dir.path().join("elsewhere");
        let _listener = UnixListener::bind(&elsewhere).unwrap();
        let sockets = SocketDirectory::make(&dir.path().join("sockets")).unwrap();
        std::os::unix::fs::symlink(&elsewhere, dir.path().join("sockets/link")).unwrap();
        std::fs::write(dir.path().join("sockets/file"), "").unwrap();
        for name in ["link", "file"] {
            let error = sockets.connect(name).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{name}");
        }
    }
}
