//! What a rule is about: `[NAME][@RANGE][:PORTS][/PROTOCOL]`, where the protocol may be [`RAW`].

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use crate::{Name, NamePattern, Protocol, SyntaxError, Zone, canonical};

/// The protocol of rules that open a TCP port to whatever is spoken there, names in it unseen.
const RAW: &str = "raw";

/// Addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Net {
    /// A range, perhaps of one.
    Range(IpNet),
    /// All of a kind.
    Zone(Zone),
}

impl Net {
    /// Whether the address, which is of this kind, is one of them.
    #[must_use]
    pub fn contains(&self, address: IpAddr, zone: Zone) -> bool {
        match self {
            Net::Range(range) => range.contains(&canonical(address)),
            Net::Zone(kind) => *kind == zone,
        }
    }

    fn parse(text: &str) -> Option<Net> {
        if let Some(zone) = Zone::of_word(text) {
            return Some(Net::Zone(zone));
        }
        let range = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))?;
        // A range that is merely written as IPv6 is one of IPv4.
        let mapped = match range.addr() {
            IpAddr::V6(address) => address.to_ipv4_mapped().zip(range.prefix_len().checked_sub(96)),
            IpAddr::V4(_) => None,
        };
        let range =
            mapped.and_then(|(address, length)| IpNet::new(address.into(), length).ok()).unwrap_or(range);
        Some(Net::Range(range.trunc()))
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Net::Zone(zone) => f.write_str(zone.as_str()),
            Net::Range(range) if range.prefix_len() == range.max_prefix_len() => {
                write!(f, "{}", range.addr())
            }
            Net::Range(range) => write!(f, "{range}"),
        }
    }
}

/// What a rule is about. What is absent matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pattern {
    /// The other end's name.
    pub name: Option<NamePattern>,
    /// Its address.
    pub net: Option<Net>,
    /// Its ports, first and last.
    pub ports: Option<(u16, u16)>,
    /// What is spoken.
    pub protocol: Option<Protocol>,
    /// Whether its TCP connections pass as they are, whatever is spoken on them.
    pub raw: bool,
}

impl Pattern {
    /// Whether port and protocol fit.
    pub(crate) fn fits(&self, protocol: Protocol, port: u16) -> bool {
        // An echo has no port: a rule about ports says nothing about it.
        let port_fits = match self.ports {
            None => true,
            Some((first, last)) => protocol != Protocol::Icmp && (first..=last).contains(&port),
        };
        port_fits && self.protocol.is_none_or(|wanted| wanted == protocol)
    }

    pub(crate) fn fits_net(&self, address: IpAddr, zone: Zone) -> bool {
        self.net.as_ref().is_none_or(|net| net.contains(address, zone))
    }

    pub(crate) fn fits_name<'a>(&self, mut names: impl Iterator<Item = &'a Name>) -> bool {
        self.name.as_ref().is_none_or(|pattern| names.any(|name| pattern.matches(name)))
    }
}

/// Splits what follows the last colon off, unless the colon belongs to an IPv6 address.
fn split_ports(text: &str) -> Result<(&str, Option<&str>), SyntaxError> {
    let wrong = || SyntaxError(format!("{text:?}: write IPv6 addresses with ports as [ADDRESS]:PORT"));
    if let Some(at) = text.find('[') {
        let end = text.find(']').filter(|end| *end > at).ok_or_else(wrong)?;
        let rest = text.get(end + 1..).unwrap_or_default();
        return match (rest, rest.strip_prefix(':')) {
            ("", _) => Ok((text, None)),
            (_, Some(ports)) => Ok((text.get(..=end).unwrap_or_default(), Some(ports))),
            _ => Err(wrong()),
        };
    }
    match text.matches(':').count() {
        0 => Ok((text, None)),
        1 => text.split_once(':').map(|(what, ports)| (what, Some(ports))).ok_or_else(wrong),
        _ => Ok((text, None)),
    }
}

fn parse_ports(text: &str) -> Result<(u16, u16), SyntaxError> {
    let number =
        |text: &str| text.parse::<u16>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last && first > 0 => Ok((first, last)),
        _ => Err(SyntaxError(format!("{text:?}: expected a port or FIRST-LAST"))),
    }
}

impl FromStr for Pattern {
    type Err = SyntaxError;

