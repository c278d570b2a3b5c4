//! The image of an instance.

use std::collections::BTreeMap;

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
