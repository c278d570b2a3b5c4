//! Kinds of addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// What kind of address it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Zone {
    /// Of the internet.
    Public,
    /// Of somebody's own network: RFC 1918, RFC 4193, shared address space (RFC 6598) and the like.
    Private,
    /// Of the same wire (RFC 3927, RFC 4291).
    LinkLocal,
    /// Where clouds hand out credentials to whoever asks.
    Metadata,
    /// The host itself, by its loopback interface.
    Loopback,
    /// The host itself, by one of its other addresses.
    Host,
    /// "This host": `0.0.0.0/8` and `::`, which systems take for loopback.
    Unspecified,
    /// Many at once.
    Multicast,
    /// Broadcast, and what is kept for the future.
    Reserved,
    /// The gateway's own addresses, and those of instances.
    Instances,
    /// Instances that are members of the same group.
    Group,
}

impl Zone {
    /// Its word in rules, logs and messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Zone::Public => "public",
            Zone::Private => "private",
            Zone::LinkLocal => "link-local",
            Zone::Metadata => "metadata",
            Zone::Loopback => "loopback",
            Zone::Host => "host",
            Zone::Unspecified => "unspecified",
            Zone::Multicast => "multicast",
            Zone::Reserved => "reserved",
            Zone::Instances => "instances",
            Zone::Group => "group",
        }
    }

    /// Those that rules may name.
    pub(crate) fn of_word(word: &str) -> Option<Zone> {
        let known = [Zone::Public, Zone::Private, Zone::LinkLocal, Zone::Metadata, Zone::Group];
        known.into_iter().find(|zone| zone.as_str() == word)
    }

    /// Whether no rule can open it.
    #[must_use]
    pub fn is_never_reached(self) -> bool {
        !matches!(self, Zone::Public | Zone::Private | Zone::LinkLocal | Zone::Metadata | Zone::Group)
    }

    /// The kind of an address. One that carries another inside is of the kind of that, unless that is public.
    #[must_use]
    pub fn of(address: IpAddr) -> Zone {
        match canonical(address) {
            IpAddr::V4(address) => v4(address),
            IpAddr::V6(address) => match embedded(address).map(v4) {
                Some(zone) if zone != Zone::Public => zone,
                _ => v6(address),
            },
        }
    }
}

/// The IPv4 address that a translator or a tunnel takes out of this one (NAT64, 6to4, Teredo and others).
#[must_use]
pub fn carried(address: IpAddr) -> Option<IpAddr> {
    match canonical(address) {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => embedded(address).map(IpAddr::V4),
    }
}

/// The address as IPv4 if it is merely written as IPv6 (`::ffff:a.b.c.d`).
#[must_use]
pub fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// Services that answer without asking who it is, in addition to those that are link-local.
const METADATA_V4: [Ipv4Addr; 3] = [
    Ipv4Addr::new(100, 100, 100, 200), // Alibaba Cloud
    Ipv4Addr::new(168, 63, 129, 16),   // Azure's wire server
    Ipv4Addr::new(192, 0, 0, 192),     // Oracle Cloud
];
const METADATA_V6: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), // EC2
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),  // EKS pod identity
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),  // Google Cloud
];

fn v4(address: Ipv4Addr) -> Zone {
    let [a, b, c, _] = address.octets();
    match (a, b, c) {
        _ if METADATA_V4.contains(&address) => Zone::Metadata,
        // Amazon, Google, Azure and others, and Amazon's for containers.
        (169, 254, 169 | 170) => Zone::Metadata,
        (169, 254, _) => Zone::LinkLocal,
        (0, ..) => Zone::Unspecified,
        (127, ..) => Zone::Loopback,
        (10, ..)
        | (172, 16..=31, _)
        | (192, 168, _)
        | (100, 64..=127, _)
        | (198, 18..=19, _)
        | (192, 0, 0) => Zone::Private,
        (224..=239, ..) => Zone::Multicast,
        (240..=255, ..) => Zone::Reserved,
        _ => Zone::Public,
    }
}

fn v6(address: Ipv6Addr) -> Zone {
    let first = address.segments()[0];
    match first {
        _ if METADATA_V6.contains(&address) => Zone::Metadata,
        _ if address.is_loopback() => Zone::Loopback,
        _ if address.is_unspecified() => Zone::Unspecified,
        0xff00..=0xffff => Zone::Multicast,
        0xfe80..=0xfebf => Zone::LinkLocal,
        // Unique local, and the site-local that came before.
        0xfc00..=0xfdff | 0xfec0..=0xfeff => Zone::Private,
        // A translator of somebody's own network (RFC 8215).
        0x0064 if address.segments()[1] == 0xff9b && address.segments()[2] == 1 => Zone::Private,
        0x0000 if embedded(address).is_none() => Zone::Reserved,
        _ => Zone::Public,
    }
}

/// The IPv4 address that a translator or a tunnel takes out of this one.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let bytes = address.octets();
    let at = |from: usize| {
        let part: Option<[u8; 4]> = bytes.get(from..from + 4).and_then(|part| part.try_into().ok());
        part.map(Ipv4Addr::from)
    };
    let segments = address.segments();
    match segments {
        // NAT64 (RFC 6052).
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => at(12),
        // IPv4-compatible, and IPv4-translated (RFC 2765).
        [0, 0, 0, 0, 0, 0, high, low] if (high, low) > (0, 1) => at(12),
        [0, 0, 0, 0, 0xffff, 0, ..] => at(12),
        // 6to4 (RFC 3056).
        [0x2002, ..] => at(2),
        // Teredo (RFC 4380): the client's, inverted.
        [0x2001, 0, ..] => at(12).map(|client| Ipv4Addr::from(!u32::from(client))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_an_address_is_of_the_same_kind() {
        for (text, zone) in [
            ("93.184.216.34", Zone::Public),
            ("203.0.113.9", Zone::Public),
            ("10.1.2.3", Zone::Private),
            ("172.31.0.1", Zone::Private),
            ("172.32.0.1", Zone::Public),
            ("192.168.1.1", Zone::Private),
            ("100.64.0.1", Zone::Private),
            ("169.254.169.254", Zone::Metadata),
            ("169.254.170.2", Zone::Metadata),
            ("169.254.1.1", Zone::LinkLocal),
            ("127.8.8.8", Zone::Loopback),
            ("0.0.0.0", Zone::Unspecified),
            ("0.1.2.3", Zone::Unspecified),
            ("224.0.0.251", Zone::Multicast),
            ("255.255.255.255", Zone::Reserved),
            ("::ffff:127.0.0.1", Zone::Loopback),
            ("::ffff:169.254.169.254", Zone::Metadata),
            ("::127.0.0.1", Zone::Loopback),
            ("::1", Zone::Loopback),
            ("::", Zone::Unspecified),
            ("64:ff9b::7f00:1", Zone::Loopback),
            ("64:ff9b::a9fe:a9fe", Zone::Metadata),
            ("64:ff9b::5db8:d822", Zone::Public),
            ("64:ff9b:1::1", Zone::Private),
            ("::ffff:0:7f00:1", Zone::Loopback),
            ("2002:7f00:1::", Zone::Loopback),
            ("2001:0:1:2:3:4:80ff:fffe", Zone::Loopback),
            ("2001:db8::1", Zone::Public),
            ("fd00::1", Zone::Private),
            ("fd00:ec2::254", Zone::Metadata),
            ("fe80::1", Zone::LinkLocal),
            ("ff02::1", Zone::Multicast),
        ] {
            assert_eq!(Zone::of(text.parse().unwrap()), zone, "{text}");
        }
    }
}
