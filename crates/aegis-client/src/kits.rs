//! Kits.

use aegis_api::kit::{Kit, ValidateKit};
use hyper::Method;

use crate::client::Client;
use crate::error::ClientError;
use crate::url_path::escape;

impl Client {
    /// All kits.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn kits(&mut self) -> Result<Vec<Kit>, ClientError> {
        self.get("/v1/kits").await
    }

    /// One kit, with its manifest.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn kit(&mut self, name: &str) -> Result<Kit, ClientError> {
        self.get(&format!("/v1/kits/{}", escape(name))).await
    }

    /// Checks a manifest at an absolute path.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn validate_kit(&mut self, path: String) -> Result<Kit, ClientError> {
        self.send(Method::POST, "/v1/kits/validate", Some(&ValidateKit { path })).await
    }
}
