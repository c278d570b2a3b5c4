//! Errors of reading archives.

use std::io;

use thiserror::Error;

/// Why an archive cannot be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The input ends within an entry.
    #[error("the archive is truncated")]
    Truncated,
    /// The checksum of a header does not fit: no tar archive, or a damaged one.
    #[error("it is damaged, or no tar archive: the checksum of a header is wrong")]
    Checksum,
    /// A header has a field with no valid value; the text names it.
    #[error("the field {0} of a tar header is not valid")]
    Field(&'static str),
    /// A PAX extended header does not follow its grammar.
    #[error("a PAX header is malformed")]
    Pax,
    /// An extension header is larger than any path or attribute may be.
    #[error("an extension header has more than {0} bytes")]
    ExtensionTooLarge(usize),
    /// A kind of entry that has no place in an image, by its tar type.
    #[error("{path:?} is of tar's type {kind:?}, which no image can have")]
    UnsupportedType {
        /// Path of the entry.
        path: String,
        /// The type byte.
        kind: char,
    },
    /// A sparse file whose map does not fit its contents.
    #[error("{0:?} is stored as a sparse file with a map that makes no sense")]
    Sparse(String),
    /// The input cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
}
