//! The guest's network interface: its addresses, its default route, and its resolver.

use std::fmt::Write;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use aegis_guest_protocol::messages::{AUTHORITIES, Network};
use aegis_sys::network_interface::Card;

use crate::console_log;
use crate::managed_files::ManagedFiles;
use crate::rootfs_paths;

/// The only card that a machine has.
pub(crate) const NAME: &str = "eth0";
/// Where programs look for the resolver.
const RESOLVER: &str = "/etc/resolv.conf";
/// What the kernel would do by itself on a wire with nobody else on it, and need not (`ip-sysctl`): looking for routers,
/// making up addresses, making sure that nobody has its own.
const QUIET: [(&str, &str); 5] = [
    ("accept_dad", "0"),
    ("accept_ra", "0"),
    ("autoconf", "0"),
    ("router_solicitations", "0"),
    ("addr_gen_mode", "1"),
];

/// Most addresses in groups.
pub(crate) const MOST_GROUPS: usize = 16;

/// Gives the card these addresses beside its own, and no others.
pub(crate) fn set_groups(groups: &[(Ipv4Addr, u8)]) -> io::Result<()> {
    let card = Card::open(NAME)?;
    for slot in 0..MOST_GROUPS {
        match groups.get(slot) {
            Some((address, prefix)) => card.set_alias(slot, *address, *prefix)?,
            None => card.remove_alias(slot)?,
        }
    }
    Ok(())
}

/// Sets the card up.
pub(crate) fn set_up(network: &Network, record: &ManagedFiles) -> io::Result<()> {
    for (name, value) in QUIET {
        // A kernel that does more is a little slower.
        let _busy = fs::write(format!("/proc/sys/net/ipv6/conf/{NAME}/{name}"), value);
    }
    let card = Card::open(NAME)?;
    card.set_v4(network.v4.0, network.v4.1)?;
    card.up()?;
    card.route_v4(network.gateway_v4)?;
    card.add_v6(network.v6.0, network.v6.1)?;
    card.route_v6(network.gateway_v6)?;
    for (slot, (address, prefix)) in network.groups.iter().take(MOST_GROUPS).enumerate() {
        card.set_alias(slot, *address, *prefix)?;
    }
    if let Some(authorities) = &network.authorities {
        told(AUTHORITIES, rootfs_paths::put(Path::new(AUTHORITIES), authorities.as_ref()));
    }
    let mut text = format!("nameserver {}\n", network.gateway_v4);
    if !network.search.is_empty() {
        // Into a string.
        let _written = writeln!(text, "search {}", network.search.join(" "));
    }
    write_resolver(&text, record);
    Ok(())
}

/// Takes the card down. It loses its routes and all addresses but one, which is replaced when it is set up again.
pub(crate) fn take_down() -> io::Result<()> {
    Card::open(NAME)?.down()
}

/// Says who answers for names, as far as the root allows it, unless the instance's users have said otherwise: the network
/// is there without.
pub(crate) fn write_resolver(text: &str, record: &ManagedFiles) {
    let resolver = Path::new(RESOLVER);
    if record.edited(resolver) {
        return;
    }
    if rootfs_paths::read(resolver).is_ok_and(|old| old == text.as_bytes()) {
        record.remember(resolver, text.as_bytes());
        return;
    }
    // A link to a resolver's run-time file would dangle.
    if fs::symlink_metadata(resolver).is_ok_and(|meta| meta.is_symlink()) {
        let _stays = fs::remove_file(resolver);
    }
    told(RESOLVER, record.write(resolver, text.as_bytes()));
}

/// Says what the root did not take, where whoever looks for it will find it.
pub(crate) fn told(what: &str, done: io::Result<()>) {
    if let Err(error) = done {
        console_log::print(&format!("aegis-harness: {what} stays as it is: {error}"));
    }
}
