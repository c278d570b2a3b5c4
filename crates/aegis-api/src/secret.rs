//! Secrets: their names. Values go in and never come out.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Body of `PUT /v1/secrets/{key}`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretValue {
    /// The value: at most 64 KiB, without NUL.
    pub value: String,
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue")
    }
}

/// Reply to `PUT` and `DELETE /v1/secrets/{key}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecretReply {
    /// The secret's name.
    pub key: String,
    /// What it is now: `set` or `deleted`.
    pub status: String,
}

/// Reply to `POST /v1/secrets/rekey`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RekeyReply {
    /// How many secrets are sealed with the new key.
    pub secrets: usize,
}
