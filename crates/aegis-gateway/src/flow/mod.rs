//! Flows of the guest: one socket of the host each.

pub(crate) mod connect_request;
pub(crate) mod connection_key;
pub(crate) mod guest_socket;
pub(crate) mod host_stream;
pub(crate) mod icmp_echo;
pub(crate) mod local_service;
pub(crate) mod member_stream;
pub(crate) mod pending_tunnel;
pub(crate) mod tcp;
pub(crate) mod udp;
