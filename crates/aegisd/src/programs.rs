//! Programs that lie beside this one.

/// The program that is the other end of guests' network interfaces.
pub(crate) const GATEWAY: &str = "aegis-gateway";
