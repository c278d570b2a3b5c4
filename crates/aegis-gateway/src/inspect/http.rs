//! Requests of HTTP/1, one after the other (RFC 9112). Only their heads and lengths are understood.

use std::net::IpAddr;

use aegis_policy::Name;

use super::{Claim, MOST_HELD, Refusal};

/// Most headers of a request.
const MOST_HEADERS: usize = 128;
/// Longest line that gives a chunk's size.
const MOST_CHUNK_LINE: usize = 4096;

/// What follows.
#[derive(Debug, Default, PartialEq, Eq)]
enum Next {
    /// A request's head.
    #[default]
    Head,
    /// So many bytes of a body.
    Body(u64),
    /// The size of a chunk.
    ChunkSize,
    /// So many bytes of a chunk, its line end included.
    Chunk(u64),
    /// Lines after the last chunk, until an empty one.
    Trailer,
    /// What the server makes of a wish to speak something else.
    Answer,
}

/// The requests of a connection.
#[derive(Debug, Default)]
pub(super) struct Requests {
    next: Next,
    /// After the body that follows, an answer decides: one with a status that begins so is agreement.
    switching: Option<&'static [u8]>,
}

struct Head {
    length: usize,
    claims: Vec<Claim>,
    body: Next,
    switching: Option<&'static [u8]>,
}

impl Requests {
    /// Lets pass what may. What stays in `held` waits for more.
    pub(super) fn advance(
        &mut self,
        held: &mut Vec<u8>,
        pass: &mut Vec<u8>,
        approve: &mut dyn FnMut(Claim) -> bool,
    ) -> Result<(), Refusal> {
        let mut at = 0;
        loop {
            let rest = held.get(at..).unwrap_or_default();
            let count = match self.step(rest, approve)? {
                Some(count) if count > 0 || self.next == Next::Head => count,
                _ => break,
            };
            pass.extend_from_slice(rest.get(..count).unwrap_or_default());
            at += count;
            if at >= held.len() {
                break;
            }
        }
        held.drain(..at.min(held.len()));
        Ok(())
    }

    /// How many bytes may pass; `None` if more are needed to tell.
    fn step(
        &mut self,
        rest: &[u8],
        approve: &mut dyn FnMut(Claim) -> bool,
    ) -> Result<Option<usize>, Refusal> {
        let available = rest.len() as u64;
        match self.next {
            Next::Answer => Ok(None),
            Next::Head => {
                let Some(head) = head(rest)? else { return Ok(None) };
                if !head.claims.into_iter().all(approve) {
                    return Err(Refusal::Judged);
                }
                self.switching = head.switching;
                self.next = head.body;
                self.settle();
                Ok(Some(head.length))
            }
            Next::Body(left) | Next::Chunk(left) => {
                let count = left.min(available);
                let is_chunk = matches!(self.next, Next::Chunk(_));
                self.next = match (left - count, is_chunk) {
                    (0, true) => Next::ChunkSize,
                    (left, true) => Next::Chunk(left),
                    (left, false) => Next::Body(left),
                };
                self.settle();
                Ok(Some(usize::try_from(count).unwrap_or(rest.len())))
            }
            Next::ChunkSize => {
                let Some(line) = line(rest)? else { return Ok(None) };
                let size = chunk_size(line)?;
                // The line end after its bytes belongs to it.
                self.next = if size == 0 { Next::Trailer } else { Next::Chunk(size + 2) };
                Ok(Some(line.len()))
            }
            Next::Trailer => {
                let Some(line) = line(rest)? else { return Ok(None) };
                if line == b"\r\n" {
                    self.next = Next::Body(0);
                    self.settle();
                }
                Ok(Some(line.len()))
            }
        }
    }

    /// After a body without anything left comes what comes after a request.
    fn settle(&mut self) {
        if self.next == Next::Body(0) {
            self.next = if self.switching.is_some() { Next::Answer } else { Next::Head };
        }
    }

    /// Takes note of an answer to a wish to speak something else. Returns whether it is granted.
    pub(super) fn answered(&mut self, bytes: &[u8]) -> bool {
        let status = bytes.strip_prefix(b"HTTP/1.1 ").or_else(|| bytes.strip_prefix(b"HTTP/1.0 "));
        let (Some(status), Some(granted)) = (status.filter(|_| self.next == Next::Answer), self.switching)
        else {
            return false;
        };
        if status.starts_with(granted) {
            return true;
        }
        if !status.starts_with(b"1") {
            self.next = Next::Head;
        }
        false
    }
}

