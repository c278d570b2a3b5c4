//! The head of a request (RFC 9112, 3 and 5), read more strictly than servers do: what one of them might understand in
//! another way is none.

use std::net::{IpAddr, Ipv6Addr};

use aegis_policy::Name;

use super::framing::{self, Framing, content_length, is_critical};
use crate::inspect::claim::{Claim, Refusal};

/// Longest method.
const MOST_METHOD: usize = 24;
/// The only other protocol that a request may change to: its bytes belong to the request's own host.
const WEBSOCKET: &str = "websocket";

/// What a request wants besides an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UpgradeRequest {
    /// Nothing.
    Plain,
    /// An answer without its body.
    HeadOnly,
    /// To speak something else from here on.
    Upgrade,
    /// A tunnel to another place.
    Tunnel,
}

/// What matters of a request.
#[derive(Debug)]
pub(super) struct Head {
    /// The names that it gives; an address is none.
    pub(super) claims: Vec<Claim>,
    pub(super) upgrade_request: UpgradeRequest,
    pub(super) body: Framing,
}

/// A request's first line.
struct Line<'a> {
    method: &'a str,
    target: &'a str,
    is_old: bool,
}

/// Whether these bytes may be the beginning of a request's first line.
pub(super) fn may_begin(bytes: &[u8]) -> bool {
    let end = bytes.iter().position(|byte| !is_method(*byte)).unwrap_or(bytes.len());
    let (method, rest) = bytes.split_at_checked(end).unwrap_or((bytes, &[]));
    let legal = |byte: &u8| (b' '..=b'~').contains(byte);
    let rest = rest.strip_suffix(b"\n").unwrap_or(rest);
    let rest = rest.strip_suffix(b"\r").unwrap_or(rest);
    method.len() <= MOST_METHOD
        && bytes.first().is_none_or(u8::is_ascii_uppercase)
        && rest.first().is_none_or(|byte| *byte == b' ')
        && rest.iter().all(legal)
}

fn is_method(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte == b'-'
}

fn first_line(line: &[u8]) -> Result<Line<'_>, Refusal> {
    let text = std::str::from_utf8(line).ok().filter(|_| may_begin(line)).ok_or(Refusal::Unrecognised)?;
    let mut words = text.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Refusal::Unrecognised);
    };
    let is_old = match version {
        "HTTP/1.1" => false,
        "HTTP/1.0" => true,
        "HTTP/2.0" => return Err(Refusal::Malformed("HTTP/2 that does not begin as such")),
        _ => return Err(Refusal::Unrecognised),
    };
    if method.is_empty() || target.is_empty() {
        Err(Refusal::Unrecognised)
    } else {
        Ok(Line { method, target, is_old })
    }
}

/// Refuses what cannot be a first line.
pub(super) fn check_first_line(line: &[u8]) -> Result<(), Refusal> {
    first_line(line).map(drop)
}

/// The name in `HOST[:PORT]`; an address is none. Nothing stands around it or in it.
pub(crate) fn host(text: &str) -> Option<Claim> {
    let is_port =
        |port: &str| (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']')?;
        let legal = rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port);
        return address.parse::<Ipv6Addr>().ok().filter(|_| legal).map(|_| None);
    }
    let name = match text.split_once(':') {
        Some((name, port)) => Some(name).filter(|_| is_port(port))?,
        None => text,
    };
    if name.parse::<IpAddr>().is_ok() {
        return Some(None);
    }
    Name::new(name).ok().map(Some)
}

/// The host in a request's target (RFC 9112, 3.2), where it has one.
fn target_host(line: &Line<'_>) -> Option<Option<Claim>> {
    let Line { method, target, .. } = line;
    match *method {
        "CONNECT" => return target.contains(':').then(|| host(target)).flatten().map(Some),
        "OPTIONS" if *target == "*" => return Some(None),
        _ if target.contains('#') => return None,
        _ if target.starts_with('/') => return Some(None),
        _ => {}
    }
    let (scheme, rest) = target.split_once("://")?;
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let is_web = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    Some(authority).filter(|authority| is_web && !authority.is_empty()).and_then(host).map(Some)
}

