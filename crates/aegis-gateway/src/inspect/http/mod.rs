//! Requests of HTTP/1, one after the other, and their answers (RFC 9112). Only heads and lengths are understood.

mod framing;
mod request_head;
mod responses;

use framing::Framing;
pub(super) use framing::{content_length, is_critical};
use request_head::UpgradeRequest;
pub(super) use request_head::host;
use responses::{Granted, ResponseTracker};

use super::claim::{Claim, Refusal, Wait, pass_on};

/// What follows.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// A request's head, of which so many bytes are whole lines.
    Head(usize),
    /// Its body.
    Body(Framing, UpgradeRequest),
    /// What the server makes of a wish.
    Answer,
}

/// What the server has agreed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Agreed {
    /// To speak something else, of the same host.
    Upgrade,
    /// To pass on what follows to another place.
    Tunnel,
}

/// The requests of a connection.
#[derive(Debug)]
pub(super) struct Requests {
    next: Next,
    answers: ResponseTracker,
}

impl Requests {
    pub(super) fn new() -> Requests {
        Requests { next: Next::Head(0), answers: ResponseTracker::default() }
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
        match &mut self.next {
            Next::Answer if self.answers.is_lost() => {
                Err(Refusal::Malformed("a wish to speak something else, and no clear answer to it"))
            }
            Next::Answer => Ok(None),
            Next::Head(lines) => {
                let Some(length) = head_length(rest, lines)? else { return Ok(None) };
                let bytes = rest.get(..length).unwrap_or_default();
                self.begin(request_head::read(bytes)?, approve)?;
                Ok(Some(length))
            }
            Next::Body(framing, upgrade_request) => {
                let count = framing.advance(rest).map_err(Refusal::Malformed)?;
                if *framing == Framing::NOTHING {
                    self.next = after(*upgrade_request);
                }
                Ok(count)
            }
        }
    }

    /// Judges a request.
    fn begin(
        &mut self,
        head: request_head::Head,
        approve: &mut dyn FnMut(Claim) -> bool,
    ) -> Result<(), Refusal> {
        let request_head::Head { claims, upgrade_request, body } = head;
        if !claims.iter().cloned().all(approve) {
            return Err(Refusal::Judged);
        }
        if claims.windows(2).any(|two| two.first() != two.last()) {
            return Err(Refusal::Malformed("two hosts"));
        }
        if !self.answers.expect(upgrade_request) {
            return Err(Refusal::Malformed("too many requests without an answer"));
        }
        self.next =
            if body == Framing::NOTHING { after(upgrade_request) } else { Next::Body(body, upgrade_request) };
        Ok(())
    }

    /// Takes note of what the server says. Returns what it agrees to.
    pub(super) fn answered(&mut self, bytes: &[u8]) -> Option<Agreed> {
        let granted = self.answers.follow(bytes)?;
        if self.next != Next::Answer {
            return None;
        }
        match granted {
            Granted::Upgrade => Some(Agreed::Upgrade),
            Granted::Tunnel => Some(Agreed::Tunnel),
            Granted::Nothing => {
                self.next = Next::Head(0);
                None
            }
        }
    }

    /// What is waited for, where bytes are held.
    pub(super) fn waits_for(&self) -> Option<Wait> {
        match self.next {
            Next::Head(0) => Some(Wait::Kind),
            Next::Head(_) => Some(Wait::Name),
            Next::Body(..) | Next::Answer => None,
        }
    }
}

fn after(upgrade_request: UpgradeRequest) -> Next {
    if matches!(upgrade_request, UpgradeRequest::Upgrade | UpgradeRequest::Tunnel) {
        Next::Answer
    } else {
        Next::Head(0)
    }
}

/// How long the head at the front is, of which so many bytes were seen to be whole lines; `None` if it is not whole.
fn head_length(rest: &[u8], lines: &mut usize) -> Result<Option<usize>, Refusal> {
    loop {
        let unseen = rest.get(*lines..).unwrap_or_default();
        let is_first = *lines == 0;
        if is_first
            && !request_head::may_begin(
                unseen.split_inclusive(|byte| *byte == b'\n').next().unwrap_or(unseen),
            )
        {
            return Err(Refusal::Unrecognised);
        }
        let Some((line, length)) = framing::line(unseen).map_err(Refusal::Malformed)? else {
            return Ok(None);
        };
        if is_first {
            request_head::check_first_line(line)?;
        }
        *lines += length;
        if line.is_empty() {
            return Ok(Some(*lines));
        }
    }
}
