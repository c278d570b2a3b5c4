//! What a connection calls the other end: the name in a TLS handshake, or the host of each HTTP/1 request.
//!
//! Bytes of the guest pass through here when a policy judges names. Nothing passes before the name that it belongs to
//! has been judged, and nothing passes that a server might understand in another way than this does.

mod http;
mod tls;

use aegis_policy::Name;
use http::Requests;

/// Most bytes that are held back until a name is known.
const MOST_HELD: usize = 64 << 10;
/// Longest first line of a request.
const MOST_LINE: usize = 8 << 10;

/// A name that the connection gives; `None` where one is expected, and missing or merely an address.
pub(crate) type Claim = Option<Name>;

/// Why a connection ends here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A claim was not approved.
    Judged,
    /// It is malformed, or means two things.
    Malformed(&'static str),
}

#[derive(Debug)]
enum State {
    /// What is spoken is not known yet.
    Begin,
    /// Requests, one after the other.
    Http(Requests),
    /// All that follows passes.
    Open,
}

/// One connection's bytes, on their way out.
#[derive(Debug)]
pub(crate) struct Inspector {
    state: State,
    held: Vec<u8>,
}

/// What the first bytes are.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Tls,
    Http,
    Other,
    Unknown,
}

impl Inspector {
    pub(crate) fn new() -> Inspector {
        Inspector { state: State::Begin, held: Vec::new() }
    }

    /// Whether all that follows passes, so that nobody has to ask any more.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Open) && self.held.is_empty()
    }

    /// Takes bytes of the guest, and puts what may go on into `pass`.
    pub(crate) fn feed(
        &mut self,
        bytes: &[u8],
        pass: &mut Vec<u8>,
        approve: &mut dyn FnMut(Claim) -> bool,
    ) -> Result<(), Refusal> {
        self.held.extend_from_slice(bytes);
        self.advance(pass, approve)?;
        if self.held.len() > MOST_HELD {
            return Err(Refusal::Malformed("no name in the first 64 KiB"));
        }
        Ok(())
    }

    fn advance(&mut self, pass: &mut Vec<u8>, approve: &mut dyn FnMut(Claim) -> bool) -> Result<(), Refusal> {
        loop {
            match &mut self.state {
                State::Open => {
                    pass.append(&mut self.held);
                    return Ok(());
                }
                State::Http(requests) => {
                    return requests.advance(&mut self.held, pass, approve);
                }
                State::Begin => match kind(&self.held) {
                    Kind::Unknown => return Ok(()),
                    Kind::Other => self.state = State::Open,
                    Kind::Http => self.state = State::Http(Requests::default()),
                    Kind::Tls => match tls::server_name(&self.held).map_err(Refusal::Malformed)? {
                        None => return Ok(()),
                        Some(claim) if approve(claim.clone()) => self.state = State::Open,
                        Some(_) => return Err(Refusal::Judged),
                    },
                },
            }
        }
    }

    /// Takes note of what the other end says: whether it agrees to speak something else from here on.
    pub(crate) fn answered(&mut self, bytes: &[u8]) {
        if let State::Http(requests) = &mut self.state
            && requests.answered(bytes)
        {
            self.state = State::Open;
        }
    }
}

/// A character of a method (RFC 9110, 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn kind(held: &[u8]) -> Kind {
    // Servers take empty lines before a request for nothing.
    let start = held.iter().position(|byte| !b"\r\n".contains(byte));
    let Some(rest) = start.and_then(|start| held.get(start..)) else { return Kind::Unknown };
    match rest.first() {
        Some(0x16) if start == Some(0) => return Kind::Tls,
        Some(byte) if is_token(*byte) => {}
        _ => return Kind::Other,
    }
    let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let whole = line.len() < rest.len();
    let method = line.iter().position(|byte| !is_token(*byte));
    match method.and_then(|end| line.get(end)) {
        // Not yet the end of its first word.
        None if !whole && line.len() < MOST_LINE => Kind::Unknown,
        Some(b' ' | b'\t') if !whole && line.len() < MOST_LINE => Kind::Unknown,
        Some(b' ' | b'\t') if whole => {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let version = line.windows(6).any(|part| part.eq_ignore_ascii_case(b" HTTP/"));
            if version { Kind::Http } else { Kind::Other }
        }
        Some(b' ' | b'\t') => Kind::Http,
        _ => Kind::Other,
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
