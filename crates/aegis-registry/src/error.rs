//! Errors of the registry.

use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What can go wrong with the registry. None of these ends it, except [`RegistryError::Closed`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// Another instance already has this handle.
    #[error("the handle {0:?} is taken")]
    HandleTaken(String),
    /// An instance with this id already exists.
    #[error("the instance id {0:?} is taken")]
    IdTaken(String),
    /// No instance has this id.
    #[error("no instance has the id {0:?}")]
    NotFound(String),
    /// The database was written by a newer release.
    #[error("{} has schema version {found}, but this release knows versions up to {known}", path.display())]
    TooNew {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest version known here.
        known: usize,
    },
    /// The file system of the database is full. Nothing was changed; later writes may succeed.
    #[error("cannot {operation}: the disk of {} is full", path.display())]
    DiskFull {
        /// What was being done.
        operation: &'static str,
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        source: Arc<rusqlite::Error>,
    },
    /// SQLite failed for another reason. Nothing was changed; later writes may succeed.
    #[error("cannot {operation} in {}", path.display())]
    Storage {
        /// What was being done.
        operation: &'static str,
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        source: Arc<rusqlite::Error>,
    },
    /// The writer thread could not be started.
    #[error("cannot start the registry's writer thread")]
    Spawn(#[source] std::io::Error),
    /// The registry was closed before the job was done; whether a change was stored is not known.
    #[error("the registry is closed")]
    Closed,
}

impl RegistryError {
    pub(crate) fn storage(operation: &'static str, path: &Path, source: Arc<rusqlite::Error>) -> Self {
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::DiskFull { operation, path, source },
            _ => Self::Storage { operation, path, source },
        }
    }
}

impl RegistryError {
    /// Whether it may be over when there is room. SQLite reports some failures for want of it as failures of another kind.
    pub(crate) fn could_be_disk_full(&self) -> bool {
        match self {
            Self::DiskFull { .. } => true,
            Self::Storage { source, .. } => could_be_disk_full(source),
            _ => false,
        }
    }
}

pub(crate) fn could_be_disk_full(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{CannotOpen, DiskFull, SystemIoFailure};
    matches!(error.sqlite_error_code(), Some(DiskFull | SystemIoFailure | CannotOpen))
}
