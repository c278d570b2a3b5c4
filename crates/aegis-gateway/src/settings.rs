//! What the daemon tells a gateway.

use std::net::SocketAddr;

use aegis_policy::Policy;
use serde::{Deserialize, Serialize};

use crate::groups::Group;
use crate::proxy::Proxy;

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

/// All that a gateway needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// What may be reached.
    pub policy: Policy,
    /// The host's name servers, in its order.
    pub resolvers: Vec<SocketAddr>,
    /// TCP ports of the host's loopback interface that the instance sees at the gateway's address.
    pub host_ports: Vec<u16>,
    /// Bounds.
    pub limits: Limits,
    /// The host's own proxy, through which the internet is reached.
    pub proxy: Option<Proxy>,
    /// The groups that the instance is in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Group>,
}
