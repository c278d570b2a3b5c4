//! What an inspection finds, and how it lets bytes pass.

use std::time::Duration;

use aegis_policy::Name;

/// Most bytes that are held back until a name is known.
pub(super) const MOST_HELD: usize = 64 << 10;

/// A name that the connection gives; `None` where one is expected, and missing or merely an address.
pub(crate) type Claim = Option<Name>;

/// Why a connection ends here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A claim was not approved.
    Judged,
    /// It is nothing whose names can be read.
    Unrecognised,
    /// It is malformed, or means two things.
    Malformed(&'static str),
}

/// What held bytes wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// What is spoken.
    Kind,
    /// The whole of what has the name in it.
    Name,
}

impl Wait {
    /// How long, at most.
    pub(crate) fn patience(self) -> Duration {
        match self {
            Wait::Kind => Duration::from_secs(1),
            Wait::Name => Duration::from_secs(30),
        }
    }
}

/// Moves from `held` to `pass` what `step` lets pass, time after time: it is given what is left, and returns how many bytes at
/// its front may go on, or `None` if more are needed to tell. What is left then stays.
pub(super) fn pass_on(
    held: &mut Vec<u8>,
    pass: &mut Vec<u8>,
    mut step: impl FnMut(&[u8]) -> Result<Option<usize>, Refusal>,
) -> Result<(), Refusal> {
    let mut at = 0;
    while let Some(rest) = held.get(at..).filter(|rest| !rest.is_empty()) {
        let Some(count) = step(rest)? else { break };
        pass.extend_from_slice(rest.get(..count).unwrap_or_default());
        at += count;
    }
    held.drain(..at.min(held.len()));
    Ok(())
}