/// What the headers of a request say.
#[derive(Default)]
struct Fields {
    host: Option<Claim>,
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
}

impl Fields {
    fn take(&mut self, line: &[u8]) -> Result<(), &'static str> {
        let (name, value) = framing::field(line)?;
        match name.as_str() {
            "host" => {
                let host = match value.trim_start_matches(' ') {
                    "" => None,
                    text => host(text).ok_or("a malformed Host")?,
                };
                if self.host.replace(host).is_some() {
                    return Err("two hosts");
                }
            }
            "content-length" => {
                let length = content_length(value).ok_or("a malformed Content-Length")?;
                if self.length.replace(length).is_some() {
                    return Err("two lengths");
                }
            }
            "transfer-encoding" => {
                if self.chunked || !value.trim_matches(' ').eq_ignore_ascii_case("chunked") {
                    return Err("a transfer encoding other than chunked");
                }
                self.chunked = true;
            }
            "upgrade" => {
                if self.upgrade || !value.trim_matches(' ').eq_ignore_ascii_case(WEBSOCKET) {
                    return Err("an upgrade to something whose names are not followed");
                }
                self.upgrade = true;
            }
            "http2-settings" => return Err("an upgrade to something whose names are not followed"),
            // Whoever passes it on takes these headers off.
            "connection" => {
                let mut named = value.split(',').map(|word| word.trim().to_ascii_lowercase());
                if named.any(|word| word != "upgrade" && is_critical(&word)) {
                    return Err("a Connection that takes the host or the length away");
                }
            }
            // Servers that hand headers on as variables take one for the other.
            other if other.contains('_') && is_critical(&other.replace('_', "-")) => {
                return Err("a header that may be taken for another");
            }
            _ => {}
        }
        Ok(())
    }
}

/// Reads a head, its empty line included.
pub(super) fn read(bytes: &[u8]) -> Result<Head, Refusal> {
    let malformed = Refusal::Malformed;
    let mut rest = bytes;
    let mut next = || -> Result<&[u8], Refusal> {
        let (line, length) = framing::line(rest).map_err(malformed)?.unwrap_or_default();
        rest = rest.get(length..).unwrap_or_default();
        Ok(line)
    };
    let line = first_line(next()?)?;
    let mut fields = Fields::default();
    loop {
        let field = next()?;
        if field.is_empty() {
            break;
        }
        fields.take(field).map_err(malformed)?;
    }
    let target = target_host(&line).ok_or(malformed("a target that is none of HTTP/1"))?;
    whole(&line, fields, target).map_err(malformed)
}

/// Puts together what belongs together.
fn whole(line: &Line<'_>, fields: Fields, target: Option<Claim>) -> Result<Head, &'static str> {
    let Fields { host, length, chunked, upgrade } = fields;
    let body = match (length, chunked) {
        (Some(_), true) => return Err("a length and chunks"),
        (None, true) if line.is_old => return Err("chunks in HTTP/1.0"),
        (None, true) => Framing::ChunkSize,
        (length, false) => Framing::Length(length.unwrap_or(0)),
    };
    let upgrade_request = match line.method {
        "CONNECT" => UpgradeRequest::Tunnel,
        _ if upgrade => UpgradeRequest::Upgrade,
        "HEAD" => UpgradeRequest::HeadOnly,
        _ => UpgradeRequest::Plain,
    };
    // Some servers do not expect one, and take it for the next request (RFC 9110, 9.3.1).
    let bodiless =
        matches!(line.method, "GET" | "HEAD" | "TRACE") || upgrade_request != UpgradeRequest::Plain;
    if bodiless && body != Framing::NOTHING {
        return Err("a body where servers expect none");
    }
    if upgrade_request == UpgradeRequest::Upgrade && (line.is_old || line.method != "GET") {
        return Err("an upgrade that is none of HTTP/1.1");
    }
    if host.is_none() && target.is_some() && !line.is_old {
        return Err("HTTP/1.1 without a Host");
    }
    let mut claims: Vec<Claim> = host.into_iter().chain(target).collect();
    if claims.is_empty() {
        claims.push(None);
    }
    Ok(Head { claims, upgrade_request, body })
}
