//! Which files make up the root disk of an image.

use std::fmt::Debug;
use std::path::PathBuf;

/// Knows the disks of images.
pub trait ImageDiskProvider: Debug + Send + Sync {
    /// Files that make up the root disk of the image with this digest, one after the other.
    ///
    /// # Errors
    /// A sentence.
    fn parts(&self, digest: &str) -> Result<Vec<PathBuf>, String>;
}
