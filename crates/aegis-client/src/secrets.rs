//! Secrets.

use aegis_api::secret::{RekeyReply, SecretReply, SecretValue};
use hyper::Method;

use crate::client::Client;
use crate::error::ClientError;
use crate::url_path::escape;

impl Client {
    /// Names of all secrets.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn secrets(&mut self) -> Result<Vec<String>, ClientError> {
        self.get("/v1/secrets").await
    }

    /// Sets a secret.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn set_secret(&mut self, key: &str, value: String) -> Result<SecretReply, ClientError> {
        self.send(Method::PUT, &format!("/v1/secrets/{}", escape(key)), Some(&SecretValue { value })).await
    }

    /// Deletes a secret.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete_secret(&mut self, key: &str) -> Result<SecretReply, ClientError> {
        self.send(Method::DELETE, &format!("/v1/secrets/{}", escape(key)), None::<&()>).await
    }

    /// Seals all secrets anew, with a new master key.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn rekey(&mut self) -> Result<RekeyReply, ClientError> {
        self.send(Method::POST, "/v1/secrets/rekey", None::<&()>).await
    }
}
