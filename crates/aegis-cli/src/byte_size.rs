//! Sizes in bytes, for people.

/// A size with a unit of ten, as Docker shows it.
pub(crate) fn size(bytes: u64) -> String {
    let units = [("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1000)];
    match units.into_iter().find(|(_, unit)| bytes >= *unit) {
        // A few digits of the quotient are all that is shown.
        #[allow(clippy::cast_precision_loss, reason = "a few digits are shown")]
        Some((name, unit)) => format!("{:.1} {name}", bytes as f64 / unit as f64),
        None => format!("{bytes} B"),
    }
}
