//! Directories of the host that instances see.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::handle::{self, HandleError};

/// Where a workspace is in the guest.
pub const AT: &str = "/workspace";

/// A directory of the host, and how an instance sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HostDirectory {
    /// Name of a workspace that Aegis keeps, made at its first use; or an absolute path of the host, which must exist.
    pub source: String,
    /// Whether the guest may only read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// How much may be in it, MiB: sizes of its files, and 4 KiB for each name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_mb: Option<u64>,
}

/// A directory of the host at some place in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HostMount {
    /// Name of a workspace, or an absolute path of the host.
    pub source: String,
    /// Where it is in the guest, absolute.
    pub at: String,
    /// Whether the guest may only read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
}

/// Body of `POST /v1/workspaces`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateWorkspace {
    /// Its name: 1 to 40 of a-z, 0-9 and '-'.
    pub name: String,
}

/// A workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Workspace {
    /// Its name.
    pub name: String,
    /// Where it is on the host.
    pub path: String,
    /// Instances that see it, running or not: handles, or ids of those without.
    pub used_by: Vec<String>,
    /// Files, directories and all else in it; only in a description.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries: Option<u64>,
    /// What they take on disk, bytes; only in a description.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// Reply to `DELETE /v1/workspaces/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkspaceReply {
    /// Its name.
    pub name: String,
    /// What it is now: `removed`.
    pub status: String,
}

/// Whether a source is a path; otherwise it is a name.
#[must_use]
pub fn is_path(source: &str) -> bool {
    source.starts_with('/')
}

/// Checks a workspace's name, for which the rules of handles hold.
///
/// # Errors
/// [`HandleError`] with the rule that it breaks.
pub fn check_name(name: &str) -> Result<(), HandleError> {
    handle::check(name)
}
