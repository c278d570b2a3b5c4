//! HTTP/2 without TLS, by prior knowledge (RFC 9113): the authority of each request.
//!
//! A server that does not speak it may take what comes after the preface for requests of HTTP/1. So nothing but the preface
//! passes before the server has begun with its settings, as every server of HTTP/2 does. From then on frames pass as they
//! come, and the fields of a request as soon as they are whole and judged.

mod fields;
mod frames;

use std::collections::HashMap;
use std::fmt;

use fields::{Fields, Message};
use frames::{HEADER, Header, Kind, settings_begin};
use loona_hpack::Decoder;

use super::claim::{Claim, Refusal, Wait, pass_on};

/// What a client says first (RFC 9113, 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Largest table of fields that a server may allow, bytes. Most stay with 4096.
const MOST_TABLE: usize = 64 << 10;
/// Most frames that the fields of one request come in.
const MOST_CONTINUATIONS: usize = 16;
/// Most requests whose bodies have a length that is not there yet.
const MOST_BODIES: usize = 4096;
/// Most bytes that wait for the server's settings: a client may send that much before it has them.
pub(super) const MOST_EARLY: usize = 256 << 10;

const NO_SERVER: Refusal = Refusal::Malformed("HTTP/2 to a server that does not speak it");

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Preface,
    /// The server's settings.
    Settings,
    Frame,
    /// So many bytes of a frame that has been judged.
    Payload(usize),
    /// The server has said something else.
    NoServer,
}

/// The requests of a connection.
pub(super) struct Streams {
    next: Next,
    /// What the server has said, as long as that is too little to tell.
    said: Vec<u8>,
    decoder: Decoder<'static>,
    /// The latest stream. Later ones have higher numbers (RFC 9113, 5.1.1).
    latest: u32,
    /// What is missing of bodies whose length was given.
    bodies: HashMap<u32, u64>,
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams").field("next", &self.next).finish_non_exhaustive()
    }
}

impl Streams {
    /// A connection that begins with the preface, to a server that has said this before.
    pub(super) fn new(greeting: &[u8]) -> Streams {
        let mut decoder = Decoder::new();
        decoder.set_max_allowed_table_size(MOST_TABLE);
        Streams { next: Next::Preface, said: greeting.to_vec(), decoder, latest: 0, bodies: HashMap::new() }
    }

    /// Lets pass what may. What stays in `held` waits for more.
    pub(super) fn advance(
        &mut self,
        held: &mut Vec<u8>,
        pass: &mut Vec<u8>,
        approve: &mut dyn FnMut(Claim) -> bool,
    ) -> Result<(), Refusal> {
        pass_on(held, pass, |rest| self.step(rest, approve))
    }

    /// How many bytes may pass; `None` if more are needed to tell.
    fn step(
        &mut self,
        rest: &[u8],
        approve: &mut dyn FnMut(Claim) -> bool,
    ) -> Result<Option<usize>, Refusal> {
        match self.next {
            Next::Preface => {
                // Whoever made this has seen that it is one.
                self.next = Next::Settings;
                self.answered(&[]);
                Ok(Some(PREFACE.len()))
            }
            Next::Settings => Ok(None),
            Next::NoServer => Err(NO_SERVER),
            Next::Payload(left) => {
                let count = left.min(rest.len());
                self.next = if count == left { Next::Frame } else { Next::Payload(left - count) };
                Ok(Some(count))
            }
            Next::Frame => self.frame(rest, approve),
        }
    }

