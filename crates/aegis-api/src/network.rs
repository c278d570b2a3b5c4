//! What instances may reach.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What an instance may reach, as a request says it. What is absent is as `config.toml` says, or else: the internet, and
/// nothing nearer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkRequest {
    /// What happens where no rule matches: `none`, `public` or `open`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// Rules, in order: `allow|deny [in] WHAT[:PORT[-PORT]][/PROTOCOL]`, with `tcp`, `udp`, `icmp` or `raw`. The first that matches decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules: Option<Vec<String>>,
    /// TCP ports of the host's loopback interface that the instance reaches as `host.aegis`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub host_ports: Vec<u16>,
    /// Bounds.
    #[serde(skip_serializing_if = "NetworkLimits::is_default")]
    pub limits: NetworkLimits,
    /// Let its programs trust the certificate authorities that the host trusts.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub trust_host_cas: bool,
    /// Groups that it is to be a member of. Members reach each other as `HANDLE.GROUP`, and nobody else reaches them so.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
}

/// Bounds of an instance's network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkLimits {
    /// Bytes in a second, each way; default unbounded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<u64>,
    /// Packets of the instance in a second; default unbounded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packets: Option<u32>,
    /// Flows at a time; default 4096.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flows: Option<u32>,
    /// Names asked for in a second; default 200.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queries: Option<u32>,
}

impl NetworkLimits {
    fn is_default(&self) -> bool {
        *self == NetworkLimits::default()
    }
}

/// Rules of an instance, and what happens where none matches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkPolicy {
    /// `none`, `public` or `open`.
    pub default: String,
    /// In order: the first that matches decides.
    #[serde(default)]
    pub rules: Vec<String>,
}

/// Reply to `GET /v1/instances/{id}/network`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkInfo {
    /// The instance's id.
    pub id: String,
    /// `up`; `down` while a failed gateway is being replaced; `off` without a machine.
    pub state: String,
    /// What it may reach.
    pub policy: NetworkPolicy,
    /// TCP ports of the host that it reaches as `host.aegis`.
    pub host_ports: Vec<u16>,
    /// The groups that it is in.
    #[serde(default)]
    pub groups: Vec<GroupPlace>,
    /// Its bounds.
    pub limits: NetworkLimits,
    /// What was counted since its gateway began; absent unless it is up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counters: Option<NetworkCounters>,
}

/// An instance's place in a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupPlace {
    /// The group's name.
    pub group: String,
    /// The instance's address in it.
    pub address: String,
}

/// A group of instances that reach each other. It exists as long as it has a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Who is in it.
    pub members: Vec<GroupMember>,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupMember {
    /// The instance's id.
    pub id: String,
    /// The name by which the others reach it.
    pub name: String,
    /// Its address in the group.
    pub address: String,
}

/// What a gateway has counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkCounters {
    /// Bytes from the instance, on the wire.
    pub bytes_out: u64,
    /// Bytes to it.
    pub bytes_in: u64,
    /// Packets from it.
    pub packets_out: u64,
    /// Packets to it.
    pub packets_in: u64,
    /// Packets to it that were lost, because it took none.
    pub lost: u64,
    /// Flows that were opened.
    pub flows: u64,
    /// Flows that are open.
    pub open_flows: u64,
    /// Flows and names that were refused.
    pub denied: u64,
    /// Names that were asked for.
    pub queries: u64,
    /// How often something had to wait, or was refused, for a bound.
    pub limited: u64,
    /// Frames that mean nothing, or nothing good, by kind.
    pub dropped: std::collections::BTreeMap<String, u64>,
}

/// Body of `POST /v1/instances/{id}/network/rules`: a rule that comes before all others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleRequest {
    /// `allow|deny [in] WHAT[:PORT[-PORT]][/PROTOCOL]`, with `tcp`, `udp`, `icmp` or `raw`.
    pub rule: String,
}

/// Body of `POST /v1/instances/{id}/network/check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckRequest {
    /// A name or an address.
    pub host: String,
    /// The port; 0 for an echo.
    pub port: u16,
    /// `tcp`, `udp` or `icmp`.
    pub protocol: String,
}

/// Reply to `POST /v1/instances/{id}/network/check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckReply {
    /// What would happen, for the name first, if it is one, and then for each address that it has on this host.
    pub steps: Vec<CheckStep>,
    /// Whether some way is open.
    pub allowed: bool,
}

/// One decision of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckStep {
    /// The name or address.
    pub what: String,
    /// `allow` or `deny`.
    pub action: String,
    /// The rule that decides, in words.
    pub because: String,
}

/// One line of `GET /v1/instances/{id}/network/log`: a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkEntry {
    /// Its number; grows with time.
    pub seq: u64,
    /// When.
    pub ts: String,
    /// `flow` when it begins, `end` when it has ended, `name` for a name that is asked for.
    pub what: String,
    /// `out`, or `in` from another instance.
    pub direction: String,
    /// `tcp`, `udp` or `icmp`.
    pub protocol: String,
    /// The name that it was asked for by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The other end's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Its port; 0 for an echo.
    pub port: u16,
    /// `allow` or `deny`.
    pub action: String,
    /// The rule that decided, in words.
    pub because: String,
    /// Bytes from the instance, at a flow's end.
    pub bytes_out: u64,
    /// Bytes to it, at a flow's end.
    pub bytes_in: u64,
}
