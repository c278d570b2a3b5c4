//! What an instance may reach.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use aegis_guest_protocol::messages::AUTHORITIES;
use aegis_policy::{Limits, Policy, Rule};
use serde::{Deserialize, Serialize};

use crate::error::SpecError;

/// Most ports of the host that an instance sees.
const MOST_HOST_PORTS: usize = 64;

/// An instance's network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkSpec {
    /// What it may reach.
    pub policy: Policy,
    /// TCP ports of the host's loopback interface that it sees as those of `host.aegis`.
    pub host_ports: Vec<u16>,
    /// Its bounds.
    pub limits: Limits,
    /// Whether its programs are to trust the authorities that the host trusts.
    pub trust_host_cas: bool,
    /// The groups that it is in.
    pub groups: Vec<Membership>,
}

/// A change of an instance's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkChange {
    /// This rule comes before all others.
    Prefer(Rule),
    /// This policy takes the place of the one that is.
    Replace(Policy),
    /// It becomes a member of this group.
    Join(String),
    /// It is no member of this group any more.
    Leave(String),
}

impl NetworkSpec {
    /// Checks all values.
    ///
    /// # Errors
    /// [`SpecError`] for the first that is out of range.
    pub fn check(&self) -> Result<(), SpecError> {
        self.policy.check().map_err(|error| SpecError(error.to_string()))?;
        if self.host_ports.len() > MOST_HOST_PORTS || self.host_ports.contains(&0) {
            return Err(SpecError(format!("at most {MOST_HOST_PORTS} ports of the host, none of them 0")));
        }
        if self.limits.flows == 0 || self.limits.queries == 0 || self.limits.packets == Some(0) {
            return Err(SpecError("a bound of 0; to reach nothing, choose the network none".to_owned()));
        }
        Ok(())
    }

    /// What comes of a change; `joined` is the place in a group that it joins.
    ///
    /// # Errors
    /// If that is out of range.
    pub fn changed(
        &self,
        change: NetworkChange,
        joined: Option<Membership>,
    ) -> Result<NetworkSpec, SpecError> {
        let mut after = self.clone();
        match change {
            NetworkChange::Prefer(rule) => after.policy.prefer(rule),
            NetworkChange::Replace(policy) => after.policy = policy,
            NetworkChange::Join(group) => {
                after.groups.retain(|place| place.group != group);
                after.groups.extend(joined);
            }
            NetworkChange::Leave(group) => after.groups.retain(|place| place.group != group),
        }
        after.check()?;
        Ok(after)
    }
}

/// An instance's place in a group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Membership {
    /// The group's name.
    pub group: String,
    /// The instance's address in it.
    pub address: Ipv4Addr,
}

/// Variables that tell programs where the authorities are: those of OpenSSL and what is built on it, curl, Python's
/// requests, Node.js, git, cargo and the tools of AWS.
const TRUST: [&str; 7] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
    "AWS_CA_BUNDLE",
];
/// What an instance's environment says of the authorities.
#[must_use]
pub fn trust(of: &NetworkSpec) -> BTreeMap<String, String> {
    let all = TRUST.iter().filter(|_| of.trust_host_cas);
    all.map(|name| ((*name).to_owned(), AUTHORITIES.to_owned())).collect()
}
