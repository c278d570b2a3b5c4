//! Callers who may go away before what they asked for has begun.

use tokio_util::sync::{CancellationToken, DropGuard};

use crate::error::InstanceError;

/// Whether somebody still waits for what he asked for. What has not begun when he goes does not begin.
#[derive(Debug, Clone, Default)]
pub(crate) struct Caller(CancellationToken);

impl Caller {
    /// Held by whoever waits.
    pub(crate) fn gone_when_dropped(&self) -> DropGuard {
        self.0.clone().drop_guard()
    }

    /// Does something, unless he goes before it is done.
    ///
    /// # Errors
    /// If he does.
    pub(crate) async fn unless_gone<T>(&self, work: impl Future<Output = T>) -> Result<T, InstanceError> {
        tokio::select! {
            biased;
            () = self.0.cancelled() => Err(gone()),
            done = work => Ok(done),
        }
    }

    /// Whether he is still there.
    ///
    /// # Errors
    /// If he is not.
    pub(crate) fn check(&self) -> Result<(), InstanceError> {
        if self.0.is_cancelled() { Err(gone()) } else { Ok(()) }
    }
}

fn gone() -> InstanceError {
    InstanceError::NotCopied("whoever asked for it has gone".to_owned())
}
