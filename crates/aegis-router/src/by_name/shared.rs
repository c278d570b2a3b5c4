//! State that all connections of the router share.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admission::Admission;
use super::connection_limits::ConnectionLimits;
use super::pool::Pool;
use crate::backend::Backends;

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) backends: Arc<dyn Backends>,
    pub(super) admission: Admission,
    pub(super) places: ConnectionLimits,
    pub(super) pool: Pool,
    pub(super) tasks: TaskTracker,
    pub(super) ending: CancellationToken,
}
