//! Writes a tar archive or a file tree as a read-only, uncompressed EROFS disk image: no root, no mounting.
//!
//! The way of an image: [`ingest()`] reads one tar archive after the other (the layers of a container image, lowest
//! first) into a [`FileTree`]; [`write_image`] lays the tree out and writes it; [`Image`] reads an image back. With
//! [`Layer`] layers are read once and shared by the images that have them.
//!
//! ```no_run
//! use aegis_erofs::{FileTree, ImageOptions, Limits, Spool, Whiteouts, ingest, write_image};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut tree = FileTree::new(Limits::default(), Spool::in_dir("/var/tmp".as_ref())?);
//! let archive = std::io::BufReader::new(std::fs::File::open("rootfs.tar")?);
//! ingest(&mut tree, archive, Whiteouts::Keep)?;
//! let summary = write_image(&tree, &std::fs::File::create("rootfs.erofs")?, &ImageOptions::default())?;
//! println!("{} inodes, {} bytes", summary.inodes, summary.bytes);
//! # Ok(())
//! # }
//! ```
//!
//! Archives are untrusted: whatever they contain, nothing outside the image is touched, memory stays within
//! [`Limits`], and a refusal is a typed error.

mod archive;
mod directory;
mod error;
mod format;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod ingest;
mod layer;
mod layout;
mod limits;
mod read;
mod spool;
mod tree;
mod write;
mod xattr;

pub use archive::ArchiveError;
pub use error::{TreeError, WriteError};
pub use format::FORMAT_VERSION;
pub use ingest::{IngestError, IngestReport, Whiteouts, ingest, ingest_some};
pub use layer::{Layer, LayerError};
pub use limits::Limits;
pub use read::{DirectoryEntry, FileKind, Image, Inode, ReadAt, ReadError};
pub use spool::{Extent, Spool};
pub use tree::{Content, Device, Directory, FileTree, Metadata, Mtime, Name, Node, NodeId, Xattrs};
pub use write::{ImageOptions, ImageSummary, write_image, write_over};
