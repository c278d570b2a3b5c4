//! The ports of this host that lead to guests.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backend::{Backends, Target};
use crate::{port_allocator, port_connection, port_owner};

/// Connections that may wait to be accepted, per port.
const BACKLOG: u32 = 4096;
/// How often a lack of descriptors is told at most.
const COMPLAINT: Duration = Duration::from_secs(1);
/// How long to rest when connections can be neither accepted nor refused.
const REST: Duration = Duration::from_millis(50);

/// Why a port could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Somebody has it.
    #[error("port {0} is taken by {1}")]
    Taken(SocketAddr, String),
    /// The system refuses.
    #[error("port {0} cannot be opened: {1}")]
    System(SocketAddr, io::Error),
}

#[derive(Debug)]
struct Open {
    name: Arc<str>,
    guest_port: u16,
    closing: CancellationToken,
}

/// All open ports. Clones share them.
#[derive(Debug, Clone)]
pub struct Listeners {
    backends: Arc<dyn Backends>,
    open: Arc<Mutex<HashMap<SocketAddr, Open>>>,
    connections: TaskTracker,
    ending: CancellationToken,
    spare: Arc<SpareDescriptor>,
}

impl Listeners {
    /// No ports; what will be opened leads to these backends.
    #[must_use]
    pub fn new(backends: Arc<dyn Backends>) -> Listeners {
        Listeners {
            backends,
            open: Arc::default(),
            connections: TaskTracker::new(),
            ending: CancellationToken::new(),
            spare: Arc::default(),
        }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<SocketAddr, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a port, 0 for any, and serves it until it is closed. Returns its number. Must be called within a runtime.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(&self, address: IpAddr, port: u16, target: Target) -> Result<u16, OpenError> {
        let wanted = SocketAddr::new(address, port);
        let listener = if port == 0 { listen_anywhere(address) } else { listen(wanted) };
        let listener = listener.map_err(|error| self.explain(wanted, error))?;
        let bound = listener.local_addr().map_err(|error| OpenError::System(wanted, error))?;
        let closing = self.ending.child_token();
        let open =
            Open { name: Arc::clone(&target.name), guest_port: target.guest_port, closing: closing.clone() };
        self.table().insert(bound, open);
        let this = self.clone();
        self.connections.spawn(async move { this.accept(listener, &target, &closing).await });
        Ok(bound.port())
    }

    /// Closes a port. Connections go on.
    pub fn close(&self, address: IpAddr, port: u16) {
        if let Some(open) = self.table().remove(&SocketAddr::new(address, port)) {
            open.closing.cancel();
        }
    }

    /// Closes all ports and ends all connections. Returns when nothing is left.
    pub async fn shut_down(&self) {
        self.table().clear();
        self.ending.cancel();
        self.connections.close();
        self.connections.wait().await;
    }

    fn explain(&self, wanted: SocketAddr, error: io::Error) -> OpenError {
        if error.kind() != io::ErrorKind::AddrInUse {
            return OpenError::System(wanted, error);
        }
        let overlaps = |held: &SocketAddr| {
            let any = held.ip().is_unspecified() || wanted.ip().is_unspecified();
            held.port() == wanted.port() && (held.ip() == wanted.ip() || any)
        };
        let ours = self
            .table()
            .iter()
            .find(|(held, _)| overlaps(held))
            .map(|(_, open)| format!("port {} of the instance {:?}", open.guest_port, open.name));
        let theirs = || port_owner::process(wanted.port());
        OpenError::Taken(wanted, ours.or_else(theirs).unwrap_or_else(|| "another program".to_owned()))
    }

    async fn accept(&self, listener: TcpListener, target: &Target, closing: &CancellationToken) {
        loop {
            let accepted = tokio::select! {
                () = closing.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((client, _)) => self.begin(client, target),
                Err(error) if is_exhaustion(&error) => {
                    self.spare.refuse(&listener, target);
                    tokio::select! {
                        () = closing.cancelled() => return,
                        // Nothing tells when a descriptor is free again, and the connection may not have been refused.
                        () = tokio::time::sleep(REST) => {}
                    }
                }
                // The connection was gone before it was accepted.
                Err(_) => {}
            }
        }
    }

    fn begin(&self, client: TcpStream, target: &Target) {
        let (backends, target, ending) = (Arc::clone(&self.backends), target.clone(), self.ending.clone());
        self.connections.spawn(async move {
            tokio::select! {
                () = port_connection::serve(&*backends, &target, client) => {}
                () = ending.cancelled() => {}
            }
        });
    }
}

pub(crate) fn listen(wanted: SocketAddr) -> io::Result<TcpListener> {
    let socket = if wanted.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Connections of a daemon that has just ended do not block its ports.
    socket.set_reuseaddr(true)?;
    socket.bind(wanted)?;
    socket.listen(BACKLOG)
}

fn listen_anywhere(address: IpAddr) -> io::Result<TcpListener> {
    let in_use = || io::Error::from(io::ErrorKind::AddrInUse);
    let is_taken = |tried: &io::Result<TcpListener>| {
        tried.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
    };
    let mut tries = port_allocator::candidates().map(|port| listen(SocketAddr::new(address, port)));
    tries.find(|tried| !is_taken(tried)).unwrap_or_else(|| Err(in_use()))
}

fn is_exhaustion(error: &io::Error) -> bool {
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// A descriptor in reserve, given up for a moment to tell somebody that there are none.
#[derive(Debug)]
struct SpareDescriptor {
    held: Mutex<(Option<OwnedFd>, Option<Instant>)>,
}

impl Default for SpareDescriptor {
    fn default() -> SpareDescriptor {
        SpareDescriptor { held: Mutex::new((reserve(), None)) }
    }
}

fn reserve() -> Option<OwnedFd> {
    std::fs::File::open("/dev/null").ok().map(Into::into)
}

impl SpareDescriptor {
    /// Accepts one connection and closes it at once, so that its client does not wait in vain.
    fn refuse(&self, listener: &TcpListener, target: &Target) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.0 = None;
        let refused = rustix::net::accept(listener).is_ok();
        held.0 = reserve();
        if held.1.is_none_or(|last| last.elapsed() >= COMPLAINT) {
            held.1 = Some(Instant::now());
            tracing::warn!(instance = %target.name, refused, "out of file descriptors: connections are refused");
        }
    }
}
