//! The key of a TCP connection of the guest: its two endpoints.

use std::net::SocketAddr;

/// Which connection: the guest's end, and the other as the guest wrote it.
pub(crate) type ConnectionKey = (SocketAddr, SocketAddr);
