//! Conversations of the guest with the world: one socket of the host each.

pub(crate) mod echo;
pub(crate) mod key;
pub(crate) mod member;
pub(crate) mod own;
pub(crate) mod pending_tunnel;
pub(crate) mod petition;
pub(crate) mod stream;
pub(crate) mod tcp;
pub(crate) mod terminal;
pub(crate) mod udp;
