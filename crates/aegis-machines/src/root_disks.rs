//! The root disks of instances.

use std::fmt::Debug;
use std::path::PathBuf;

/// Whoever keeps images.
pub trait RootDisks: Debug + Send + Sync {
    /// Files that make up the root disk of the image with this digest, one after the other.
    ///
    /// # Errors
    /// A sentence.
    fn parts(&self, digest: &str) -> Result<Vec<PathBuf>, String>;
}
