//! Workspaces.

use aegis_api::workspace::{CreateWorkspace, Workspace, WorkspaceReply};
use hyper::Method;

use crate::client::Client;
use crate::error::ClientError;
use crate::url_path::escape;

impl Client {
    /// All workspaces.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn workspaces(&mut self) -> Result<Vec<Workspace>, ClientError> {
        self.get("/v1/workspaces").await
    }

    /// Makes an empty workspace.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn create_workspace(&mut self, name: &str) -> Result<Workspace, ClientError> {
        let body = CreateWorkspace { name: name.to_owned() };
        self.send(Method::POST, "/v1/workspaces", Some(&body)).await
    }

    /// One workspace, with what is in it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn workspace(&mut self, name: &str) -> Result<Workspace, ClientError> {
        self.get(&format!("/v1/workspaces/{}", escape(name))).await
    }

    /// Removes a workspace with all that is in it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn remove_workspace(&mut self, name: &str) -> Result<WorkspaceReply, ClientError> {
        self.send(Method::DELETE, &format!("/v1/workspaces/{}", escape(name)), None::<&()>).await
    }
}
