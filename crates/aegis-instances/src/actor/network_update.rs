//! Changing what an instance may reach.

use std::sync::Arc;

use aegis_lifecycle::event::Boot;
use aegis_machines::network::interface;
use aegis_spec::instance::InstanceSpec;
use aegis_spec::network::{Membership, NetworkChange};

use super::Actor;
use crate::error::InstanceError;
use crate::events::{Detail, event};
use crate::spec_update::Revision;

impl Actor {
    /// Stores that something happened to the network.
    pub(super) async fn network_event(&mut self, boot: Boot, kind: &str, note: Option<String>) {
        if boot != self.record.life.boot() {
            return;
        }
        let detail = Detail { note, ..Detail::of(&self.record) };
        let event = event(&self.record.id, kind, &detail);
        if let Err(error) = self.deps.registry.update(self.row(), Some(event)).await {
            tracing::error!(id = self.record.id, %error, kind, "an event was not stored");
        }
    }

    /// Changes the network: stored first, and then in force at once if there is a machine.
    pub(super) async fn change_network(&mut self, change: NetworkChange) -> Result<(), InstanceError> {
        let before = self.record.spec.network.groups.clone();
        let joined = match &change {
            NetworkChange::Join(group) => {
                let name = self.record.handle.as_deref().unwrap_or(&self.record.id);
                Some(self.deps.groups.join(group, &self.record.id, name)?)
            }
            _ => None,
        };
        let stored = self.store_network(change, joined).await;
        // What is stored is what there is, whether it was changed or not.
        let after = &self.record.spec.network.groups;
        for group in self.deps.groups.directory().of_instance(&self.record.id) {
            if !after.iter().any(|place| place.group == group) {
                self.deps.groups.leave(&group, &self.record.id);
            }
        }
        stored?;
        let run = self.run.borrow().clone();
        if let Some(run) = run {
            if before != *after {
                run.set_addresses(interface::group_addresses(&self.record.spec.network)).await;
            }
            if let Some(gateway) = run.gateway() {
                gateway.set(self.record.spec.network.clone()).await;
            }
        }
        Ok(())
    }

    /// Changes the specification, unless the instance is one that keeps it.
    pub(super) async fn revise(&mut self, revision: &Revision) -> Result<(), InstanceError> {
        match revision.apply(&self.record.spec, self.record.life.state())? {
            Some(spec) => self.store_spec(spec, revision.kind()).await,
            None => Ok(()),
        }
    }

    /// Stores another specification, with an event of this kind. If that fails, it stays as it was.
    async fn store_spec(&mut self, spec: InstanceSpec, kind: &'static str) -> Result<(), InstanceError> {
        let before = std::mem::replace(&mut self.record.spec, Arc::new(spec));
        let stored = self.deps.registry.update(self.row(), Some(self.event(kind))).await;
        if let Err(error) = stored {
            self.record.spec = before;
            return Err(error.into());
        }
        self.publish();
        Ok(())
    }

    async fn store_network(
        &mut self,
        change: NetworkChange,
        joined: Option<Membership>,
    ) -> Result<(), InstanceError> {
        let mut spec = (*self.record.spec).clone();
        spec.network = spec.network.changed(change, joined)?;
        self.store_spec(spec, "network").await
    }
}
