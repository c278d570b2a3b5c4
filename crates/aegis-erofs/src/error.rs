//! Errors of making trees and images.

use std::io;

use thiserror::Error;

/// Why a tree cannot be written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WriteError {
    /// Blocks are numbered with 32 bits: 16 TiB.
    #[error("the image would have more than 2^32 blocks")]
    TooLarge,
    /// Links are counted with 32 bits.
    #[error("a file has more than 2^32 names")]
    TooManyLinks,
    /// The number of a device node has no on-disk form.
    #[error("the device number {major}:{minor} is too large")]
    DeviceNumber {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// The extended attributes of one file exceed what an inode can count.
    #[error("a file has more than 256 KiB of extended attributes")]
    XattrsTooLarge,
    /// The tree has files of a layer that was not given.
    #[error("the image has no layer {0}")]
    NoSuchLayer(u32),
    /// The image cannot be written or the spool not read.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Why an entry cannot be put into the tree.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TreeError {
    /// No file can have this name.
    #[error("the path contains a NUL byte")]
    NulByte,
    /// A component is longer than 255 bytes.
    #[error("a name of the path is longer than 255 bytes")]
    NameTooLong,
    /// The target of a symbolic link is empty, too long, or contains NUL.
    #[error("the target of the symbolic link is not valid")]
    SymlinkTarget,
    /// The path leads over too many symbolic links, perhaps in a circle.
    #[error("the path leads over too many symbolic links, the last one is {0:?}")]
    TooManyLinks(String),
    /// A directory of the path is something else in the same layer.
    #[error("it should be below {0:?}, which the same layer says is no directory")]
    ParentNotDirectory(String),
    /// Only a directory can be the root.
    #[error("the root can only be a directory")]
    RootNotDirectory,
    /// A hard link to nothing.
    #[error("the target {0:?} of the hard link does not exist")]
    LinkTargetMissing(String),
    /// A hard link to a directory.
    #[error("the target {0:?} of the hard link is a directory")]
    LinkToDirectory(String),
    /// A limit of [`Limits`] is exceeded; the text names it.
    #[error("more than {limit} {what}")]
    Limit {
        /// What is limited.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The spool could not be written, or the source of contents not read.
    #[error("{0}")]
    Io(#[from] io::Error),
}
