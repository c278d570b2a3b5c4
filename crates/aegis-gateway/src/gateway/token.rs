//! Tokens of sockets in the event loop: what a socket belongs to, and its index there.

use mio::Token;

/// What a socket belongs to. The kind is part of its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// The machine, and what belongs to the process as a whole.
    Fixed,
    Tcp,
    Udp,
    Echo,
    /// Connections to the gateway itself.
    Own,
    Name,
}

const KINDS: [Kind; 6] = [Kind::Fixed, Kind::Tcp, Kind::Udp, Kind::Echo, Kind::Own, Kind::Name];

/// Bits of a token that tell its kind.
const KIND_BITS: u32 = 3;

pub(crate) fn token(kind: Kind, index: usize) -> Token {
    let kind = KINDS.iter().position(|one| *one == kind).unwrap_or(0);
    Token(index << KIND_BITS | kind)
}

pub(crate) fn of_token(token: Token) -> (Kind, usize) {
    let kind = KINDS.get(token.0 & ((1 << KIND_BITS) - 1)).copied().unwrap_or(Kind::Fixed);
    (kind, token.0 >> KIND_BITS)
}

pub(super) fn name_token(index: usize) -> Token {
    token(Kind::Name, index)
}
