//! The pool of HTTP connections to guests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::body::Body;
use crate::backend::{Refusal, Stream, Target, Upstream};

/// How long an idle connection is kept.
const KEPT: Duration = Duration::from_secs(30);
/// Most idle connections of one target.
const MOST_IDLE: usize = 64;

/// One request at a time.
pub(super) type Http1Sender = http1::SendRequest<Body>;
/// Many at a time.
pub(super) type Http2Sender = http2::SendRequest<Body>;

#[derive(Debug, Default)]
struct IdleConnections {
    idle: HashMap<Target, Vec<(Instant, Http1Sender)>>,
    shared: HashMap<Target, Http2Sender>,
}

/// The connections. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    kept: Arc<Mutex<IdleConnections>>,
    tasks: TaskTracker,
    ending: CancellationToken,
}

fn broken(error: &hyper::Error) -> Refusal {
    Refusal::Failed(format!("the server in the instance does not speak HTTP: {error}"))
}

impl Pool {
    pub(super) fn new(tasks: TaskTracker, ending: CancellationToken) -> Pool {
        Pool { kept: Arc::default(), tasks, ending }
    }

    fn lock(&self) -> MutexGuard<'_, IdleConnections> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that is ready for a request, if one was kept.
    pub(super) fn take(&self, target: &Target) -> Option<Http1Sender> {
        let mut kept = self.lock();
        let idle = kept.idle.get_mut(target)?;
        while let Some((since, connection)) = idle.pop() {
            if connection.is_ready() && since.elapsed() < KEPT {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection for the next request. Those that nobody wanted for a while are dropped.
    pub(super) fn put(&self, target: &Target, connection: Http1Sender) {
        let mut kept = self.lock();
        kept.idle.retain(|_, idle| {
            idle.retain(|(since, one)| !one.is_closed() && since.elapsed() < KEPT);
            !idle.is_empty()
        });
        let idle = kept.idle.entry(target.clone()).or_default();
        if idle.len() < MOST_IDLE {
            idle.push((Instant::now(), connection));
        }
    }

    fn drive<E>(&self, connection: impl Future<Output = Result<(), E>> + Send + 'static) {
        let ending = self.ending.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                // Whoever waits for a reply is told by that.
                _over = connection => {}
                () = ending.cancelled() => {}
            }
        });
    }

    /// A new connection for one request at a time.
    pub(super) async fn open(&self, stream: Stream) -> Result<Http1Sender, Refusal> {
        let opened = http1::Builder::new().preserve_header_case(true).handshake(TokioIo::new(stream)).await;
        let (one, connection) = opened.map_err(|error| broken(&error))?;
        self.drive(connection.with_upgrades());
        Ok(one)
    }

    /// The connection for all HTTP/2 requests.
    pub(super) async fn many(
        &self,
        target: &Target,
        upstream: &dyn Upstream,
    ) -> Result<Http2Sender, Refusal> {
        let shared = self.lock().shared.get(target).cloned().filter(|many| !many.is_closed());
        if let Some(many) = shared {
            return Ok(many);
        }
        let stream = upstream.connect().await?;
        let opened = http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream)).await;
        let (many, connection) = opened.map_err(|error| broken(&error))?;
        self.drive(connection);
        let mut kept = self.lock();
        kept.shared.retain(|_, many| !many.is_closed());
        kept.shared.insert(target.clone(), many.clone());
        Ok(many)
    }
}
