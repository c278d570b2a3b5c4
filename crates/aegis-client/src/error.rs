//! Errors of requests.

use aegis_api::error::ApiError;
use thiserror::Error;

/// A request's failure.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error("aegisd is not running")]
    NotRunning,
    /// The daemon refused.
    #[error(transparent)]
    Api(ApiError),
    /// The connection broke.
    #[error("the connection to aegisd broke: {0}")]
    Io(#[from] std::io::Error),
    /// The daemon talks nonsense.
    #[error("aegisd answered with something else than was asked for: {0}")]
    Protocol(String),
}

impl From<hyper::Error> for ClientError {
    fn from(error: hyper::Error) -> Self {
        ClientError::Io(std::io::Error::other(error))
    }
}

impl From<serde_json::Error> for ClientError {
    fn from(error: serde_json::Error) -> Self {
        ClientError::Protocol(error.to_string())
    }
}
