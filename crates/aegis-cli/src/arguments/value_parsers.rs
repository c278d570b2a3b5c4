//! Parsers of option values.

use aegis_api::instance::{IdleTime, Never, Restart};
use aegis_api::ports::Expose;
use aegis_api::{duration, size};
use jiff::Timestamp;

/// `KEY=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// The name.
    pub key: String,
    /// The value.
    pub value: String,
}

/// Parses `KEY=VALUE`.
///
/// # Errors
/// A sentence.
pub fn environment(text: &str) -> Result<Environment, String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => {
            Ok(Environment { key: key.to_owned(), value: value.to_owned() })
        }
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

/// The ports that one `--expose` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports(pub Vec<Expose>);

/// Parses `[[ADDRESS:]PUBLIC:]GUEST[/PROTOCOL]`.
///
/// # Errors
/// A sentence.
pub fn ports(text: &str) -> Result<Ports, String> {
    aegis_api::ports::parse(text).map(Ports).map_err(|error| error.to_string())
}

/// A duration, or `never`.
///
/// # Errors
/// A sentence.
pub fn idle(text: &str) -> Result<IdleTime, String> {
    if text == "never" {
        return Ok(IdleTime::Never(Never::Never));
    }
    duration_ms(text).map(IdleTime::Ms).map_err(|error| format!("{error}, or never"))
}

/// Parses a restart policy.
///
/// # Errors
/// A sentence.
pub fn restart(text: &str) -> Result<Restart, String> {
    text.parse().map_err(|error: aegis_api::instance::NoRestart| error.to_string())
}

/// Checks a handle.
///
/// # Errors
/// The rule that it breaks.
pub fn handle(text: &str) -> Result<String, String> {
    aegis_api::handle::check(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

/// An amount of memory, MiB.
///
/// # Errors
/// A sentence.
pub fn memory(text: &str) -> Result<u32, String> {
    size::mebibytes(text)?.try_into().map_err(|_| "is too large".to_owned())
}

/// A size of a disk, MiB.
///
/// # Errors
/// A sentence.
pub fn disk(text: &str) -> Result<u64, String> {
    size::mebibytes(text)
}

/// A duration such as `30s`, `5m`, `1h30m`, `7d`, in milliseconds.
///
/// # Errors
/// A sentence.
pub fn duration_ms(text: &str) -> Result<u64, String> {
    duration::parse_ms(text).map_err(|error| error.to_string())
}

/// A duration, checked and left as it is.
///
/// # Errors
/// A sentence.
pub fn duration(text: &str) -> Result<String, String> {
    duration_ms(text).map(|_| text.to_owned())
}

/// A time as RFC 3339; a duration means that long ago.
///
/// # Errors
/// A sentence.
pub fn since(text: &str) -> Result<String, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time.to_string());
    }
    duration::ago(text).map_err(|_| "expected a time (RFC 3339) or a duration".to_owned())
}

/// Parses a number of bytes, with an optional unit such as `64k`, `10m` or `1g`.
///
/// # Errors
/// A sentence.
pub fn bytes(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let units = [('k', 1u64 << 10), ('m', 1 << 20), ('g', 1 << 30)];
    let found = units.into_iter().find_map(|(unit, factor)| Some((lower.strip_suffix(unit)?, factor)));
    let (number, factor) = found.unwrap_or((&lower, 1));
    let number = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    number
        .filter(|number| *number > 0)
        .ok_or_else(|| "expected bytes, or a size such as 64k, 10m or 1g".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_have_units() {
        for (text, expected) in [("512", 512), ("512m", 512), ("1g", 1024), ("2GiB", 2048), ("1T", 1 << 20)] {
            assert_eq!(disk(text), Ok(expected), "{text}");
        }
        for bad in ["0", "0g", "", "g", "-1", "1.5g", "99999999999999999999", "99999999999999999g"] {
            assert!(disk(bad).is_err(), "{bad}");
        }
        assert!(memory("9999999999").is_err());
    }

    #[test]
    fn an_idle_time_may_be_never() {
        assert_eq!(idle("never"), Ok(IdleTime::Never(Never::Never)));
        assert_eq!(idle("90s"), Ok(IdleTime::Ms(90_000)));
        assert_eq!(idle("soon").unwrap_err(), "expected a duration such as 30s, 5m, 1h or 7d, or never");
    }

    #[test]
    fn a_moment_is_a_time_or_so_long_ago() {
        assert_eq!(since("2026-01-31T12:00:00Z").unwrap(), "2026-01-31T12:00:00Z");
        assert!(since("10m").is_ok() && since("yesterday").is_err());
    }

    #[test]
    fn variables_need_a_name_and_an_equals_sign() {
        assert_eq!(environment("A=b=c").unwrap(), Environment { key: "A".into(), value: "b=c".into() });
        assert_eq!(environment("A=").unwrap().value, "");
        assert!(environment("A").is_err() && environment("=b").is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".{0,24}") {
            drop((disk(&text), memory(&text), duration_ms(&text), since(&text), environment(&text), handle(&text), ports(&text), idle(&text)));
        }
    }
}
