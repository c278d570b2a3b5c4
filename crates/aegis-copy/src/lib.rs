//! Trees of files as a stream of bytes: read from a directory, and written into one, never outside it.
//!
//! Both ends of `aegis cp` are this crate: one on the host, one in the guest, which is why no program of the guest's image
//! is needed for it. [`pack`] reads a tree, [`unpack`] writes one. What comes out of a guest is hostile, and what is on the
//! host may be a workspace that a guest changes at this moment: what the user typed is opened once, and everything else is
//! taken from there, never through a symbolic link. What the copy itself names, as `b` in a copy of `a/b` to a directory,
//! is not what the user typed.
//!
//! A tree may live while it is copied: what goes or cannot be read is left out, and told ([`LeftOut`]). What is written has
//! another name until it is complete, so that whatever happens nothing is lost that was there.

#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod left_out;
mod pack;
mod pieces;
mod receive;
mod send;
mod target;
mod temporary;
mod unpack;
mod wire;

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

pub use left_out::{ABSENT, LeftOut, NO_ROOM, Omissions, PARTIAL, VANISHED, VOLATILE};
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
pub fn name_of(source: &OsStr) -> Option<&OsStr> {
    let parts = source.as_bytes().split(|byte| *byte == b'/');
    let last = parts.rev().find(|part| !part.is_empty()).unwrap_or_default();
    (!matches!(last, b"" | b"." | b"..")).then(|| OsStr::from_bytes(last))
}

#[cfg(test)]
mod living_tests;
#[cfg(test)]
mod tests;
