//! Why a use case came to nothing.

use std::path::PathBuf;

use aegis_images::ImageError;
use aegis_instances::error::InstanceError;
use aegis_machines::host_directory::DirectoryError;
use aegis_store::workspaces::WorkspaceError;
use thiserror::Error;

/// A use case's failure.
#[derive(Debug, Error)]
pub enum EngineError {
    /// A part of the request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// There is no such instance, and the request has no command to create one with.
    #[error("there is no instance {0:?} to start, and no command to create it with")]
    NothingToStart(String),
    /// No kit has this name.
    #[error("there is no kit {0:?}")]
    KitMissing(String),
    /// The kit's manifest is broken.
    #[error("kit {name:?} is broken: {problem}")]
    KitBroken {
        /// Its name.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The kit, or a program of its daemons, lies where a guest may write: what runs on the host would be that guest's.
    #[error("kit {name:?} has files in {}, where a guest could write", path.display())]
    KitWritable {
        /// Its name.
        name: String,
        /// The directory.
        path: PathBuf,
    },
    /// The kit needs a secret that the request does not give.
    #[error("kit {kit} needs the secret {secret}")]
    KitNeedsSecret {
        /// Its name.
        kit: String,
        /// The secret's name.
        secret: String,
    },
    /// An instance refuses.
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// An image cannot be had.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A workspace cannot be had.
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    /// A directory of the host cannot be shown.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
}
