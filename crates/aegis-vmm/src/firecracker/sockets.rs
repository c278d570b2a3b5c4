//! The sockets that Firecracker makes, in a directory of their own.
//!
//! Whoever has taken it over may put there what he likes, so nothing of that name but a socket is connected to, and no link is
//! followed.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::configuration::{SENTINEL, VSOCK_SOCKET, port};
use crate::Endpoint;

/// How long to wait before looking again whether a socket is there and listened on, at first and at most. The kernel tells of
/// neither: the one is two steps of Firecracker's, the other is the guest's doing.
const LOOK: Duration = Duration::from_millis(1);
const LOOK_AT_MOST: Duration = Duration::from_millis(20);
/// How long the sentinel may be silent at first until another connection is made; then twice as long, and so on.
const LEAST_PATIENCE: Duration = Duration::from_millis(50);
/// Longest answer to the wish to be connected: `OK`, and a number.
const LONGEST_ANSWER: usize = 32;

/// The directory.
#[derive(Debug)]
pub(super) struct Sockets(OwnedFd);

impl Sockets {
    /// An empty one at this path, whatever was there before.
    pub(super) fn make(path: &Path) -> io::Result<Sockets> {
        match std::fs::remove_dir_all(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::DirBuilder::new().mode(0o700).create(path)?;
        Sockets::open(path)
    }

    /// The one that is at this path.
    pub(super) fn open(path: &Path) -> io::Result<Sockets> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Sockets(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// A descriptor for Firecracker.
    pub(super) fn descriptor(&self) -> io::Result<OwnedFd> {
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
    pub(super) async fn connect(&self, name: &str) -> io::Result<UnixStream> {
        let mut look = LOOK;
        loop {
            match self.connect_now(name).await {
                Err(error) if is_early(&error) => tokio::time::sleep(look).await,
                other => return other,
            }
            look = (look * 2).min(LOOK_AT_MOST);
        }
    }

    /// Connects to an endpoint of the guest, as soon as it listens there.
    pub(super) async fn dial(&self, endpoint: Endpoint) -> io::Result<UnixStream> {
        self.dial_port(port(endpoint)).await
    }

    /// Connects to the guest's sentinel, when that has lost whoever was connected to it before.
    ///
    /// A guest whose machine was saved closes all its connections when it goes on, also those that were made since: only
    /// afterwards does it take another one here.
    pub(super) async fn meet_sentinel(&self) -> io::Result<UnixStream> {
        let mut patience = LEAST_PATIENCE;
        loop {
            // A guest closes without a word what it closes for this reason, so that silence is all there is to hear of it.
            let met = async {
                let mut stream = self.dial_port(SENTINEL).await?;
                let heard = stream.read(&mut [0]).await?;
                Ok::<_, io::Error>((heard == 1).then_some(stream))
            };
            match tokio::time::timeout(patience, met).await {
                Ok(Ok(Some(stream))) => return Ok(stream),
                Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => return Err(error),
                Ok(_) | Err(_) => patience = patience.saturating_mul(2),
            }
        }
    }

    async fn dial_port(&self, number: u32) -> io::Result<UnixStream> {
        let mut look = LOOK;
        loop {
            let mut stream = self.connect(VSOCK_SOCKET).await?;
            match ask(&mut stream, number).await {
                Ok(true) => return Ok(stream),
                Ok(false) => tokio::time::sleep(look).await,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(error),
                Err(_) => tokio::time::sleep(look).await,
            }
            look = (look * 2).min(LOOK_AT_MOST);
        }
    }
}

/// Whether a socket that is not there, or has nobody behind it, may still come to have.
fn is_early(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// Asks to be connected to a port of the guest. Returns whether somebody listens there; Firecracker hangs up if not. See
/// `docs/vsock.md` of Firecracker.
async fn ask(stream: &mut UnixStream, port: u32) -> io::Result<bool> {
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
    let mut answer = Vec::with_capacity(LONGEST_ANSWER);
    // What follows the line is the guest's.
    while answer.last() != Some(&b'\n') {
        let mut byte = [0];
        if answer.len() == LONGEST_ANSWER {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no answer to the wish to be connected"));
        }
        match stream.read(&mut byte).await? {
            0 => return Ok(false),
            _ => answer.extend(byte),
        }
    }
    if answer.starts_with(b"OK ") { Ok(true) } else { Err(io::ErrorKind::InvalidData.into()) }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn a_guest_that_does_not_listen_yet_is_asked_again_and_what_it_says_first_is_not_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sockets");
        let sockets = Sockets::make(&path).unwrap();
        let monitor = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let listener = UnixListener::bind(path.join(VSOCK_SOCKET)).unwrap();
            for listens in [false, true] {
                let (mut host, _) = listener.accept().await.unwrap();
                let mut asked = [0; 10];
                host.read_exact(&mut asked).await.unwrap();
                assert_eq!(&asked, b"CONNECT 2\n");
                if listens {
                    host.write_all(b"OK 1073741824\nhello").await.unwrap();
                }
            }
        };
        let (stream, ()) = tokio::join!(sockets.dial(Endpoint::Bulk), monitor);
        let mut said = String::new();
        stream.unwrap().read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "hello");
    }

    #[tokio::test]
    async fn nothing_but_a_socket_is_connected_to_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = dir.path().join("elsewhere");
        let _listener = UnixListener::bind(&elsewhere).unwrap();
        let sockets = Sockets::make(&dir.path().join("sockets")).unwrap();
        std::os::unix::fs::symlink(&elsewhere, dir.path().join("sockets/link")).unwrap();
        std::fs::write(dir.path().join("sockets/file"), "").unwrap();
        for name in ["link", "file"] {
            let error = sockets.connect(name).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{name}");
        }
    }

    #[tokio::test]
    async fn an_endless_answer_is_no_answer() {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        there.write_all(&[b'O'; 100]).await.unwrap();
        assert_eq!(ask(&mut here, 1).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
