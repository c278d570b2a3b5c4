//! The lock on an instance's disk: one machine, or one copy, uses it at a time.

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;

/// Held by whoever uses an instance's disk.
pub type DiskGuard = OwnedMutexGuard<()>;

/// Who uses an instance's disk. Clones are the same lock.
#[derive(Debug, Clone, Default)]
pub struct DiskLock {
    lock: Arc<Mutex<()>>,
    removed: CancellationToken,
}

impl DiskLock {
    /// Uses the disk, as soon as nobody else does.
    pub async fn acquire(&self) -> DiskGuard {
        Arc::clone(&self.lock).lock_owned().await
    }

    /// Uses the disk, if nobody else does.
    #[must_use]
    pub fn try_acquire(&self) -> Option<DiskGuard> {
        Arc::clone(&self.lock).try_lock_owned().ok()
    }

    /// Ends all use for good: the disk is about to be removed.
    pub async fn retire(&self) {
        self.removed.cancel();
        drop(self.lock.lock().await);
    }

    /// Cancelled when the disk is about to be removed.
    #[must_use]
    pub fn removed(&self) -> &CancellationToken {
        &self.removed
    }
}
