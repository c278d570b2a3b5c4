//! The kit of an instance.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The kit of an instance, as it was when the instance was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KitUse {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Environment: stronger than the image's, weaker than secrets.
    pub env: BTreeMap<String, String>,
    /// Program that looks whether the instance can work as it is set up; empty for none.
    pub validate_config: Vec<String>,
    /// Program that prints more environment; empty for none.
    pub render_env: Vec<String>,
}
