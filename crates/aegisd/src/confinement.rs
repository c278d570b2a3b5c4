//! What this host cannot confine.

use aegis_jail::{Layer, Support};

use crate::error::DaemonError;

/// What this host cannot do to hold a helper that a guest has taken over. A control group is an offer, and none is missed.
pub(crate) fn unconfined() -> Option<String> {
    let wanted = Layer::ALL.into_iter().filter(|layer| *layer != Layer::Cgroup).collect::<Vec<_>>();
    let missing: Vec<String> = Support::of_host().missing(&wanted).iter().map(Layer::to_string).collect();
    let words = missing.join(", ");
    (!words.is_empty()).then(|| format!("instances are confined without {words}; see: aegis doctor"))
}

/// Refuses to go on where processes cannot be confined as it is wanted.
pub(crate) fn check_confinement(required: &[Layer]) -> Result<(), DaemonError> {
    let missing = Support::of_host().missing(required);
    let words: Vec<String> = missing.iter().map(Layer::to_string).collect();
    if words.is_empty() { Ok(()) } else { Err(DaemonError::Unconfined(words.join(", "))) }
}
