//! What every handler shares.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use aegis_engine::engine::Engine;
use aegis_vmm::Vmm;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What every handler shares.
#[derive(Debug, Clone)]
pub struct ApiState {
    /// The use cases.
    pub engine: Engine,
    /// What machines run on.
    pub vmm: Arc<dyn Vmm>,
    /// The home directory, for people.
    pub home: Arc<str>,
    /// When the daemon started.
    pub started: Instant,
    /// Where the name router listens, if it does.
    pub names: Option<SocketAddr>,
    /// What users should know of how it has begun.
    pub warnings: Arc<[String]>,
    /// Upgraded connections, which outlive their requests.
    pub streams: TaskTracker,
    /// The daemon's end.
    pub shutdown: Shutdown,
}

/// The daemon's end, once somebody wants it.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    requested: CancellationToken,
    keep_instances: CancellationToken,
}

impl Shutdown {
    /// Asks for it; with or without the instances.
    pub fn request(&self, keep_instances: bool) {
        if keep_instances {
            self.keep_instances.cancel();
        }
        self.requested.cancel();
    }

    /// Cancelled when it is wanted.
    #[must_use]
    pub fn requested(&self) -> &CancellationToken {
        &self.requested
    }

    /// Whether instances go on running.
    #[must_use]
    pub fn keeps_instances(&self) -> bool {
        self.keep_instances.is_cancelled()
    }
}
