//! What a request calls its host: the name that decides which instance it is for, and whether it is for one at all.
//!
//! A browser takes `evil.example` to be one site, whatever address the name has. So a page there could point the name at
//! this machine and read what an instance serves as if it were its own (DNS rebinding). Only names that nobody else can
//! have are served: those of loopback, those that `config.toml` has, and the address itself.

use std::net::IpAddr;

use crate::backend::InstanceName;

/// Longest host name (RFC 1035, section 2.3.4).
const LONGEST_HOST: usize = 253;
/// Longest name that is looked up.
pub(super) const LONGEST_NAME: usize = 64;
const LOCAL: &str = "localhost";

/// A host, without its port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Host {
    /// In lower case, without the dot of the root.
    Name(String),
    Address(IpAddr),
}

/// A host and perhaps a port, as `Host`, `:authority` and `Origin` have them; nothing of what else the grammar of a URI
/// would allow: no user, no percent signs, no list.
pub(super) fn parse(text: &str) -> Option<Host> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            (Host::Address(IpAddr::V6(address.parse().ok()?)), port)
        }
        None => {
            let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            (name_or_address(name)?, port)
        }
    };
    let port = match port.strip_prefix(':') {
        Some(digits) => digits.is_empty() || is_port(digits),
        None => port.is_empty(),
    };
    port.then_some(host)
}

fn is_port(digits: &str) -> bool {
    digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse::<u16>().is_ok()
}

fn name_or_address(name: &str) -> Option<Host> {
    let name = name.strip_suffix('.').unwrap_or(name);
    // With the dot of the root, too: no name ends with a number, and browsers take it for the address.
    if let Ok(address) = name.parse() {
        return Some(Host::Address(IpAddr::V4(address)));
    }
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let label = |label: &str| !label.is_empty() && label.bytes().all(letter);
    (name.len() <= LONGEST_HOST && name.split('.').all(label)).then(|| Host::Name(name.to_ascii_lowercase()))
}

/// The host of an `Origin` (RFC 6454): that of pages, not of files or of what hides where it is from.
pub(super) fn of_origin(origin: &str) -> Option<Host> {
    let (scheme, authority) = origin.split_once("://")?;
    matches!(scheme, "http" | "https").then(|| parse(authority))?
}

/// The port of an `Origin`: what it says, or that of its scheme.
pub(super) fn port_of_origin(origin: &str) -> Option<u16> {
    let (scheme, authority) = origin.split_once("://")?;
    let behind = authority.rsplit_once(']').map_or(authority, |(_, behind)| behind);
    match behind.rsplit_once(':').map(|(_, digits)| digits).filter(|digits| !digits.is_empty()) {
        Some(digits) => digits.parse().ok(),
        None if scheme == "https" => Some(443),
        None => Some(80),
    }
}

impl Host {
    /// Whether nothing but this machine can have this name.
    pub(super) fn is_local(&self) -> bool {
        match self {
            Host::Name(name) => name == LOCAL || below(name, LOCAL).is_some(),
            Host::Address(address) => address.to_canonical().is_loopback(),
        }
    }

    /// What it means, if it is served: to connections that arrived at `local`, with these names of `config.toml`.
    pub(super) fn wanted(&self, local: IpAddr, names: &[Host]) -> Option<InstanceName> {
        let name = match self {
            // A page cannot have an address for its name, unless it came from there.
            Host::Address(address) if self.is_local() || address.to_canonical() == local.to_canonical() => {
                return Some(InstanceName::Only);
            }
            _ if names.contains(self) => return Some(InstanceName::Only),
            Host::Name(name) if name == LOCAL => return Some(InstanceName::Only),
            Host::Name(name) => name,
            Host::Address(_) => return None,
        };
        let configured = names.iter().filter_map(|one| match one {
            Host::Name(one) => below(name, one),
            Host::Address(_) => None,
        });
        // Of several, the longest name: that leaves the least.
        let label = configured.chain(below(name, LOCAL)).min_by_key(|label| label.len())?;
        Some(by_label(label))
    }
}

/// What stands before a domain.
fn below<'a>(name: &'a str, domain: &str) -> Option<&'a str> {
    name.strip_suffix(domain)?.strip_suffix('.')
}

