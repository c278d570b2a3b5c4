//! Handles: the names that users give to instances.

use thiserror::Error;

/// Longest handle, characters.
pub const LONGEST: usize = 40;
/// What every id begins with, and no handle.
pub const ID_PREFIX: &str = "inst-";

/// Why a text is no handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HandleError {
    /// Empty or too long.
    #[error("a handle has 1 to {LONGEST} characters")]
    Length,
    /// A character that is not allowed.
    #[error("a handle consists of a-z, 0-9 and '-'")]
    Character,
    /// A dash at an end.
    #[error("a handle begins and ends with a letter or digit")]
    Edge,
    /// Two dashes in a row.
    #[error("a handle contains no '--'")]
    DoubleDash,
    /// It looks like an id.
    #[error("a handle does not begin with '{ID_PREFIX}'")]
    LooksLikeId,
}

/// Checks a handle.
///
/// # Errors
/// [`HandleError`] with the rule that it breaks.
pub fn check(handle: &str) -> Result<(), HandleError> {
    if handle.is_empty() || handle.len() > LONGEST {
        return Err(HandleError::Length);
    }
    if !handle.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-') {
        return Err(HandleError::Character);
    }
    if handle.starts_with('-') || handle.ends_with('-') {
        return Err(HandleError::Edge);
    }
    if handle.contains("--") {
        return Err(HandleError::DoubleDash);
    }
    if handle.starts_with(ID_PREFIX) {
        return Err(HandleError::LooksLikeId);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_has_its_own_answer() {
        for good in ["a", "web", "web-2", "0", &"x".repeat(40)] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("", HandleError::Length),
            (&*"x".repeat(41), HandleError::Length),
            ("../etc", HandleError::Character),
            ("Web", HandleError::Character),
            ("-a", HandleError::Edge),
            ("a-", HandleError::Edge),
            ("a--b", HandleError::DoubleDash),
            ("inst-a", HandleError::LooksLikeId),
        ] {
            assert_eq!(check(bad), Err(why), "{bad}");
        }
    }
}
