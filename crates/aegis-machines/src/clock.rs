//! The time of day, as it is stored and compared: milliseconds since 1970.

use std::time::SystemTime;

/// Now, milliseconds since 1970.
#[must_use]
pub fn now_ms() -> i64 {
    unix_ms(SystemTime::now())
}

/// A time as milliseconds since 1970.
#[must_use]
pub fn unix_ms(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
