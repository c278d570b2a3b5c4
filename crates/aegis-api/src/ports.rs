//! Ports: what `--expose` says, and what the API says of it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;

/// Most ports in one range.
pub const LONGEST_RANGE: usize = 256;

/// What is spoken on a port. It decides how a connection that cannot be served at once is dealt with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1.1, or HTTP/2 without TLS.
    #[default]
    Http,
    /// Anything.
    Tcp,
    /// gRPC: HTTP/2 without TLS.
    Grpc,
    /// WebSocket, or HTTP.
    Ws,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Protocol; 4] = [Protocol::Http, Protocol::Tcp, Protocol::Grpc, Protocol::Ws];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Http => "http",
            Protocol::Tcp => "tcp",
            Protocol::Grpc => "grpc",
            Protocol::Ws => "ws",
        }
    }

    /// Whether the name router serves it.
    #[must_use]
    pub fn is_http(self) -> bool {
        self != Protocol::Tcp
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

impl FromStr for Protocol {
    type Err = ExposeError;

    fn from_str(text: &str) -> Result<Protocol, ExposeError> {
        let found = Protocol::ALL.into_iter().find(|protocol| protocol.as_str() == text);
        found.ok_or_else(|| ExposeError::Protocol(text.to_owned()))
    }
}

/// A port of the guest that is to be reachable from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Expose {
    /// Port in the guest, 1 to 65535.
    pub guest_port: u16,
    /// Port on the host; absent for one that is chosen, and kept for the instance's life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_port: Option<u16>,
    /// Address on the host; default 127.0.0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
    /// What is spoken there; default http.
    #[serde(default)]
    pub protocol: Protocol,
}

impl Expose {
    /// The address on the host.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }
}

/// Body of `POST /v1/instances/{id}/expose`: all of them or none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExposeRequest {
    /// The ports.
    pub exposes: Vec<Expose>,
}

/// A port that is reachable from the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EndpointInfo {
    /// Port in the guest.
    pub guest_port: u16,
    /// Port on the host.
    pub public_port: u16,
    /// Address on the host.
    pub address: String,
    /// `http`, `tcp`, `grpc` or `ws`.
    pub protocol: String,
    /// Why nothing listens there now, if that is so: the instance is disabled, or the port was taken meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl EndpointInfo {
    /// Address and port as one writes them.
    #[must_use]
    pub fn socket(&self) -> String {
        if self.address.contains(':') {
            format!("[{}]:{}", self.address, self.public_port)
        } else {
            format!("{}:{}", self.address, self.public_port)
        }
    }
}

/// Why a text names no ports.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ExposeError {
    /// It has another form.
    #[error("expected [[ADDRESS:]PUBLIC:]GUEST[/PROTOCOL], e.g. 80, 8080:80 or 127.0.0.1:5432:5432/tcp")]
    Form,
    /// The protocol stands where a port belongs.
    #[error("the protocol follows a slash: {0}")]
    Hint(String),
    /// There is no such protocol.
    #[error("{0:?} is no protocol; there are http, tcp, grpc, ws")]
    Protocol(String),
    /// A number out of range.
    #[error("{0:?} is no port; ports are 1 to 65535")]
    Port(String),
    /// A range that runs backwards or is too long.
    #[error("{0:?} is no range of 1 to {LONGEST_RANGE} ports")]
    Range(String),
    /// Two ranges that differ in length.
    #[error("the ranges {0} and {1} differ in length")]
    Lengths(String, String),
    /// No address.
    #[error("{0:?} is no address; an IPv6 address stands in brackets")]
    Address(String),
}

/// Parses what `--expose` takes: `[[ADDRESS:]PUBLIC:]GUEST[/PROTOCOL]`, where both ports may be ranges of the same
/// length.
///
/// # Errors
/// [`ExposeError`].
pub fn parse(text: &str) -> Result<Vec<Expose>, ExposeError> {
    let (ports, protocol) = match text.split_once('/') {
        Some((ports, word)) => (ports, word.parse()?),
        None => (text, Protocol::default()),
    };
    let (address, ports) = split_address(ports)?;
    let (public, guest) = match ports.split_once(':') {
        None => ("", ports),
        Some((public, guest)) => (public, guest),
    };
    if let Ok(word) = guest.parse::<Protocol>() {
        return Err(ExposeError::Hint(format!("{public}/{word}")));
    }
    if guest.contains(':') {
        return Err(ExposeError::Form);
    }
    let guests = range(guest)?;
    let publics = if public.is_empty() { None } else { Some(range(public)?) };
    if publics.as_ref().is_some_and(|publics| publics.len() != guests.len()) {
        return Err(ExposeError::Lengths(public.to_owned(), guest.to_owned()));
    }
    let first = publics.map(|publics| *publics.start());
    let expose = |(step, guest_port): (u16, u16)| Expose {
        guest_port,
        public_port: first.map(|first| first + step),
        address,
        protocol,
    };
    Ok((0..).zip(guests).map(expose).collect())
}

