//! Errors that end the daemon.

use aegis_images::ImageError;
use aegis_instances::error::InstanceError;
use aegis_registry::RegistryError;
use aegis_store::home::{HomeError, LockError};
use aegis_store::secrets::SecretError;
use thiserror::Error;

/// Why the daemon cannot run.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// The environment makes no sense.
    #[error("{0}")]
    Environment(String),
    /// The home directory cannot be used.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// Another daemon has it.
    #[error("{0}")]
    Lock(#[from] LockError),
    /// The registry cannot be opened.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// What is stored cannot be taken over.
    #[error(transparent)]
    Instances(#[from] InstanceError),
    /// The images cannot be used.
    #[error(transparent)]
    Images(#[from] ImageError),
    /// The secrets cannot be used.
    #[error(transparent)]
    Secrets(#[from] SecretError),
    /// Files cannot be served to a guest.
    #[error(transparent)]
    Files(#[from] aegis_workspace::ServerError),
    /// The control group of the configuration cannot be used.
    #[error("config.toml: [confinement] cgroup: {0}")]
    Cgroup(#[source] std::io::Error),
    /// This host does not confine processes as it is wanted.
    #[error("config.toml: [confinement] require: this host has no {0}; see: aegis doctor")]
    Unconfined(String),
    /// The backend that is wanted is of no use here.
    #[error("{0}; see: aegis doctor")]
    Backend(String),
    /// A system call failed.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl DaemonError {
    /// Wraps a system call's failure.
    pub fn io(action: &'static str) -> impl Fn(std::io::Error) -> DaemonError {
        move |source| DaemonError::Io { action, source }
    }

    /// The error and its causes, in one line.
    #[must_use]
    pub fn chain(&self) -> String {
        aegis_machines::error_chain::chain(self)
    }
}
