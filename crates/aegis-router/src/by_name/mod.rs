//! The name router: one HTTP port for all instances, told apart by host or header.

mod body;
mod pool;
mod proxy;
mod request;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backend::Backends;
use pool::Pool;

/// Most connections at a time.
const MOST_CONNECTIONS: usize = 4096;
/// How long a client may take for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Most bytes of a request's head.
const LONGEST_HEAD: u16 = 64_000;
/// How long to rest when no connection can be accepted.
const REST: Duration = Duration::from_millis(50);

#[derive(Debug)]
struct Shared {
    backends: Arc<dyn Backends>,
    pool: Pool,
    tasks: TaskTracker,
    ending: CancellationToken,
}

/// The name router. Clones share it.
#[derive(Debug, Clone)]
pub struct Names {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl Names {
    /// Opens the port, and serves it until it is shut down. Must be called within a runtime.
    ///
    /// # Errors
    /// The system's, if the port is taken or cannot be opened.
    pub fn open(address: SocketAddr, backends: Arc<dyn Backends>) -> io::Result<Names> {
        let listener = crate::listeners::listen(address)?;
        let (tasks, ending) = (TaskTracker::new(), CancellationToken::new());
        let pool = Pool::new(tasks.clone(), ending.clone());
        let address = listener.local_addr()?;
        let names = Names { shared: Arc::new(Shared { backends, pool, tasks, ending }), address };
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
        let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        loop {
            let next = async {
                // Never closed.
                let permit = Arc::clone(&room).acquire_owned().await.ok();
                (permit, listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                () = self.shared.ending.cancelled() => return,
                next = next => next,
            };
            match accepted {
                Ok((client, from)) => {
                    self.shared.tasks.spawn(self.clone().serve(client, from, permit));
                }
                Err(error) => {
                    tracing::debug!(%error, "no connection accepted");
                    // For want of descriptors; nothing tells when there are some again.
                    tokio::time::sleep(REST).await;
                }
            }
        }
    }

    async fn serve(self, client: TcpStream, from: SocketAddr, _permit: Option<OwnedSemaphorePermit>) {
        // An old kernel delays small writes; nothing else suffers.
        let _delays = client.set_nodelay(true);
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(LONGEST_HEAD.into())
            .preserve_header_case(true);
        builder.http2().timer(TokioTimer::new()).max_header_list_size(LONGEST_HEAD.into());
        let names = self.clone();
        let service = service_fn(move |request| {
            let names = names.clone();
            async move { Ok::<_, std::convert::Infallible>(proxy::answer(&names, from.ip(), request).await) }
        });
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(client), service);
        tokio::select! {
            // A client that broke off is nobody to tell.
            _over = connection => {}
            () = self.shared.ending.cancelled() => {}
        }
    }
}
