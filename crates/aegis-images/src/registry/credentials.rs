//! Credentials as `docker login` leaves them: `~/.docker/config.json` (or `$DOCKER_CONFIG`) and credential helpers.

use std::path::PathBuf;

use docker_credential::{CredentialRetrievalError, DockerCredential};

use crate::error::ImageError;

/// What Docker files Docker Hub's credentials under.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// Who we are to a registry.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    Anonymous,
    Password {
        user: String,
        password: String,
    },
    /// To be exchanged for an access token.
    IdentityToken(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Credentials::Anonymous => "Anonymous",
            Credentials::Password { .. } => "Password",
            Credentials::IdentityToken(_) => "IdentityToken",
        })
    }
}

/// The user's credentials for a registry, if there are any. May run a helper: blocks.
pub(crate) fn find(registry: &str) -> Result<Credentials, ImageError> {
    let server = if registry == "index.docker.io" { DOCKER_HUB } else { registry };
    match docker_credential::get_credential(server) {
        Ok(DockerCredential::UsernamePassword(user, password)) => {
            Ok(Credentials::Password { user, password })
        }
        Ok(DockerCredential::IdentityToken(token)) => Ok(Credentials::IdentityToken(token)),
        Err(CredentialRetrievalError::NoCredentialConfigured | CredentialRetrievalError::ConfigNotFound) => {
            Ok(Credentials::Anonymous)
        }
        // No file is no fault; one that makes no sense is.
        Err(CredentialRetrievalError::ConfigReadError) if !config_exists() => Ok(Credentials::Anonymous),
        Err(CredentialRetrievalError::HelperFailure { stdout, .. }) if stdout.contains("not found") => {
            // What helpers print for a registry that they know nothing of.
            Ok(Credentials::Anonymous)
        }
        Err(error) => {
            let detail = format!("{error}");
            Err(ImageError::Credentials { registry: registry.to_owned(), detail })
        }
    }
}

fn config_exists() -> bool {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker"));
    let dir = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from).or_else(home);
    dir.is_some_and(|dir| dir.join("config.json").exists())
}
