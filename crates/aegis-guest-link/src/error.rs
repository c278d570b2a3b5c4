//! Errors of sessions.

use aegis_guest_protocol::rpc::RpcError;
use thiserror::Error;

/// A session's failure.
#[derive(Debug, Error)]
pub enum LinkError {
    /// A pipe broke.
    #[error("the connection to the guest broke: {0}")]
    Io(#[from] std::io::Error),
    /// The guest answered with an error.
    #[error(transparent)]
    Guest(RpcError),
    /// The session is over.
    #[error("the connection to the guest is closed")]
    Closed,
    /// No answer in time.
    #[error("the guest did not answer {0} in time")]
    Timeout(&'static str),
    /// The guest broke the protocol.
    #[error("the guest broke the protocol: {0}")]
    Protocol(String),
}
