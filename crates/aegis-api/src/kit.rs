//! Kits: presets for instances.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A kit, whole or broken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Kit {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it is, in a line.
    pub description: String,
    /// `ok` or `broken`.
    pub status: String,
    /// What is wrong with a broken one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Its manifest's file.
    pub source: String,
    /// Instances made with it: handles, or ids of those without.
    pub used_by: Vec<String>,
    /// Its manifest; only in a description of a whole one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub manifest: Option<serde_json::Value>,
}

/// Body of `POST /v1/kits/validate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ValidateKit {
    /// Absolute path of a manifest, or of a directory that has one.
    pub path: String,
}
