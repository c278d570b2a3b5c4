//! Durations as people write them.

use jiff::{Span, SpanRelativeTo, Timestamp};
use thiserror::Error;

/// A text that is no duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DurationError {
    /// It has another form, is negative, or has units without a fixed length, which months have not.
    #[error("expected a duration such as 30s, 5m, 1h or 7d")]
    Form,
    /// It lasts no time.
    #[error("cannot be 0")]
    Zero,
}

/// A duration such as `30s`, `5m`, `1h30m`, `7d`, in milliseconds. A day has 24 hours, a week seven days.
///
/// # Errors
/// [`DurationError`].
pub fn parse_ms(text: &str) -> Result<u64, DurationError> {
    let span: Span = text.parse().map_err(|_| DurationError::Form)?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| DurationError::Form)?;
    match u64::try_from(duration.as_millis()) {
        Ok(0) => Err(DurationError::Zero),
        Ok(ms) => Ok(ms),
        Err(_) => Err(DurationError::Form),
    }
}

/// The time that was so long ago; RFC 3339.
///
/// # Errors
/// [`DurationError`].
pub fn ago(text: &str) -> Result<String, DurationError> {
    let ms = i64::try_from(parse_ms(text)?).map_err(|_| DurationError::Form)?;
    let then = Timestamp::now().as_millisecond().checked_sub(ms).ok_or(DurationError::Form)?;
    Timestamp::from_millisecond(then).map(|time| time.to_string()).map_err(|_| DurationError::Form)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_have_units() {
        for (text, expected) in [
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("200ms", 200),
            ("7d", 604_800_000),
            ("1w", 604_800_000),
        ] {
            assert_eq!(parse_ms(text), Ok(expected), "{text}");
        }
        for bad in ["soon", "30", "-5s", "", "1mo", "1y"] {
            assert_eq!(parse_ms(bad), Err(DurationError::Form), "{bad}");
        }
        assert_eq!(parse_ms("0s"), Err(DurationError::Zero));
        assert!(ago("7d").is_ok() && ago("99999y").is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".{0,24}") {
            drop((parse_ms(&text), ago(&text)));
        }
    }
}
