//! Changing what an instance may reach.

use std::sync::Arc;

use super::Actor;
use crate::error::InstanceError;
use crate::network::NetworkChange;

impl Actor {
    /// Changes the network: stored first, and then in force at once if there is a machine.
    pub(super) async fn change_network(&mut self, change: NetworkChange) -> Result<(), InstanceError> {
        let mut spec = (*self.record.spec).clone();
        spec.network = spec.network.changed(change)?;
        let before = std::mem::replace(&mut self.record.spec, Arc::new(spec));
        let stored = self.context.registry.update(self.row(), Some(self.event("network"))).await;
        if let Err(error) = stored {
            self.record.spec = before;
            return Err(error.into());
        }
        self.publish();
        let network = self.live.borrow().as_ref().and_then(|live| live.network());
        if let Some(network) = network {
            network.set(self.record.spec.network.clone()).await;
        }
        Ok(())
    }
}