/// Cuts off an address: what stands before the last two parts, or before a single port in `ADDRESS::GUEST`.
fn split_address(ports: &str) -> Result<(Option<IpAddr>, &str), ExposeError> {
    let bad = |text: &str| ExposeError::Address(text.to_owned());
    if let Some(rest) = ports.strip_prefix('[') {
        let (address, rest) = rest.split_once("]:").ok_or_else(|| bad(ports))?;
        let address = address.parse().map(IpAddr::V6).map_err(|_| bad(address))?;
        return if rest.contains(':') { Ok((Some(address), rest)) } else { Err(ExposeError::Form) };
    }
    match ports.split_once(':') {
        Some((address, rest)) if rest.contains(':') => {
            let address = address.parse().map(IpAddr::V4).map_err(|_| bad(address))?;
            Ok((Some(address), rest))
        }
        _ => Ok((None, ports)),
    }
}

fn range(text: &str) -> Result<RangeInclusive<u16>, ExposeError> {
    let port = |text: &str| match text.parse::<u16>() {
        Ok(port) if port > 0 && !text.starts_with('+') => Ok(port),
        _ if text.is_empty() => Err(ExposeError::Form),
        _ => Err(ExposeError::Port(text.to_owned())),
    };
    match text.split_once('-') {
        None => port(text).map(|port| port..=port),
        Some((first, last)) => {
            let range = port(first)?..=port(last)?;
            let fits = !range.is_empty() && range.len() <= LONGEST_RANGE;
            if fits { Ok(range) } else { Err(ExposeError::Range(text.to_owned())) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(guest_port: u16, public_port: Option<u16>, protocol: Protocol) -> Vec<Expose> {
        vec![Expose { guest_port, public_port, address: None, protocol }]
    }

    #[test]
    fn every_form_is_understood() {
        assert_eq!(parse("80"), Ok(one(80, None, Protocol::Http)));
        assert_eq!(parse("8080:80"), Ok(one(80, Some(8080), Protocol::Http)));
        assert_eq!(parse("5432/tcp"), Ok(one(5432, None, Protocol::Tcp)));
        assert_eq!(parse("9000:9001/grpc"), Ok(one(9001, Some(9000), Protocol::Grpc)));
        let anywhere = parse("0.0.0.0:8080:80/ws").unwrap();
        assert_eq!(anywhere[0].address(), IpAddr::from([0, 0, 0, 0]));
        assert_eq!((anywhere[0].public_port, anywhere[0].protocol), (Some(8080), Protocol::Ws));
        assert_eq!(parse("[::1]:8080:80").unwrap()[0].address().to_string(), "::1");
        assert_eq!(parse("127.0.0.1::80").unwrap()[0].public_port, None);
        let range = parse("8000-8010:9000-9010/tcp").unwrap();
        assert_eq!(range.len(), 11);
        assert_eq!((range[10].public_port, range[10].guest_port), (Some(8010), 9010));
        assert!(parse("9000-9002").unwrap().iter().all(|expose| expose.public_port.is_none()));
    }

    #[test]
    fn every_mistake_has_its_own_answer() {
        assert_eq!(parse("80:http"), Err(ExposeError::Hint("80/http".into())));
        assert_eq!(parse("80/udp"), Err(ExposeError::Protocol("udp".into())));
        for bad in ["0", "65536", "-1", "80x", "8080:0", "+80"] {
            assert!(matches!(parse(bad), Err(ExposeError::Port(_) | ExposeError::Form)), "{bad}");
        }
        assert_eq!(parse("10-9"), Err(ExposeError::Range("10-9".into())));
        assert_eq!(parse("1-60000"), Err(ExposeError::Range("1-60000".into())));
        assert_eq!(parse("1-2:1-3"), Err(ExposeError::Lengths("1-2".into(), "1-3".into())));
        assert!(matches!(parse("host:80:80"), Err(ExposeError::Address(_))));
        for bad in ["", ":", "/tcp", "80:", "[::1]:80"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "[0-9a-z:/.\\[\\]-]{0,30}") {
            drop(parse(&text));
        }

        #[test]
        fn what_is_parsed_is_what_was_written(guest in 1u16.., public in proptest::option::of(1u16..), pick in 0usize..4) {
            let protocol = Protocol::ALL[pick];
            let text = public.map_or(format!("{guest}/{protocol}"), |public| format!("{public}:{guest}/{protocol}"));
            prop_assert_eq!(parse(&text), Ok(one(guest, public, protocol)));
        }
    }
}
