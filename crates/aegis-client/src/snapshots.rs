//! Snapshots and templates.

use aegis_api::instance::ActionReply;
use aegis_api::snapshot::{Snapshot, SnapshotRequest};
use aegis_api::template::Template;
use hyper::Method;

use crate::client::Client;
use crate::error::ClientError;
use crate::url_path::escape;

impl Client {
    /// Takes a snapshot.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn take_snapshot(&mut self, request: &SnapshotRequest) -> Result<Snapshot, ClientError> {
        self.send(Method::POST, "/v1/snapshots", Some(request)).await
    }

    /// All snapshots.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn snapshots(&mut self) -> Result<Vec<Snapshot>, ClientError> {
        self.get("/v1/snapshots").await
    }

    /// One snapshot.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn snapshot(&mut self, name: &str) -> Result<Snapshot, ClientError> {
        self.get(&format!("/v1/snapshots/{}", escape(name))).await
    }

    /// Deletes a snapshot.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete_snapshot(&mut self, name: &str) -> Result<ActionReply, ClientError> {
        self.send(Method::DELETE, &format!("/v1/snapshots/{}", escape(name)), None::<&()>).await
    }

    /// Puts an instance back to where it was when a snapshot was taken of it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn restore_snapshot(&mut self, name: &str) -> Result<ActionReply, ClientError> {
        self.send(Method::POST, &format!("/v1/snapshots/{}/restore", escape(name)), None::<&()>).await
    }

    /// All templates.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn templates(&mut self) -> Result<Vec<Template>, ClientError> {
        self.get("/v1/templates").await
    }

    /// Removes all templates, and returns them.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn prune_templates(&mut self) -> Result<Vec<Template>, ClientError> {
        self.send(Method::POST, "/v1/templates/prune", None::<&()>).await
    }
}
