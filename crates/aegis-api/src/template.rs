//! Templates: machines that have just come up, from which others are started.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A template: machines with so much memory and so many processors are started from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Template {
    /// Its name, which follows from all that such machines have in common.
    pub name: String,
    /// Memory, MiB.
    pub memory_mb: u32,
    /// Virtual processors.
    pub vcpus: u32,
    /// What it takes on the host's disk, bytes.
    pub bytes: u64,
    /// When it was made.
    pub created_at: String,
    /// When a machine was last started from it.
    pub last_used_at: String,
    /// Whether a machine that was started from it is ready for the next instance.
    pub spare: bool,
}
