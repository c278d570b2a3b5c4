//! The answers on a connection, one for each request in their order (RFC 9112, 9.3.2): only as what is an answer, and
//! not a piece of another one's body, is it believed that the server changes to another protocol.

use std::collections::VecDeque;

use super::framing::{self, Framing, content_length};
use super::request_head::UpgradeRequest;

/// Longest head of an answer.
const MOST_HEAD: usize = 64 << 10;
/// Most requests without an answer.
pub(super) const MOST_WAITING: usize = 1024;

/// What the server has made of a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Granted {
    /// It speaks something else from here on.
    Upgrade,
    /// What follows is from another place.
    Tunnel,
    /// It is denied.
    Nothing,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Next {
    #[default]
    Head,
    Body(Framing),
    /// Not to be told any more: it is not clear where the last answer ends, or it ends with the connection.
    Lost,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct ResponseTracker {
    waiting: VecDeque<UpgradeRequest>,
    next: Next,
    held: Vec<u8>,
}

impl ResponseTracker {
    /// A request is under way. Returns whether there was room for it.
    pub(super) fn expect(&mut self, upgrade_request: UpgradeRequest) -> bool {
        let room = self.waiting.len() < MOST_WAITING;
        if room && self.next != Next::Lost {
            self.waiting.push_back(upgrade_request);
        }
        room
    }

    /// Whether no answer will be recognised any more.
    pub(super) fn is_lost(&self) -> bool {
        self.next == Next::Lost
    }

    /// Follows what the server says. Returns what came of a wish.
    pub(super) fn follow(&mut self, bytes: &[u8]) -> Option<Granted> {
        if self.is_lost() {
            return None;
        }
        let mut held = std::mem::take(&mut self.held);
        let mut rest = if held.is_empty() {
            bytes
        } else {
            held.extend_from_slice(bytes);
            held.as_slice()
        };
        let mut granted = None;
        while !rest.is_empty() && !matches!(granted, Some(Granted::Upgrade | Granted::Tunnel)) {
            match self.step(rest) {
                Ok((Some(count), found)) => {
                    granted = found.or(granted);
                    rest = rest.get(count..).unwrap_or_default();
                }
                Ok((None, _)) if rest.len() <= MOST_HEAD => {
                    self.held = rest.to_vec();
                    return granted;
                }
                Ok((None, _)) | Err(_) => {
                    self.lose();
                    return granted;
                }
            }
            if self.is_lost() {
                return granted;
            }
        }
        granted
    }

    fn lose(&mut self) {
        *self = ResponseTracker { next: Next::Lost, ..ResponseTracker::default() };
    }

    fn step(&mut self, rest: &[u8]) -> Result<(Option<usize>, Option<Granted>), &'static str> {
        match &mut self.next {
            Next::Lost => Ok((Some(rest.len()), None)),
            Next::Body(framing) => {
                let count = framing.advance(rest)?;
                if *framing == Framing::NOTHING {
                    self.next = Next::Head;
                }
                Ok((count, None))
            }
            Next::Head => {
                let Some(length) = head_length(rest)? else { return Ok((None, None)) };
                let granted = self.head(rest.get(..length).unwrap_or_default())?;
                Ok((Some(length), granted))
            }
        }
    }

    /// Takes note of an answer's head.
    fn head(&mut self, head: &[u8]) -> Result<Option<Granted>, &'static str> {
        let answer = Answer::read(head)?;
        let upgrade_request = *self.waiting.front().ok_or("an answer to nothing")?;
        match (answer.status, upgrade_request) {
            (101, UpgradeRequest::Upgrade) if !answer.is_old => return Ok(Some(Granted::Upgrade)),
            (101, _) => return Err("a change that nobody wished for"),
            // There is more to come.
            (100..=199, _) => return Ok(None),
            (200..=299, UpgradeRequest::Tunnel) => return Ok(Some(Granted::Tunnel)),
            _ => {}
        }
        self.waiting.pop_front();
        let body = match (answer.status, upgrade_request) {
            (204 | 304, _) | (_, UpgradeRequest::HeadOnly) => Framing::NOTHING,
            _ => answer.body?,
        };
        self.next = match body {
            Framing::NOTHING => Next::Head,
            Framing::UntilClose => Next::Lost,
            body => Next::Body(body),
        };
        Ok(matches!(upgrade_request, UpgradeRequest::Upgrade | UpgradeRequest::Tunnel)
            .then_some(Granted::Nothing))
    }
}

/// How long the head at the front is; `None` if it is not whole.
fn head_length(rest: &[u8]) -> Result<Option<usize>, &'static str> {
    let mut at = 0;
    while let Some((line, length)) = framing::line(rest.get(at..).unwrap_or_default())? {
        at += length;
        if line.is_empty() {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

struct Answer {
    status: u16,
    is_old: bool,
    body: Result<Framing, &'static str>,
}

impl Answer {
    fn read(head: &[u8]) -> Result<Answer, &'static str> {
        let (first, mut at) = framing::line(head)?.unwrap_or_default();
        let malformed = "a malformed status line";
        let (version, rest) = first.split_at_checked(9).ok_or(malformed)?;
        let is_old = match version {
            b"HTTP/1.1 " => false,
            b"HTTP/1.0 " => true,
            _ => return Err(malformed),
        };
        let (status, reason) = rest.split_at_checked(3).ok_or(malformed)?;
        let digits = status.iter().all(u8::is_ascii_digit) && reason.first().is_none_or(|byte| *byte == b' ');
        let status = std::str::from_utf8(status).ok().filter(|_| digits).ok_or(malformed)?;
        let status = status.parse().map_err(|_| malformed)?;
        let (mut length, mut coded, mut chunked, mut clear) = (None, false, false, true);
        while let Some((line, count)) = framing::line(head.get(at..).unwrap_or_default())? {
            at += count;
            if line.is_empty() {
                break;
            }
            let (name, value) = framing::field(line)?;
            match name.as_str() {
                "content-length" => {
                    let found = content_length(value);
                    clear &= found.is_some() && length.is_none();
                    length = found;
                }
                "transfer-encoding" => {
                    clear &= !coded && !is_old;
                    coded = true;
                    chunked = value.trim_matches(' ').eq_ignore_ascii_case("chunked");
                }
                _ => {}
            }
        }
        let body = match (length, coded) {
            _ if !clear => Err("an answer of unclear length"),
            (Some(_), true) => Err("a length and chunks"),
            (None, true) if chunked => Ok(Framing::ChunkSize),
            (None, _) => Ok(Framing::UntilClose),
            (Some(length), false) => Ok(Framing::Length(length)),
        };
        Ok(Answer { status, is_old, body })
    }
}
