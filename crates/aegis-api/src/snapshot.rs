//! Snapshots and forks: instances as they stood at one instant, from which others go on.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::instance::Instance;
use crate::ports::Expose;

/// Most children of one fork.
pub const MOST_CHILDREN: u32 = 256;

/// Body of `POST /v1/instances/{id}/fork`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ForkRequest {
    /// How many children, 1 to 256; default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// What their handles begin with, followed by `-` and a number; default the parent's handle. Children of a parent
    /// without one have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Ports that each of them has; default none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exposes: Vec<Expose>,
    /// Let them see the same directories of the host as their parent, at the same time.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub share_workspace: bool,
    /// Let them have the secrets that are in their parent's memory.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub with_secrets: bool,
}

/// What became of a fork.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ForkReply {
    /// The children, all of them running.
    pub instances: Vec<Instance>,
    /// For how long the processes of their parent stood still, milliseconds.
    pub stood_ms: u64,
}

/// Body of `POST /v1/snapshots`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SnapshotRequest {
    /// Id or handle of the instance.
    pub instance: String,
    /// Name of the snapshot, spelled like a handle; default the instance's name, `-` and a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Leave out its machine, and so its memory: what is started from it boots.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub disk_only: bool,
    /// Let the secrets that are in its memory be in the snapshot's.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub with_secrets: bool,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Snapshot {
    /// Its name.
    pub name: String,
    /// Id of the instance that it was taken of.
    pub instance: String,
    /// Handle that this one had.
    pub handle: Option<String>,
    /// When it was taken.
    pub created_at: String,
    /// What its disk takes on the host, bytes.
    pub disk_bytes: u64,
    /// What its machine takes on the host, bytes; absent if it was left out, or is there no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Whether what is started from it goes on where it was taken; it boots otherwise.
    pub running: bool,
    /// For how long the instance's processes stood still, milliseconds; only when it has just been taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stood_ms: Option<u64>,
}
