//! What an instance may reach, and what its gateway says of that.

use aegis_gateway::Counters;
use aegis_gateway::control::{Reply, Request};
use aegis_machines::network::gateway_client::GatewayClient;
use aegis_spec::network::NetworkChange;

use crate::error::InstanceError;
use crate::handle::InstanceHandle;
use crate::message::Message;

impl InstanceHandle {
    /// Changes what it may reach: stored on return, and in force if there is a machine.
    ///
    /// # Errors
    /// If that is out of range or cannot be stored. Nothing is changed then.
    pub async fn change_network(&self, change: NetworkChange) -> Result<(), InstanceError> {
        self.ask(|reply| Message::Network(change, reply)).await
    }

    /// Whether frames of its machine have somewhere to go; `None` without a machine, or with one that has no card.
    #[must_use]
    pub fn network_is_up(&self) -> Option<bool> {
        Some(self.run()?.gateway()?.is_up())
    }

    /// What its gateway has counted since its machine was booted, or the gateway replaced; `None` without one.
    pub async fn network_counters(&self) -> Option<Counters> {
        match self.run()?.gateway()?.ask(&Request::Counters).await {
            Ok(Reply::Counters(counters)) => Some(*counters),
            _ => None,
        }
    }

    /// The decisions of its gateway, those that are kept, and with `follow` all that are made from then on; `None` without
    /// one.
    pub async fn follow_network(&self, follow: bool) -> Option<GatewayClient> {
        self.run()?.gateway()?.entries(follow).await.ok()
    }
}
