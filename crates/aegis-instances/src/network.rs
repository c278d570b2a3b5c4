//! What an instance may reach, and how it is changed while it exists.

pub(crate) mod broker;
pub(crate) mod conversation;
pub(crate) mod gateway;
pub mod groups;
pub mod resolvers;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use aegis_gateway::addressing::{
    GATEWAY_V4, GATEWAY_V6, GUEST_MAC, GUEST_V4, GUEST_V6, MTU, PREFIX_GROUP, PREFIX_V4, PREFIX_V6,
};
use aegis_gateway::control::{Reply, Request};
use aegis_gateway::{Counters, Limits, Settings};
use aegis_guest_protocol::messages::{AUTHORITIES, Network};
use aegis_policy::{Policy, Rule};
use aegis_vmm::Card;
use serde::{Deserialize, Serialize};

use crate::actor::Message;
use crate::error::InstanceError;
use crate::manager::InstanceHandle;
use crate::network::conversation::Conversation;
use crate::network::groups::{Directory, Membership};
use crate::network::resolvers::Resolvers;
use crate::spec::SpecError;

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

    /// Its addresses in its groups, each with the length of the prefix that the members share.
    #[must_use]
    pub fn addresses(&self) -> Vec<(Ipv4Addr, u8)> {
        self.groups.iter().map(|place| (place.address, PREFIX_GROUP)).collect()
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

    /// What its gateway is told.
    pub(crate) fn settings(&self, resolvers: &Resolvers, id: &str, directory: &Directory) -> Settings {
        Settings {
            policy: self.policy.clone(),
            resolvers: resolvers.servers.clone(),
            host_ports: self.host_ports.clone(),
            limits: self.limits.clone(),
            proxy: resolvers.proxy.clone(),
            groups: directory.seen_by(id),
        }
    }
}

/// The card of every machine.
pub(crate) fn card() -> Card {
    Card { mac: GUEST_MAC, mtu: u16::try_from(MTU).unwrap_or(1500) }
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
/// Where distributions keep the authorities that a host trusts.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Longest such file, bytes: it travels in one message.
const MOST_BUNDLE: u64 = 400 << 10;

/// What an instance's environment says of the authorities.
pub(crate) fn trust(of: &NetworkSpec) -> BTreeMap<String, String> {
    let all = TRUST.iter().filter(|_| of.trust_host_cas);
    all.map(|name| ((*name).to_owned(), AUTHORITIES.to_owned())).collect()
}

/// The authorities that the host trusts; `SSL_CERT_FILE` of the daemon names another file than the usual.
///
/// # Errors
/// If there are none, or more than a guest can be told.
fn authorities() -> Result<String, String> {
    let chosen = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let usual = BUNDLES.iter().map(PathBuf::from);
    let file = chosen.into_iter().chain(usual).find(|file| file.exists());
    let file = file.ok_or("this host has no file with authorities that it trusts (ca-certificates)")?;
    match std::fs::metadata(&file) {
        Ok(found) if found.len() <= MOST_BUNDLE => {
            std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))
        }
        Ok(_) => Err(format!("{} is longer than {} KiB", file.display(), MOST_BUNDLE >> 10)),
        Err(error) => Err(format!("{}: {error}", file.display())),
    }
}

/// How a guest sets its card up.
///
/// # Errors
/// If it is to trust what the host trusts, and that cannot be read.
pub(crate) fn surroundings(of: &NetworkSpec, resolvers: &Resolvers) -> Result<Network, String> {
    Ok(Network {
        authorities: of.trust_host_cas.then(authorities).transpose()?,
        v4: (GUEST_V4, PREFIX_V4),
        v6: (GUEST_V6, PREFIX_V6),
        gateway_v4: GATEWAY_V4,
        gateway_v6: GATEWAY_V6,
        search: resolvers.search.clone(),
        groups: of.addresses(),
    })
}

impl InstanceHandle {
    /// Changes what it may reach: stored on return, and in force if there is a machine.
    ///
    /// # Errors
    /// If that is out of range or cannot be stored. Nothing is changed then.
    pub async fn change_network(&self, change: NetworkChange) -> Result<(), InstanceError> {
        self.ask(|reply| Message::Network(change, reply)).await
    }

    /// Whether frames of its machine have somewhere to go; `None` without a machine, or with one that has no card.
    #[must_use]
    pub fn network_is_up(&self) -> Option<bool> {
        Some(self.live()?.network()?.is_up())
    }

    /// What its gateway has counted since its machine was booted, or the gateway replaced; `None` without one.
    pub async fn network_counters(&self) -> Option<Counters> {
        match self.live()?.network()?.ask(&Request::Counters).await {
            Ok(Reply::Counters(counters)) => Some(*counters),
            _ => None,
        }
    }

    /// The decisions of its gateway, those that are kept, and with `follow` all that are made from then on; `None` without
    /// one.
    pub async fn follow_network(&self, follow: bool) -> Option<Conversation> {
        self.live()?.network()?.entries(follow).await.ok()
    }
}
