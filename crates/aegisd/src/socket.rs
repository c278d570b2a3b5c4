//! The API's unix socket: private, at any depth of path, and closed to the daemon's own helpers.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use aegis_api::error::{ApiError, ErrorBody, ErrorCode};
use axum::serve::Listener;
use rustix::fs::{Mode, OFlags};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Listens on `path`, mode 0600. A socket that is there is a dead daemon's: the caller holds the lock.
///
/// # Errors
/// The system's.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    // Socket addresses end at 107 bytes, paths do not: reach the directory by its descriptor.
    let dir = rustix::fs::open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let short = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    let listener = UnixListener::bind(short)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Programs that handle hostile input beside the daemon: monitors, gateways and file servers. None of them can execute
/// another program, so a process that one of them is has been one from its start.
const HELPERS: [&str; 3] = ["aegis-gateway", "aegis-krun-worker", "aegisd"];
/// What names of monitors have in them; a distribution may wrap them.
const MONITORS: [&str; 2] = ["qemu-system-", "firecracker"];
/// What the kernel puts behind the name of a program that was replaced.
const REPLACED: &str = " (deleted)";
/// How long a caller that is refused may take to take the answer.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Whether a process with this program (`/proc/PID/exe`) is one of the daemon's helpers, and so under the control of a
/// guest if it calls.
fn is_helper(program: &Path) -> bool {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_suffix(REPLACED).unwrap_or(&name);
    HELPERS.contains(&name) || MONITORS.iter().any(|monitor| name.contains(monitor))
}

/// Most connections at a time, of which some 20 KB each are held.
const MOST_CONNECTIONS: usize = 4096;

/// The API's socket, which does not serve the daemon's own helpers, nor more connections than it can hold.
#[derive(Debug)]
pub(crate) struct ApiListener {
    socket: UnixListener,
    places: Arc<Semaphore>,
}

impl ApiListener {
    pub(crate) fn new(socket: UnixListener) -> ApiListener {
        ApiListener { socket, places: Arc::new(Semaphore::new(MOST_CONNECTIONS)) }
    }

    /// Whether a caller is one of the daemon's helpers, or may have been one.
    fn refuses(caller: &UnixStream) -> Option<i32> {
        let credentials = caller.peer_cred().ok()?;
        // One outside of what this process sees is nobody whom it has started.
        let pid = credentials.pid().filter(|pid| *pid > 0)?;
        match std::fs::read_link(format!("/proc/{pid}/exe")) {
            Ok(program) => is_helper(&program).then_some(pid),
            // Of a process of another user that this one may not look at, root alone can have connected.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && credentials.uid() == 0 => None,
            // It has ended, and whatever it was, nobody waits for an answer.
            Err(_) => Some(pid),
        }
    }
}

impl Listener for ApiListener {
    type Io = ApiConnection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (ApiConnection, SocketAddr) {
        loop {
            let (stream, address) = Listener::accept(&mut self.socket).await;
            if let Some(pid) = ApiListener::refuses(&stream) {
                tracing::warn!(
                    pid,
                    "a helper of the daemon, or nobody any more, called the API, and was refused: a guest may have taken it over"
                );
                let text = "helpers of the daemon have no use for the API";
                refuse(stream, ApiError::new(ErrorCode::CallerRefused, text)).await;
                continue;
            }
            match Arc::clone(&self.places).try_acquire_owned() {
                Ok(place) => return (ApiConnection { stream, _place: place }, address),
                Err(_) => refuse(stream, too_many()).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

fn too_many() -> ApiError {
    let text = format!("the API has {MOST_CONNECTIONS} connections open, and takes no more");
    ApiError::new(ErrorCode::TooManyConnections, text)
        .hint("end clients that hold connections and do not use them")
}

/// Says no. The answer fits what the kernel buffers, so that nobody is waited for.
async fn refuse(mut stream: UnixStream, error: ApiError) {
    let status = error.code.status();
    let body = serde_json::to_string(&ErrorBody { error }).unwrap_or_default();
    let reply = format!(
        "HTTP/1.1 {status} Refused\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    // It is as good to be gone.
    let _gone = tokio::time::timeout(TIMEOUT, stream.write_all(reply.as_bytes())).await;
}

/// A connection, which holds its place to its end.
#[derive(Debug)]
pub(crate) struct ApiConnection {
    stream: UnixStream,
    _place: OwnedSemaphorePermit,
}

impl AsyncRead for ApiConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for ApiConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn helpers_are_known_by_their_programs_also_after_an_upgrade() {
        for helper in [
            "/usr/bin/qemu-system-z80",
            "/usr/bin/qemu-system-z80 (deleted)",
            "/opt/aegis/bin/aegis-gateway",
            "/opt/aegis/bin/aegisd (deleted)",
        ] {
            assert!(is_helper(Path::new(helper)), "{helper}");
        }
        for client in
            ["/usr/bin/curl", "/opt/aegis/bin/aegis", "/usr/bin/python3.11", "/home/u/aegisd-client", "/"]
        {
            assert!(!is_helper(Path::new(client)), "{client}");
        }
    }
}
