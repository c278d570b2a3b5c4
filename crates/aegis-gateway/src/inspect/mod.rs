//! Inspection of connections for the name of the other end: the server name of a TLS handshake, or the host of each request.
//!
//! Bytes of the guest pass through here when a policy judges names. Nothing passes before the name that it belongs to
//! has been judged, and nothing passes that a server might understand in another way than this does.
//!
//! ```text
//!   first bytes ──► TLS: one ClientHello ──► its server's answer ──► open, or another ClientHello
//!               ──► HTTP/1: each request ──► an upgrade or a tunnel that the server agrees to ──► open, or from the start
//!               ──► HTTP/2 by prior knowledge: the server's settings ──► each request
//!               ──► anything else: open where that may be, or the end
//! ```

mod claim;
mod http;
mod http2;
mod tls;

use claim::MOST_HELD;
pub(crate) use claim::{Claim, Refusal, Wait};
use http::{Agreed, Requests};
pub(crate) use http2::PREFACE;
use http2::Streams;

/// Longest first line of a request.
const MOST_LINE: usize = 8 << 10;

#[derive(Debug)]
enum State {
    /// What is spoken is not known yet.
    Begin,
    /// A ClientHello with this name has passed, and this is what the server has answered.
    Greeted(Claim, Vec<u8>),
    /// The server wants another one.
    Retry(Claim),
    /// The server does not speak TLS.
    NoTls,
    /// Requests, one after the other.
    Http(Requests),
    /// Requests, side by side.
    Http2(Streams),
    /// All that follows passes.
    Open,
}

/// One connection's bytes, on their way out.
#[derive(Debug)]
pub(crate) struct Inspector {
    state: State,
    /// Whether what is not recognised ends.
    strict: bool,
    held: Vec<u8>,
    /// What the server has said before it was spoken to, as far as it matters.
    greeting: Vec<u8>,
}

/// Most that matters of it, bytes: the header of a frame.
const MOST_GREETING: usize = 9;

/// What the first bytes are.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Tls,
    Http,
    Http2,
    Other,
    Unknown,
}

impl Inspector {
    pub(crate) fn new(strict: bool) -> Inspector {
        Inspector { state: State::Begin, strict, held: Vec::new(), greeting: Vec::new() }
    }

    /// Whether all that follows passes, so that nobody has to ask any more.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Open) && self.held.is_empty()
    }

    /// What is waited for.
    pub(crate) fn waits_for(&self) -> Option<Wait> {
        if self.held.is_empty() {
            return None;
        }
        match &self.state {
            State::Begin if kind(&self.held, self.strict) == Kind::Unknown => Some(Wait::Kind),
            State::Begin | State::Retry(_) => Some(Wait::Name),
            State::Http(requests) => requests.waits_for(),
            State::Http2(streams) => streams.waits_for(),
            // The server has its own patience.
            State::Greeted(..) | State::NoTls | State::Open => None,
        }
    }

    /// Has waited long enough for more.
    pub(crate) fn late(&mut self, pass: &mut Vec<u8>) -> Result<(), Refusal> {
        match self.waits_for() {
            None => Ok(()),
            Some(Wait::Kind) if self.strict || !matches!(self.state, State::Begin) => {
                Err(Refusal::Unrecognised)
            }
            Some(Wait::Kind) => {
                self.state = State::Open;
                pass.append(&mut self.held);
                Ok(())
            }
            Some(Wait::Name) => Err(Refusal::Malformed("no whole name within 30 seconds")),
        }
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
        let most = match &self.state {
            State::Http2(streams) => streams.most_held(),
            _ => MOST_HELD,
        };
        if self.held.len() > most {
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
                State::Http(requests) => return requests.advance(&mut self.held, pass, approve),
                State::Http2(streams) => return streams.advance(&mut self.held, pass, approve),
                State::Begin => match kind(&self.held, self.strict) {
                    Kind::Unknown => return Ok(()),
                    Kind::Other if self.strict => return Err(Refusal::Unrecognised),
                    Kind::Other => self.state = State::Open,
                    Kind::Http => self.state = State::Http(Requests::new()),
                    Kind::Http2 => self.state = State::Http2(Streams::new(&self.greeting)),
                    Kind::Tls => match tls::server_name(&self.held).map_err(Refusal::Malformed)? {
                        None => return Ok(()),
                        Some((claim, length)) if approve(claim.clone()) => {
                            self.state = State::Greeted(claim, Vec::new());
                            pass.extend(self.held.drain(..length));
                        }
                        Some(_) => return Err(Refusal::Judged),
                    },
                },
                State::Retry(before) => {
                    match tls::server_name_again(&self.held).map_err(Refusal::Malformed)? {
                        None => return Ok(()),
                        Some(claim) if claim == *before => self.state = State::Open,
                        Some(_) => return Err(Refusal::Malformed("two names in a TLS handshake")),
                    }
                }
                State::NoTls if !self.held.is_empty() => {
                    return Err(Refusal::Malformed("an answer to TLS that is none"));
                }
                State::Greeted(..) | State::NoTls => return Ok(()),
            }
        }
    }

    /// Takes note of what the other end says: whether it agrees to speak something else from here on.
    pub(crate) fn answered(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Http(requests) => match requests.answered(bytes) {
                Some(Agreed::Upgrade) => self.state = State::Open,
                Some(Agreed::Tunnel) => self.state = State::Begin,
                None => {}
            },
            State::Greeted(claim, answer) => {
                let room = MOST_HELD.saturating_sub(answer.len()).min(bytes.len());
                answer.extend_from_slice(bytes.get(..room).unwrap_or_default());
                match tls::answer(answer) {
                    None if answer.len() < MOST_HELD => {}
                    Some(tls::Answer::Taken) => self.state = State::Open,
                    Some(tls::Answer::Retry) => self.state = State::Retry(claim.take()),
                    None | Some(tls::Answer::Other) => self.state = State::NoTls,
                }
            }
            State::Http2(streams) => streams.answered(bytes),
            State::Begin => {
                let room = MOST_GREETING.saturating_sub(self.greeting.len()).min(bytes.len());
                self.greeting.extend_from_slice(bytes.get(..room).unwrap_or_default());
            }
            State::Retry(_) | State::NoTls | State::Open => {}
        }
    }
}

