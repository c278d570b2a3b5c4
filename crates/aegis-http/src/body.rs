//! Bodies of requests, and texts in those of responses.

use jiff::Timestamp;
use serde::de::DeserializeOwned;

use crate::api_failure::ApiFailure;

/// Longest body of a request, bytes.
pub(crate) const MAX_BODY: usize = 2 << 20;

/// A body as JSON; an empty one counts as `{}`.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiFailure> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body)
        .map_err(|error| ApiFailure::invalid(format!("the body does not fit: {error}")))
}

pub(crate) fn timestamp(ms: i64) -> String {
    // A time out of range can only come from a broken clock.
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}
