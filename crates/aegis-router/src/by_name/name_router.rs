//! The port of the name router, and its connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::io::{InspectReader, InspectWriter};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admission::{Admission, Peer};
use super::body::Held;
use super::connection_limits::{self, ConnectionLimits, ConnectionPermit};
use super::pool::Pool;
use super::proxy;
use super::shared::Shared;
use crate::backend::Backends;

/// Most bytes of a request's head.
const LONGEST_HEAD: u16 = 64_000;
/// Most requests of an HTTP/2 connection at a time.
const MOST_STREAMS: u32 = 128;
/// Most of them that a client gave up before they were looked at, and that broke the rules, before it is told to go.
const MOST_RESETS: usize = 20;
const MOST_ERRORS: usize = 128;
/// How long a connection may take to end that was told to.
const GRACE: Duration = Duration::from_secs(5);
/// How long to rest when no connection can be accepted.
const REST: Duration = Duration::from_millis(50);

/// The name router. Clones share it.
#[derive(Debug, Clone)]
pub struct NameRouter {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl NameRouter {
    /// Opens the port, and serves whoever names this machine until it is shut down. Must be called within a runtime.
    ///
    /// # Errors
    /// The system's, if the port is taken or cannot be opened.
    pub fn open(address: SocketAddr, backends: Arc<dyn Backends>) -> io::Result<NameRouter> {
        NameRouter::open_to(address, backends, Admission::default())
    }

    /// The same, for those who are let in.
    ///
    /// # Errors
    /// As [`NameRouter::open`].
    pub fn open_to(
        address: SocketAddr,
        backends: Arc<dyn Backends>,
        admission: Admission,
    ) -> io::Result<NameRouter> {
        let listener = crate::listeners::listen(address)?;
        let (tasks, ending) = (TaskTracker::new(), CancellationToken::new());
        let pool = Pool::new(tasks.clone(), ending.clone());
        let address = listener.local_addr()?;
        let shared = Shared { backends, admission, places: ConnectionLimits::default(), pool, tasks, ending };
        let names = NameRouter { shared: Arc::new(shared), address };
        names.shared.tasks.spawn(names.clone().accept(listener));
        Ok(names)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the port and ends all connections. Returns when nothing is left.
    pub async fn shut_down(&self) {
        self.shared.ending.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    async fn accept(self, listener: TcpListener) {
        loop {
            let next = async {
                self.shared.places.room().await;
                listener.accept().await
            };
            let accepted = tokio::select! {
                () = self.shared.ending.cancelled() => return,
                accepted = next => accepted,
            };
            match accepted {
                // Whoever has too many already is told by the end of it.
                Ok((client, from)) => {
                    if let Some(place) = self.shared.places.take(from.ip()) {
                        self.shared.tasks.spawn(self.clone().serve(client, from, Arc::new(place)));
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "no connection accepted");
                    // For want of descriptors; nothing tells when there are some again.
                    tokio::time::sleep(REST).await;
                }
            }
        }
    }

    async fn serve(self, client: TcpStream, from: SocketAddr, place: Arc<ConnectionPermit>) {
        // An old kernel delays small writes; nothing else suffers.
        let _delays = client.set_nodelay(true);
        let local = client.local_addr().unwrap_or(self.address);
        let peer = Peer { client: from.ip(), local };
        let builder = builder();
        let (names, requests) = (self.clone(), Arc::clone(&place));
        let service = service_fn(move |request| {
            let (names, busy) = (names.clone(), requests.busy());
            async move {
                let response = proxy::answer(&names.shared, peer, request).await;
                Ok::<_, std::convert::Infallible>(response.map(|body| Held::new(body, busy)))
            }
        });
        let (read, written) = (place.moved(), place.moved());
        let client = InspectWriter::new(client, move |_: &[u8]| written.note());
        let client = InspectReader::new(client, move |_: &[u8]| read.note());
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(client), service);
        tokio::pin!(connection);
        tokio::select! {
            // A client that broke off is nobody to tell.
            _over = connection.as_mut() => return,
            () = self.shared.ending.cancelled() => return,
            () = place.evicted() => return,
            () = place.lapsed() => {}
        }
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            _over = connection => {}
            () = self.shared.ending.cancelled() => {}
            () = place.evicted() => {}
            () = tokio::time::sleep(GRACE) => {}
        }
    }
}

/// Both protocols, with every limit set: what a client sends before its request is looked at is its own affair, and small.
fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(connection_limits::HEAD_TIMEOUT)
        .max_buf_size(LONGEST_HEAD.into())
        // Whoever has said all may still listen.
        .half_close(true)
        .preserve_header_case(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MOST_STREAMS)
        .max_pending_accept_reset_streams(MOST_RESETS)
        .max_local_error_reset_streams(MOST_ERRORS)
        .max_header_list_size(LONGEST_HEAD.into());
    builder
}
