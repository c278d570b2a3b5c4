//! What identifies a TCP connection of the guest.

use std::net::SocketAddr;

/// Which connection: the guest's end, and the other as the guest wrote it.
pub(crate) type ConnectionKey = (SocketAddr, SocketAddr);
