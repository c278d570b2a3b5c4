//! The network interface of machines, and what guests are told of it.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use aegis_gateway::addressing::{
    GATEWAY_V4, GATEWAY_V6, GUEST_MAC, GUEST_V4, GUEST_V6, MTU, PREFIX_GROUP, PREFIX_V4, PREFIX_V6,
};
use aegis_guest_protocol::messages::Network;
use aegis_spec::network::NetworkSpec;
use aegis_vmm::NetworkInterface;

use crate::network::resolvers::Resolvers;

/// The network interface of every machine.
#[must_use]
pub fn interface() -> NetworkInterface {
    NetworkInterface { mac: GUEST_MAC, mtu: u16::try_from(MTU).unwrap_or(1500) }
}

/// Where distributions keep the authorities that a host trusts.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Longest such file, bytes: it travels in one message.
const MOST_BUNDLE: u64 = 400 << 10;

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

/// An instance's addresses in its groups, each with the length of the prefix that the members share.
#[must_use]
pub fn group_addresses(of: &NetworkSpec) -> Vec<(Ipv4Addr, u8)> {
    of.groups.iter().map(|place| (place.address, PREFIX_GROUP)).collect()
}

/// How a guest sets its network interface up.
///
/// # Errors
/// If it is to trust what the host trusts, and that cannot be read.
pub fn guest_network(of: &NetworkSpec, resolvers: &Resolvers) -> Result<Network, String> {
    Ok(Network {
        authorities: of.trust_host_cas.then(authorities).transpose()?,
        v4: (GUEST_V4, PREFIX_V4),
        v6: (GUEST_V6, PREFIX_V6),
        gateway_v4: GATEWAY_V4,
        gateway_v6: GATEWAY_V6,
        search: resolvers.search.clone(),
        groups: group_addresses(of),
    })
}
