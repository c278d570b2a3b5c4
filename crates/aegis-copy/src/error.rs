//! Errors of copying.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why a tree was not copied.
#[derive(Debug, Error)]
pub enum CopyError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something became something else while it was read.
    #[error("{}: it changed while it was read", .0.display())]
    Changed(PathBuf),
    /// A file that the kernel makes up goes on and on.
    #[error("{}: it does not end", .0.display())]
    Endless(PathBuf),
    /// What is to be copied is no file, directory or link.
    #[error("{}: it is {what}", path.display())]
    NoFile {
        /// Where.
        path: PathBuf,
        /// What is there.
        what: &'static str,
    },
    /// A directory is where something else is to be, or the other way round.
    #[error("{}: {what}", path.display())]
    InTheWay {
        /// Where.
        path: PathBuf,
        /// What is there.
        what: &'static str,
    },
    /// There is no directory where one is to be.
    #[error("{}: no such directory", .0.display())]
    NoDirectory(PathBuf),
    /// The stream ends early, or makes no sense.
    #[error("the other end broke off or sends nonsense: {0}")]
    Stream(String),
    /// The other end is of another version of Aegis.
    #[error("the other end of the copy is of another version")]
    OtherVersion,
    /// The stream asks for something that leads outside.
    #[error("the other end names {0:?}, which no file may be called")]
    Hostile(String),
    /// The stream has more than it may have.
    #[error("the other end sends more than {limit} {what}")]
    TooMuch {
        /// What of.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The other end failed, in its words.
    #[error("{0}")]
    OtherEnd(String),
}

impl CopyError {
    /// Whether there is no room for what would be written.
    #[must_use]
    pub fn is_no_room(&self) -> bool {
        let kind = if let CopyError::File { source, .. } = self { Some(source.kind()) } else { None };
        matches!(kind, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }

    pub(crate) fn file(path: &Path) -> impl FnOnce(io::Error) -> CopyError {
        let path = path.to_owned();
        move |source| CopyError::File { path, source }
    }

    pub(crate) fn stream(error: impl ToString) -> CopyError {
        CopyError::Stream(error.to_string())
    }
}
