//! The fields of a request of HTTP/2 (RFC 9113, 8.2 and 8.3), read more strictly than servers do.

use super::super::http::{content_length, host, is_critical};
use crate::inspect::claim::Claim;

/// Most bytes of fields; a short block may stand for many.
const MOST_BYTES: usize = 256 << 10;
/// Fields that belong to a connection of HTTP/1 (RFC 9113, 8.2.2).
const OF_CONNECTIONS: [&str; 6] =
    ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "http2-settings"];

/// What these fields are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// A request of this host, with a body of this length.
    Request { claim: Claim, length: Option<u64> },
    /// What comes after a body.
    Trailers,
}

/// The fields of one request.
#[derive(Debug, Default)]
pub(super) struct Fields {
    method: Option<String>,
    scheme: Option<String>,
    path: Option<String>,
    authority: Option<Claim>,
    host: Option<Claim>,
    length: Option<u64>,
    has_others: bool,
    bytes: usize,
    wrong: Option<&'static str>,
}

fn put<T>(place: &mut Option<T>, value: T) -> Result<(), &'static str> {
    if place.replace(value).is_some() { Err("a field of HTTP/2 that is there twice") } else { Ok(()) }
}

impl Fields {
    /// Takes a field. What is wrong with it is told at the end.
    pub(super) fn take(&mut self, name: &[u8], value: &[u8]) {
        self.bytes = self.bytes.saturating_add(name.len() + value.len());
        let taken = if self.bytes > MOST_BYTES { Err("too many fields") } else { self.field(name, value) };
        if let Err(wrong) = taken {
            self.wrong.get_or_insert(wrong);
        }
    }

    fn field(&mut self, name: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let legal = |byte: &u8| !matches!(byte, b'\0' | b'\r' | b'\n');
        let spaced = value.first().is_some_and(u8::is_ascii_whitespace)
            || value.last().is_some_and(u8::is_ascii_whitespace);
        if !value.iter().all(legal) || spaced {
            return Err("a value of HTTP/2 with what no value has");
        }
        let Some(pseudo) = name.strip_prefix(b":") else {
            self.has_others = true;
            return self.other(name, value);
        };
        if self.has_others {
            return Err("a field of HTTP/2 in the wrong place");
        }
        let text = std::str::from_utf8(value).map_err(|_| "a field of HTTP/2 that is no text")?;
        match pseudo {
            b"method" => put(&mut self.method, text.to_owned()),
            b"scheme" => put(&mut self.scheme, text.to_owned()),
            b"path" => put(&mut self.path, text.to_owned()),
            b"authority" => put(&mut self.authority, host(text).ok_or("a malformed :authority")?),
            _ => Err("a field of HTTP/2 that is unknown"),
        }
    }

    fn other(&mut self, name: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let is_token = |byte: &u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(byte)
        };
        let name = std::str::from_utf8(name).ok().filter(|_| !name.is_empty() && name.iter().all(is_token));
        let name = name.ok_or("a name of HTTP/2 that is none")?;
        let text = || std::str::from_utf8(value).map_err(|_| "a field of HTTP/2 that is no text");
        match name {
            "host" => put(&mut self.host, host(text()?).ok_or("a malformed Host")?),
            "content-length" => {
                put(&mut self.length, content_length(text()?).ok_or("a malformed Content-Length")?)
            }
            name if OF_CONNECTIONS.contains(&name) => Err("a field of HTTP/1 in HTTP/2"),
            // Servers that hand fields on as variables take one for the other.
            name if name.contains('_') && is_critical(&name.replace('_', "-")) => {
                Err("a field that may be taken for another")
            }
            _ => Ok(()),
        }
    }

    /// Puts together what belongs together.
    pub(super) fn whole(self) -> Result<Message, &'static str> {
        if let Some(wrong) = self.wrong {
            return Err(wrong);
        }
        let Fields { method, scheme, path, authority, host, length, .. } = self;
        let (Some(method), Some(scheme), Some(path)) = (&method, &scheme, &path) else {
            let nothing = method.is_none() && scheme.is_none() && path.is_none() && authority.is_none();
            return if nothing && host.is_none() && length.is_none() {
                Ok(Message::Trailers)
            } else {
                Err("a request of HTTP/2 that is not whole")
            };
        };
        if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-') {
            return Err("a method of HTTP/2 that is none");
        }
        if method == "CONNECT" {
            return Err("a tunnel in HTTP/2");
        }
        if !matches!(scheme.as_str(), "http" | "https") {
            return Err("a scheme that is none of the web");
        }
        let plain = |byte: u8| (b'!'..=b'~').contains(&byte) && byte != b'#';
        let is_path = path.starts_with('/') && path.bytes().all(plain);
        let is_all = method == "OPTIONS" && path == "*";
        if !is_path && !is_all {
            return Err("a target that is none of HTTP/2");
        }
        let claim = match (authority, host) {
            (Some(one), Some(other)) if one != other => return Err("two hosts"),
            (Some(claim), _) | (None, Some(claim)) => claim,
            (None, None) => None,
        };
        Ok(Message::Request { claim, length })
    }
}
