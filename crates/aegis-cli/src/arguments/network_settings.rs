//! What a new instance may reach.

use std::path::{Path, PathBuf};

use aegis_api::network::{NetworkLimits, NetworkPolicy, NetworkRequest};
use clap::Args;

use crate::arguments::value_parsers;
use crate::failure::Failure;
use crate::user_file;

/// What a new instance may reach.
#[derive(Debug, Args)]
pub struct NetworkOptions {
    /// What it may reach where no rule says otherwise: none; public, the internet and nothing nearer; or open, all but
    /// this host [default: public, or none with --allow]
    #[arg(long, value_name = "PRESET", value_parser = ["none", "public", "open"])]
    pub network: Option<String>,
    /// Let it reach a name, *.NAME, an address, a range, or public, private, link-local, metadata or any, as
    /// WHAT[:PORT[-PORT]][/PROTOCOL] with tcp, udp, icmp or raw; may be repeated
    #[arg(long, value_name = "WHAT")]
    pub allow: Vec<String>,
    /// Do not let it reach that, even if --allow does; may be repeated
    #[arg(long, value_name = "WHAT")]
    pub deny: Vec<String>,
    /// File with a policy: default = "none" and rules = ["allow WHAT", "deny WHAT"]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["network", "allow", "deny"])]
    pub network_policy: Option<PathBuf>,
    /// Let it reach this TCP port of the host's loopback interface, as host.aegis:PORT; may be repeated
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub host_port: Vec<u16>,
    /// Let its programs trust the certificate authorities that this host trusts
    #[arg(long)]
    pub trust_host_cas: bool,
    /// Make it a member of a group: members reach each other as HANDLE.GROUP, whatever else they may reach; may be
    /// repeated
    #[arg(long, value_name = "GROUP")]
    pub group: Vec<String>,
    /// Most bytes in a second, each way, with a unit such as 10m
    #[arg(long, value_name = "SIZE", value_parser = value_parsers::bytes)]
    pub max_bandwidth: Option<u64>,
    /// Most packets of it in a second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_packets: Option<u32>,
    /// Most connections and other flows at a time [default: 4096]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_flows: Option<u32>,
    /// Most names that it asks for in a second [default: 200]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_queries: Option<u32>,
}

/// Longest file with a policy, bytes; the daemon takes fewer rules.
const MOST_POLICY: u64 = 1 << 20;

/// A policy in a file.
pub(crate) fn read_policy(path: &Path) -> Result<NetworkPolicy, Failure> {
    let told = |error: &dyn std::fmt::Display| Failure::new(format!("{}: {error}", path.display()));
    let text = user_file::text(path, MOST_POLICY)?;
    toml::from_str(&text).map_err(|error| told(&error))
}

impl NetworkOptions {
    /// As the API takes it; `None` if nothing is said.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn request(self) -> Result<Option<NetworkRequest>, Failure> {
        let policy = self.network_policy.as_deref().map(read_policy).transpose()?;
        let rules = self.deny.iter().map(|what| format!("deny {what}"));
        let rules: Vec<String> = rules.chain(self.allow.iter().map(|what| format!("allow {what}"))).collect();
        let only = (!self.allow.is_empty()).then(|| "none".to_owned());
        let (default, rules) = match policy {
            Some(policy) => (Some(policy.default), Some(policy.rules)),
            None => (self.network.or(only), (!rules.is_empty()).then_some(rules)),
        };
        let limits = NetworkLimits {
            bandwidth: self.max_bandwidth,
            packets: self.max_packets,
            flows: self.max_flows,
            queries: self.max_queries,
        };
        // A preset alone is whole: it takes no rules of the daemon's configuration along.
        let rules = rules.or_else(|| default.is_some().then(Vec::new));
        let request = NetworkRequest {
            default,
            rules,
            host_ports: self.host_port,
            limits,
            trust_host_cas: self.trust_host_cas,
            groups: self.group,
        };
        Ok((request != NetworkRequest::default()).then_some(request))
    }
}