/// A line with its end; bare line feeds are refused, because servers differ about them.
fn line(rest: &[u8]) -> Result<Option<&[u8]>, Refusal> {
    match rest.iter().position(|byte| *byte == b'\n') {
        None if rest.len() > MOST_CHUNK_LINE => Err(Refusal::Malformed("a chunk without a size")),
        None => Ok(None),
        Some(end) => {
            let line = rest.get(..=end).unwrap_or_default();
            if line.ends_with(b"\r\n") { Ok(Some(line)) } else { Err(Refusal::Malformed("a bare line feed")) }
        }
    }
}

fn chunk_size(line: &[u8]) -> Result<u64, Refusal> {
    match httparse::parse_chunk_size(line) {
        Ok(httparse::Status::Complete((_, size))) if size <= u64::MAX - 2 => Ok(size),
        _ => Err(Refusal::Malformed("a chunk without a size")),
    }
}

/// The name in `HOST[:PORT]`; an address is none.
fn host(text: &str) -> Result<Claim, Refusal> {
    let malformed = Refusal::Malformed("a malformed Host");
    let text = text.trim();
    if text.starts_with('[') || text.is_empty() {
        return Ok(None);
    }
    let name = match text.split_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        Some(_) => return Err(malformed),
        None => text,
    };
    if name.parse::<IpAddr>().is_ok() {
        return Ok(None);
    }
    Name::new(name).map(Some).map_err(|_| malformed)
}

/// The host in a request's target, where it has one.
fn target_host(method: &str, path: &str) -> Result<Option<Claim>, Refusal> {
    if method.eq_ignore_ascii_case("CONNECT") {
        return host(path).map(Some);
    }
    let Some((_, rest)) = path.split_once("://").filter(|_| !path.starts_with('/')) else { return Ok(None) };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let authority = authority.rsplit('@').next().unwrap_or_default();
    host(authority).map(Some)
}

fn head(rest: &[u8]) -> Result<Option<Head>, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(rest) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if rest.len() < MOST_HELD => return Ok(None),
        // HTTP/2 without TLS hides its names from here on.
        _ => return Err(Refusal::Malformed("no request of HTTP/1")),
    };
    let (method, path) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
    let mut hosts = Vec::new();
    let mut length_of_body: Option<u64> = None;
    let mut chunked = false;
    let mut switching: Option<&[u8]> = method.eq_ignore_ascii_case("CONNECT").then_some(b"2");
    for header in request.headers.iter() {
        let value =
            || std::str::from_utf8(header.value).map_err(|_| Refusal::Malformed("a header that is no text"));
        match header.name.to_ascii_lowercase().as_str() {
            "host" => hosts.push(host(value()?)?),
            "content-length" => {
                let text = value()?.trim();
                let number = text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
                let number = number.ok_or(Refusal::Malformed("a malformed Content-Length"))?;
                if length_of_body.replace(number).is_some_and(|before| before != number) {
                    return Err(Refusal::Malformed("two lengths"));
                }
            }
            "transfer-encoding" => {
                if chunked || !value()?.trim().eq_ignore_ascii_case("chunked") {
                    return Err(Refusal::Malformed("a transfer encoding other than chunked"));
                }
                chunked = true;
            }
            // HTTP/2 without TLS, once more.
            "upgrade" if value()?.to_ascii_lowercase().contains("h2c") => {
                return Err(Refusal::Malformed("no request of HTTP/1"));
            }
            "upgrade" => switching = Some(b"101"),
            _ => {}
        }
    }
    if hosts.len() > 1 {
        return Err(Refusal::Malformed("two hosts"));
    }
    if chunked && length_of_body.is_some() {
        return Err(Refusal::Malformed("a length and chunks"));
    }
    let body = if chunked { Next::ChunkSize } else { Next::Body(length_of_body.unwrap_or(0)) };
    let mut claims: Vec<Claim> = hosts;
    claims.extend(target_host(method, path)?);
    if claims.is_empty() {
        claims.push(None);
    }
    Ok(Some(Head { length, claims, body, switching }))
}