    fn frame(
        &mut self,
        rest: &[u8],
        approve: &mut dyn FnMut(Claim) -> bool,
    ) -> Result<Option<usize>, Refusal> {
        let Some(header) = Header::parse(rest) else { return Ok(None) };
        match header.kind().map_err(Refusal::Malformed)? {
            Kind::Headers => return self.request(&header, rest, approve),
            Kind::Data => {
                let Some(length) = header.content_length(rest).map_err(Refusal::Malformed)? else {
                    return Ok(None);
                };
                self.body(&header, length).map_err(Refusal::Malformed)?;
            }
            Kind::Reset => drop(self.bodies.remove(&header.stream)),
            Kind::Control => {}
        }
        self.next = Next::Payload(header.length);
        // The header of the frame, and then what there is of the rest.
        if header.length == 0 {
            self.next = Next::Frame;
        }
        Ok(Some(HEADER))
    }

    /// The fields of a request, or those at its end.
    fn request(
        &mut self,
        header: &Header,
        rest: &[u8],
        approve: &mut dyn FnMut(Claim) -> bool,
    ) -> Result<Option<usize>, Refusal> {
        let block = frames::block(header, rest, MOST_CONTINUATIONS).map_err(Refusal::Malformed)?;
        let Some((fragments, length)) = block else { return Ok(None) };
        let mut fields = Fields::default();
        let decoded = self.decoder.decode_with_cb(&fragments, |name, value| fields.take(&name, &value));
        decoded.map_err(|_| Refusal::Malformed("fields of HTTP/2 that cannot be read"))?;
        match fields.whole().map_err(Refusal::Malformed)? {
            Message::Request { claim, .. } if !approve(claim.clone()) => return Err(Refusal::Judged),
            Message::Request { length, .. } => {
                self.begin(header, length).map_err(Refusal::Malformed)?;
            }
            Message::Trailers if header.ends_stream() && header.stream <= self.latest => {
                self.end(header.stream).map_err(Refusal::Malformed)?;
            }
            Message::Trailers => return Err(Refusal::Malformed("a request of HTTP/2 without a method")),
        }
        Ok(Some(length))
    }

    fn begin(&mut self, header: &Header, length: Option<u64>) -> Result<(), &'static str> {
        if header.stream <= self.latest {
            return Err("two requests in one stream");
        }
        self.latest = header.stream;
        match length {
            None | Some(0) => Ok(()),
            Some(_) if header.ends_stream() => Err("a body that is missing"),
            Some(_) if self.bodies.len() >= MOST_BODIES => Err("too many requests under way"),
            Some(length) => {
                self.bodies.insert(header.stream, length);
                Ok(())
            }
        }
    }

    fn body(&mut self, header: &Header, length: u64) -> Result<(), &'static str> {
        if let Some(left) = self.bodies.get_mut(&header.stream) {
            *left = left.checked_sub(length).ok_or("a body that is longer than its length")?;
        }
        if header.ends_stream() { self.end(header.stream) } else { Ok(()) }
    }

    fn end(&mut self, stream: u32) -> Result<(), &'static str> {
        match self.bodies.remove(&stream) {
            None | Some(0) => Ok(()),
            Some(_) => Err("a body that is shorter than its length"),
        }
    }

    /// Takes note of what the server says: it has to begin with its settings.
    pub(super) fn answered(&mut self, bytes: &[u8]) {
        if self.next != Next::Settings {
            return;
        }
        let room = HEADER.saturating_sub(self.said.len()).min(bytes.len());
        self.said.extend_from_slice(bytes.get(..room).unwrap_or_default());
        self.next = match settings_begin(&self.said) {
            None => return,
            Some(true) => Next::Frame,
            Some(false) => Next::NoServer,
        };
    }

    /// Most bytes that may be held.
    pub(super) fn most_held(&self) -> usize {
        match self.next {
            Next::Settings => MOST_EARLY,
            _ => super::claim::MOST_HELD,
        }
    }

    /// What is waited for, where bytes are held.
    pub(super) fn waits_for(&self) -> Option<Wait> {
        match self.next {
            Next::Preface | Next::Payload(_) | Next::NoServer => None,
            // A server that says nothing has its own patience; one that never speaks HTTP/2 is not waited for as long.
            Next::Settings | Next::Frame => Some(Wait::Name),
        }
    }
}

#[cfg(test)]
mod tests;
