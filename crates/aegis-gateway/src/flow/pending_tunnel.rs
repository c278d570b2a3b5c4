//! A guest that has asked the offered proxy for a tunnel, and waits for it.

use super::connect_request::ConnectRequest;
use super::guest_socket::GuestSocket;

/// A guest that waits for its tunnel.
#[derive(Debug)]
pub(crate) struct PendingTunnel {
    pub(crate) guest_socket: Box<GuestSocket>,
    pub(crate) request: ConnectRequest,
}
