//! The addresses on an instance's wire. They are the same for every instance: nobody but its gateway sees them. Only
//! those of groups are an instance's own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::wire::EthernetAddress;

/// The instance's address.
pub const GUEST_V4: Ipv4Addr = Ipv4Addr::new(10, 63, 0, 2);
/// The gateway's address, which is also that of the resolver.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(10, 63, 0, 1);
/// Length of the prefix that the two share.
pub const PREFIX_V4: u8 = 30;
/// The instance's address.
pub const GUEST_V6: Ipv6Addr = Ipv6Addr::new(0xfd61, 0x6567, 0x6973, 0, 0, 0, 0, 2);
/// The gateway's address.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd61, 0x6567, 0x6973, 0, 0, 0, 0, 1);
/// Length of the prefix that the two share.
pub const PREFIX_V6: u8 = 126;
/// Port of the gateway at which guests are offered a proxy, where the host has one.
pub const PROXY_PORT: u16 = 3128;
/// The network interface's address: locally administered.
pub const GUEST_MAC: [u8; 6] = [0x02, 0x61, 0x65, 0x67, 0x69, 0x02];
/// The gateway's.
pub const GATEWAY_MAC: [u8; 6] = [0x02, 0x61, 0x65, 0x67, 0x69, 0x01];
/// Longest IP packet on the wire. Flows end in the gateway, so that it has nothing to do with the paths beyond; long
/// packets are cheap ones.
pub const MTU: usize = 65_520;

/// Addresses of members of groups: half of the range for measurements (RFC 2544), which nobody routes. Each group has a
/// network of its own in there.
pub const GROUPS: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 0);
/// Length of the prefix that all groups share.
pub const PREFIX_GROUPS: u8 = 16;
/// Length of the prefix that the members of a group share.
pub const PREFIX_GROUP: u8 = 24;

pub(crate) const GATEWAY: EthernetAddress = EthernetAddress(GATEWAY_MAC);
pub(crate) const GUEST: EthernetAddress = EthernetAddress(GUEST_MAC);

/// Whether it belongs to the wire itself or to some instance's group, so that nothing beyond can have it.
pub(crate) fn is_on_the_wire(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let rest = 32 - PREFIX_GROUPS;
            u32::from(address) >> 2 == u32::from(GATEWAY_V4) >> 2
                || u32::from(address) >> rest == u32::from(GROUPS) >> rest
        }
        IpAddr::V6(address) => u128::from(address) >> 64 == u128::from(GATEWAY_V6) >> 64,
    }
}

/// Whether it is one of the gateway's own.
pub(crate) fn is_gateway(address: IpAddr) -> bool {
    address == IpAddr::V4(GATEWAY_V4) || address == IpAddr::V6(GATEWAY_V6)
}