/// What the first bytes are. Where all has to be recognised, what is no beginning of TLS or HTTP is something else.
fn kind(held: &[u8], strict: bool) -> Kind {
    match held {
        [] => Kind::Unknown,
        _ if held.starts_with(PREFACE) => Kind::Http2,
        // A request of HTTP/1 that begins like that is told from it by its first bytes.
        _ if PREFACE.starts_with(held) => Kind::Unknown,
        // Whatever version its record gives: some servers do not care.
        [0x16, ..] => Kind::Tls,
        // Alerts and the like that some servers pass over, and the greeting of SSL 2, are nothing that may begin.
        [0x14..=0x18, 0..=3, ..] | [0x80..=0xff, _, 1, 3, ..] => Kind::Tls,
        [0x14..=0x18] | [0x80..=0xff] | [0x80..=0xff, _] | [0x80..=0xff, _, 1] => {
            if strict {
                Kind::Other
            } else {
                Kind::Unknown
            }
        }
        [first, ..] if strict => {
            if first.is_ascii_uppercase() {
                Kind::Http
            } else {
                Kind::Other
            }
        }
        _ => lenient(held),
    }
}

/// Whether a line is one that some server may take for a request's.
fn lenient(held: &[u8]) -> Kind {
    // Servers take empty lines before a request for nothing.
    let start = held.iter().position(|byte| !b"\r\n \t\x0b\x0c".contains(byte));
    let Some(rest) = start.and_then(|start| held.get(start..)) else {
        return if held.len() < MOST_LINE { Kind::Unknown } else { Kind::Other };
    };
    let is_text = |byte: &u8| *byte >= b' ' || b"\t\r\x0b\x0c".contains(byte);
    let end = rest.iter().take(MOST_LINE).position(|byte| !is_text(byte));
    let line = rest.get(..end.unwrap_or(rest.len().min(MOST_LINE))).unwrap_or_default();
    let is_space = |byte: &u8| b" \t\x0b\x0c\r".contains(byte);
    let known = [&b"GET"[..], b"HEAD", b"POST", b"PRI"];
    let (method, rest) = line.split_at(line.iter().position(is_space).unwrap_or(line.len()));
    let asks = !rest.is_empty() && known.contains(&method);
    // A path after a word, whatever the words are; what begins with a number is Git's own protocol.
    let is_word = method.first().is_some_and(|byte| !byte.is_ascii_digit());
    let target = rest.iter().find(|byte| is_word && !is_space(byte));
    let has = |word: &[u8]| line.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word));
    if asks || target == Some(&b'/') || has(b"HTTP/") || has(b"://") {
        Kind::Http
    } else if end.is_some() || line.len() >= MOST_LINE {
        Kind::Other
    } else {
        Kind::Unknown
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
