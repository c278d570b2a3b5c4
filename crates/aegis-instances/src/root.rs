//! The root disks of instances.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The image that an instance was created from. Tags may move on; the instance stays with what it had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedImage {
    /// The name that was asked for.
    pub reference: String,
    /// Digest of its manifest.
    pub digest: String,
    /// Environment that it gives to commands.
    pub env: BTreeMap<String, String>,
}

/// Whoever keeps images.
pub trait RootDisks: Debug + Send + Sync {
    /// Files that make up the root disk of the image with this digest, one after the other.
    ///
    /// # Errors
    /// A sentence.
    fn parts(&self, digest: &str) -> Result<Vec<PathBuf>, String>;
}
