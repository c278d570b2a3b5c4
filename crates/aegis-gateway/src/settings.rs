//! What the daemon tells a gateway.

use std::net::SocketAddr;

use aegis_policy::{Limits, Policy};
use serde::{Deserialize, Serialize};

use crate::groups::Group;
use crate::host_proxy::Proxy;

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