fn by_label(label: &str) -> InstanceName {
    // An application may give names of its own to parts of itself: the last label is the instance's.
    let label = label.rsplit('.').next().unwrap_or(label);
    let short = |name: &str| name.chars().take(LONGEST_NAME).collect::<String>();
    if let Some((port, handle)) = label.split_once("--")
        && let Ok(port) = port.parse()
    {
        return InstanceName::HandlePort(short(handle), port);
    }
    InstanceName::Handle(short(label))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn wanted(host: &str) -> Option<InstanceName> {
        let names = ["sandbox.example", "deep.sandbox.example", "10.9.9.9"].map(|name| parse(name).unwrap());
        parse(host).unwrap_or_else(|| panic!("{host}")).wanted(LOOPBACK, &names)
    }

    #[test]
    fn an_address_is_one_with_the_dot_of_the_root_too() {
        assert_eq!(parse("10.9.9.9.:80"), parse("10.9.9.9"));
        assert_eq!(wanted("127.0.0.1."), Some(InstanceName::Only));
        assert_eq!(wanted("10.9.9.8."), None);
    }

    #[test]
    fn a_host_names_an_instance_and_perhaps_its_port() {
        let handle = |name: &str| Some(InstanceName::Handle(name.into()));
        for (host, expected) in [
            ("web.localhost:8099", handle("web")),
            ("WEB.localhost", handle("web")),
            ("web.localhost.:8099", handle("web")),
            ("web.localhost:", handle("web")),
            ("9000--web.localhost:8099", Some(InstanceName::HandlePort("web".into(), 9000))),
            ("x--web.localhost", handle("x--web")),
            ("api.web.localhost", handle("web")),
            ("web.sandbox.example:8099", handle("web")),
            ("80--web.deep.sandbox.example", Some(InstanceName::HandlePort("web".into(), 80))),
        ] {
            assert_eq!(wanted(host), expected, "{host}");
        }
        for host in [
            "localhost",
            "LOCALHOST.:8099",
            "127.0.0.1:8099",
            "127.8.9.1",
            "[::1]:8099",
            "[::ffff:127.0.0.1]",
            "sandbox.example",
            "deep.sandbox.example:80",
            "10.9.9.9:8099",
        ] {
            assert_eq!(wanted(host), Some(InstanceName::Only), "{host}");
        }
    }

    #[test]
    fn a_host_that_somebody_else_can_have_means_nothing() {
        for host in [
            "evil.example:8099",
            "localhost.evil.example",
            "evillocalhost",
            "evil-localhost",
            "127.0.0.1.evil.example",
            "127.0.0.1.nip.io",
            "evilsandbox.example",
            "sandbox.example.evil.example",
            "0.0.0.0:8099",
            "10.0.0.1",
            "[::]",
            "[2001:db8::1]:80",
            "127.1",
            "2130706433",
            "0x7f000001",
        ] {
            assert_eq!(wanted(host), None, "{host}");
        }
        let there: IpAddr = "10.0.0.1".parse().unwrap();
        assert_eq!(parse("10.0.0.1:8099").unwrap().wanted(there, &[]), Some(InstanceName::Only));
        assert_eq!(parse("10.0.0.2:8099").unwrap().wanted(there, &[]), None);
    }

    #[test]
    fn what_is_no_host_is_none() {
        for text in [
            "",
            " ",
            ".",
            ".localhost",
            "a..localhost",
            "localhost..",
            "a,b",
            "localhost, evil.example",
            "localhost evil.example",
            "user@localhost",
            "localhost@evil.example",
            "evil.example#localhost",
            "localhost/",
            "evil.example\\.localhost",
            "localhost:80:80",
            "localhost:port",
            "localhost:65536",
            "localhost:+80",
            "::1",
            "[::1",
            "[::1]80",
            "[127.0.0.1]",
            "[fe80::1%25lo]",
            "%6cocalhost",
            "löcalhost",
            "localhost\t",
            "localhost\0",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
        assert_eq!(parse(&format!("{}.localhost", "a.".repeat(200))), None);
    }

    #[test]
    fn an_origin_is_that_of_a_page() {
        assert_eq!(of_origin("http://localhost:3000"), parse("localhost"));
        assert_eq!(of_origin("https://evil.example"), parse("evil.example"));
        for origin in ["null", "", "file://", "chrome-extension://abcdef", "http://", "http://a/b"] {
            assert_eq!(of_origin(origin), None, "{origin}");
        }
    }

    proptest! {
        #[test]
        fn only_hosts_of_this_machine_are_served(host in "\\PC{0,40}(localhost)?(:[0-9]{0,6})?") {
            let served = parse(&host).and_then(|host| host.wanted(LOOPBACK, &[]));
            let name = host.rsplit_once(':').map_or(host.as_str(), |(name, _)| name).trim_end_matches('.');
            let local = name.eq_ignore_ascii_case(LOCAL) || name.to_ascii_lowercase().ends_with(".localhost")
                || name.starts_with("127.") || name.starts_with('[');
            prop_assert!(served.is_none() || local, "{}", host);
        }
    }
}
