//! Connections to Firecracker's guest and to its API.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::configuration::{API_SOCKET, SENTINEL, VSOCK_SOCKET};
use crate::Endpoint;
use crate::vsock::directory::{Patience, SocketDirectory};
use crate::vsock::guest::port;

/// How long the sentinel may be silent at first until another connection is made; then twice as long, and so on.
const LEAST_PATIENCE: Duration = Duration::from_millis(50);
/// Longest answer to the wish to be connected: `OK`, and a number.
const LONGEST_ANSWER: usize = 32;

/// The sockets that Firecracker makes.
#[derive(Debug)]
pub(super) struct Sockets(SocketDirectory);

impl Sockets {
    pub(super) fn new(directory: SocketDirectory) -> Sockets {
        Sockets(directory)
    }

    /// Connects to the API, as soon as it is there.
    pub(super) async fn api(&self) -> io::Result<UnixStream> {
        self.0.connect(API_SOCKET).await
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
        let mut patience = Patience::new();
        loop {
            let mut stream = self.0.connect(VSOCK_SOCKET).await?;
            match ask(&mut stream, number).await {
                Ok(true) => return Ok(stream),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(error),
                Ok(false) | Err(_) => patience.wait().await,
            }
        }
    }
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
        let sockets = Sockets::new(SocketDirectory::make(&path).unwrap());
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
    async fn an_endless_answer_is_no_answer() {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        there.write_all(&[b'O'; 100]).await.unwrap();
        assert_eq!(ask(&mut here, 1).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
