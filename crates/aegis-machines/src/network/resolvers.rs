//! How the host reaches the world: names by `resolv.conf(5)`, and perhaps a proxy.

use std::net::{IpAddr, SocketAddr};

use aegis_gateway::Proxy;

/// Port of name servers.
const PORT: u16 = 53;
/// Most servers that are asked, as in the C library (`MAXNS`).
const MOST_SERVERS: usize = 3;
/// Most domains in which short names are looked for.
const MOST_DOMAINS: usize = 6;

/// The host's name servers, the domains in which it looks for short names, and its proxy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resolvers {
    /// In the order in which they are asked.
    pub servers: Vec<SocketAddr>,
    /// In the order in which they are tried.
    pub search: Vec<String>,
    /// The host's own proxy, if that is its way to the internet.
    pub proxy: Option<Proxy>,
}

impl Resolvers {
    /// Reads the text of a `resolv.conf`. What makes no sense in it is passed over, as the C library does. Without a
    /// server, that is the host itself.
    #[must_use]
    pub fn parse(text: &str) -> Resolvers {
        let mut found = Resolvers::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let address = words.next().and_then(parse_address);
                    found.servers.extend(address.filter(|_| found.servers.len() < MOST_SERVERS));
                }
                // The last one counts.
                Some("search" | "domain") => {
                    let plain = |word: &&str| word.len() < 254 && !word.starts_with('#');
                    found.search = words.take_while(plain).take(MOST_DOMAINS).map(str::to_owned).collect();
                }
                _ => {}
            }
        }
        if found.servers.is_empty() {
            found.servers.push(SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), PORT));
        }
        found
    }
}

/// An address, for IPv6 perhaps with the interface that it is near to.
fn parse_address(word: &str) -> Option<SocketAddr> {
    if let Ok(address) = word.parse::<IpAddr>() {
        return Some(SocketAddr::new(address, PORT));
    }
    let (address, interface) = word.split_once('%')?;
    let scope = interface.parse().ok().or_else(|| {
        std::fs::read_to_string(format!("/sys/class/net/{interface}/ifindex")).ok()?.trim().parse().ok()
    })?;
    Some(std::net::SocketAddrV6::new(address.parse().ok()?, PORT, 0, scope).into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_hosts_configuration_is_read_as_the_c_library_reads_it() {
        let text = "# made by a program\nnameserver 192.0.2.1\nnameserver 2001:db8::53\nnameserver nonsense\n\
            nameserver fe80::1%1\nnameserver 192.0.2.9\ndomain a.example\nsearch b.example c.example # two\noptions ndots:2\n";
        let found = Resolvers::parse(text);
        let servers: Vec<String> = found.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.1:53", "[2001:db8::53]:53", "[fe80::1%1]:53"]);
        assert_eq!(found.search, ["b.example", "c.example"]);
        assert_eq!(Resolvers::parse("").servers, ["127.0.0.1:53".parse().unwrap()]);
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "(nameserver|search)? ?.{0,60}") {
            let _found = Resolvers::parse(&text);
        }
    }
}
