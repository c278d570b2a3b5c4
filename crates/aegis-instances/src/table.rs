//! The instances that there are, by id and by handle.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::{mpsc, watch};

use crate::error::InstanceError;
use crate::handle::InstanceHandle;
use crate::message::{InstanceRef, Message};
use crate::view::View;

#[derive(Debug, Default)]
struct Entries {
    by_id: BTreeMap<String, InstanceRef>,
    by_handle: HashMap<String, String>,
}

/// All instances of a daemon.
#[derive(Debug, Default)]
pub(crate) struct InstanceTable {
    entries: RwLock<Entries>,
    /// Told after each change of which instances there are, and which of them are enabled.
    enabled: watch::Sender<()>,
}

impl InstanceTable {
    /// Enters an instance.
    pub(crate) fn insert(&self, id: &str, handle: Option<&str>, reference: InstanceRef) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = handle {
            entries.by_handle.insert(handle.to_owned(), id.to_owned());
        }
        entries.by_id.insert(id.to_owned(), reference);
        drop(entries);
        self.enabled_changed();
    }

    /// Removes one.
    pub(crate) fn remove(&self, id: &str, handle: Option<&str>) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        entries.by_id.remove(id);
        if let Some(handle) = handle {
            entries.by_handle.remove(handle);
        }
        drop(entries);
        self.enabled_changed();
    }

    /// Notes that an instance has been enabled or disabled.
    pub(crate) fn enabled_changed(&self) {
        self.enabled.send_replace(());
    }

    /// Tells of each change of which instances there are and which of them are enabled, when lists show it.
    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.enabled.subscribe()
    }

    /// The instance with this id or handle.
    ///
    /// # Errors
    /// [`InstanceError::NotFound`].
    pub(crate) fn find(&self, name: &str) -> Result<InstanceHandle, InstanceError> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let id = entries.by_handle.get(name).map_or(name, String::as_str);
        let reference = entries.by_id.get(id).ok_or_else(|| InstanceError::NotFound(name.to_owned()))?;
        Ok(InstanceHandle::new(reference.clone()))
    }

    /// Numbers of ports on the host that belong to other instances, open or not.
    pub(crate) fn ports_of_others(&self, id: &str) -> HashSet<u16> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let others = entries.by_id.iter().filter(|(other, _)| *other != id);
        let ports = |view: &View| {
            view.endpoints.iter().map(|endpoint| endpoint.mapping.public_port).collect::<Vec<_>>()
        };
        others.flat_map(|(_, reference)| ports(&reference.view.borrow())).collect()
    }

    /// Ids of all instances.
    pub(crate) fn ids(&self) -> Vec<String> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).by_id.keys().cloned().collect()
    }

    /// Snapshots of all instances, oldest first.
    pub(crate) fn views(&self) -> Vec<Arc<View>> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let mut views: Vec<Arc<View>> =
            entries.by_id.values().map(|reference| Arc::clone(&reference.view.borrow())).collect();
        drop(entries);
        views.sort_by(|a, b| (a.created_ms, &a.id).cmp(&(b.created_ms, &b.id)));
        views
    }

    /// The mailboxes of all actors.
    pub(crate) fn mailboxes(&self) -> Vec<mpsc::Sender<Message>> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.by_id.values().map(|reference| reference.mailbox.clone()).collect()
    }
}
