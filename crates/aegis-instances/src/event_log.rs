//! What happened to instances, as others read it.

use tokio::sync::watch;

use crate::error::InstanceError;
use crate::events::RecordedEvent;
use crate::instances::Instances;

impl Instances {
    /// The oldest `limit` kept events with a number above `after`, oldest first.
    ///
    /// # Errors
    /// If the registry cannot be read.
    pub async fn events(&self, after: u64, limit: u32) -> Result<Vec<RecordedEvent>, InstanceError> {
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        let rows = self.deps().registry.events(after, limit).await?;
        Ok(rows.into_iter().map(RecordedEvent::from).collect())
    }

    /// The number of the newest event, and notice of newer ones.
    #[must_use]
    pub fn newest_event(&self) -> watch::Receiver<i64> {
        self.deps().registry.subscribe()
    }
}