    fn from_str(text: &str) -> Result<Pattern, SyntaxError> {
        let text = text.to_ascii_lowercase();
        let (rest, protocol, raw) = match text.rsplit_once('/') {
            Some((rest, RAW)) => (rest, Some(Protocol::Tcp), true),
            Some((rest, word)) if Protocol::of(word).is_some() => (rest, Protocol::of(word), false),
            _ => (text.as_str(), None, false),
        };
        let (what, ports) = split_ports(rest)?;
        let ports = ports.map(parse_ports).transpose()?;
        if raw && ports.is_none() {
            return Err(SyntaxError(format!("{text:?}: /raw takes a port: WHAT:PORT/raw")));
        }
        let unbracketed = |text: &str| -> String { text.replace(['[', ']'], "") };
        let range = |text: &str| {
            let found = Net::parse(&unbracketed(text));
            found.ok_or_else(|| {
                SyntaxError(format!("{text:?} is no address, no range and no kind of addresses"))
            })
        };
        // A last dot makes a name of nothing: `private.` and `8.` are what they are without it.
        let bare = what.strip_suffix('.').unwrap_or(what);
        let (name, net) = match what.split_once('@') {
            Some((name, net)) => (Some(NamePattern::new(name)?), Some(range(net)?)),
            None if bare == "any" || bare == "*" => (None, None),
            None => match Net::parse(&unbracketed(bare)) {
                Some(net) => (None, Some(net)),
                // What looks like an address and is none is no name either.
                None if what.contains(['/', '[', ':']) || looks_numeric(bare) => {
                    return range(what).map(|_| Pattern::default());
                }
                None => (Some(NamePattern::new(what)?), None),
            },
        };
        Ok(Pattern { name, net, ports, protocol, raw })
    }
}

/// Whether the last part is a number, as in an address with a part too many.
fn looks_numeric(text: &str) -> bool {
    text.rsplit('.')
        .next()
        .is_some_and(|last| !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()))
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let net = self.net.map(|net| {
            let text = net.to_string();
            if self.ports.is_some() && text.contains(':') { format!("[{text}]") } else { text }
        });
        match (&self.name, net) {
            (None, None) => f.write_str("any")?,
            (Some(name), None) => write!(f, "{name}")?,
            (None, Some(net)) => f.write_str(&net)?,
            (Some(name), Some(net)) => write!(f, "{name}@{net}")?,
        }
        match self.ports {
            Some((first, last)) if first == last => write!(f, ":{first}")?,
            Some((first, last)) => write!(f, ":{first}-{last}")?,
            None => {}
        }
        match self.protocol {
            _ if self.raw => write!(f, "/{RAW}"),
            Some(protocol) => write!(f, "/{}", protocol.as_str()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_are_written_as_they_are_read() {
        for text in [
            "any",
            "any:53/udp",
            "api.example.com",
            "*.example.org:443",
            "10.0.0.0/8",
            "10.0.0.0/8:5432/tcp",
            "192.0.2.7:8000-8010",
            "2001:db8::/32",
            "[2001:db8::1]:443/tcp",
            "[2001:db8::/32]:443",
            "private",
            "metadata:80/tcp",
            "db.corp@10.0.0.0/8:5432",
            "db.corp@[fd00::/8]:5432",
            "any/icmp",
            "db.example.com:5432/raw",
            "*.example.org:9418-9419/raw",
            "db.corp@[fd00::/8]:5432/raw",
            "[2001:db8::1]:22/raw",
        ] {
            assert_eq!(text.parse::<Pattern>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in [
            "",
            "a b",
            "10.0.0.0/33",
            "1.2.3.4.5",
            "300.1.1.1",
            "x:0",
            "x:70000",
            "x:5-2",
            "x:+5",
            "[::1",
            "a@b",
            "http://x",
            "a/b",
            "8.",
            "*.8.",
            "a..",
            "a.example/raw",
            "a.example:22/raw/tcp",
            "10.0.0.0/8/raw",
        ] {
            assert!(text.parse::<Pattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn case_and_a_last_dot_change_no_meaning() {
        for (text, same) in
            [("ANY", "any"), ("any.", "any"), ("Private.", "private"), ("A.Example.", "a.example")]
        {
            assert_eq!(text.parse::<Pattern>().unwrap().to_string(), same);
            assert_eq!(text.parse::<Pattern>().unwrap(), same.parse().unwrap());
        }
    }

    #[test]
    fn a_mapped_range_is_the_range_it_stands_for() {
        let pattern: Pattern = "::ffff:10.0.0.0/104".parse().unwrap();
        assert_eq!(pattern.to_string(), "10.0.0.0/8");
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics_and_what_is_read_reads_again(
            text in "([a-zA-Z0-9.:/@*\\[\\]-]|any|Private|::|[0-9]{1,3}|/udp|/raw|:22/raw|\\*\\.|@){0,12}"
        ) {
            if let Ok(pattern) = text.parse::<Pattern>() {
                prop_assert_eq!(pattern.to_string().parse::<Pattern>().unwrap(), pattern);
            }
        }
    }
}
