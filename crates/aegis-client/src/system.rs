//! The daemon itself: its status and its end.

use aegis_api::status::{ShutdownReply, ShutdownRequest, Status};
use hyper::Method;

use crate::client::Client;
use crate::error::ClientError;

impl Client {
    /// How the daemon is.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn status(&mut self) -> Result<Status, ClientError> {
        self.get("/v1/status").await
    }

    /// Ends the daemon.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn shutdown(&mut self, keep_instances: bool) -> Result<ShutdownReply, ClientError> {
        self.send(Method::POST, "/v1/shutdown", Some(&ShutdownRequest { keep_instances })).await
    }
}
