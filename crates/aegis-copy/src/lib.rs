//! Trees of files as a stream of bytes: read from a directory, and written into one, never outside it.
//!
//! Both ends of `aegis cp` are this crate: one on the host, one in the guest, which is why no program of the guest's image
//! is needed for it. [`pack`] reads a tree, [`unpack`] writes one. What comes out of a guest is hostile, and what is on the
//! host may be a workspace that a guest changes at this moment: what the user typed is opened once, and everything else is
//! taken from there, never through a symbolic link. What the copy itself names, as `b` in a copy of `a/b` to a directory,
//! is not what the user typed.

mod carry;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod pack;
mod target;
mod unpack;
mod wire;

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

pub use pack::{Packed, pack, pack_beneath};
pub use target::Target;
pub use unpack::{Limits, Owner, unpack};

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
    /// A file became shorter while it was read.
    #[error("{}: it changed while it was read", .0.display())]
    Changed(PathBuf),
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
    fn file(path: &Path) -> impl FnOnce(io::Error) -> CopyError {
        let path = path.to_owned();
        move |source| CopyError::File { path, source }
    }

    fn stream(error: impl ToString) -> CopyError {
        CopyError::Stream(error.to_string())
    }
}

/// What a source is called in a directory that it is copied into; nothing if its contents are meant, not itself: for
/// `.`, and for what ends with `/.`.
#[must_use]
pub fn name_of(source: &str) -> Option<&str> {
    let trimmed = source.trim_end_matches('/');
    let last = trimmed.rsplit('/').next().unwrap_or_default();
    (!matches!(last, "" | "." | "..")).then_some(last)
}

#[cfg(test)]
mod tests;
