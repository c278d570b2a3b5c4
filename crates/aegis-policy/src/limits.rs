//! Bounds of what an instance does on its network.

use serde::{Deserialize, Serialize};

/// Bounds of one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Flows at a time: connections, datagram conversations, echoes.
    pub flows: usize,
    /// Names asked for in a second.
    pub queries: u32,
    /// Packets of the guest in a second; `None` for no bound.
    pub packets: Option<u32>,
    /// Bytes in a second, each way; `None` for no bound.
    pub bandwidth: Option<u64>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { flows: 4096, queries: 200, packets: None, bandwidth: None }
    }
}
