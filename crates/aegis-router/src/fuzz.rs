//! What the fuzzer drives; see `fuzz/`.

use std::net::{IpAddr, Ipv4Addr};

use aegis_fuzz::Target;

use crate::by_name::fuzz as by_name;
use crate::protocol_replies::{self, ClientProtocol};

/// What a request calls its host.
///
/// # Panics
/// If it is served under a name that is neither this machine's own nor configured.
pub fn host(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    by_name::host(text, IpAddr::V4(Ipv4Addr::LOCALHOST));
}

/// The head of a request that is passed on.
///
/// # Panics
/// If a field is passed on that belongs to the client's connection, or that only the router may say.
pub fn head(bytes: &[u8]) {
    by_name::head(bytes);
}

/// A connection's first bytes, and the first byte says how many of them arrive first.
///
/// # Panics
/// If more of them change what was told already.
pub fn opening(bytes: &[u8]) {
    let Some((at, bytes)) = bytes.split_first() else { return };
    let first = protocol_replies::classify(bytes.get(..usize::from(*at) * 4).unwrap_or(bytes));
    let whole = protocol_replies::classify(bytes);
    assert!(first == ClientProtocol::Incomplete || first == whole, "{first:?}, then {whole:?}");
}

/// All of them by name; the seeds of each are in `fuzz/seeds/NAME`.
pub const TARGETS: [(&str, Target); 3] =
    [("router-host", host), ("router-head", head), ("router-opening", opening)];

#[cfg(test)]
mod tests {
    #[test]
    fn seeds() {
        aegis_fuzz::replay(&super::TARGETS);
    }
}
