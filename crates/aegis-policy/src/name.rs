//! Names of hosts, and patterns of them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::SyntaxError;

/// Longest name in its text form, bytes (RFC 1035, 2.3.4).
const MOST_NAME: usize = 253;
/// Longest part between two dots.
const MOST_LABEL: usize = 63;

/// A host's name: lower case, without the last dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// Reads a name. Names in other scripts are written in their ASCII form (`xn--…`), as they travel.
    ///
    /// # Errors
    /// If it is empty, too long, or holds something that no host's name does.
    pub fn new(text: &str) -> Result<Name, SyntaxError> {
        let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let label = |label: &str| !label.is_empty() && label.len() <= MOST_LABEL && label.bytes().all(legal);
        if text.len() > MOST_NAME || !text.split('.').all(label) {
            return Err(SyntaxError(format!("{text:?} is no name of a host")));
        }
        Ok(Name(text))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = SyntaxError;

    fn try_from(text: String) -> Result<Name, SyntaxError> {
        Name::new(&text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name, or all names below one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamePattern {
    /// This one.
    Exact(Name),
    /// `*.NAME`: those below it at any depth, and not the name itself.
    Below(Name),
}

impl NamePattern {
    /// Reads `NAME` or `*.NAME`.
    ///
    /// # Errors
    /// If it is neither.
    pub fn new(text: &str) -> Result<NamePattern, SyntaxError> {
        match text.strip_prefix("*.") {
            Some(rest) => Name::new(rest).map(NamePattern::Below),
            None => Name::new(text).map(NamePattern::Exact),
        }
    }

    /// Whether it means this name.
    #[must_use]
    pub fn matches(&self, name: &Name) -> bool {
        match self {
            NamePattern::Exact(exact) => exact == name,
            NamePattern::Below(above) => {
                name.0.strip_suffix(&above.0).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NamePattern::Exact(name) => write!(f, "{name}"),
            NamePattern::Below(name) => write!(f, "*.{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_means_what_is_below_and_nothing_that_merely_ends_alike() {
        let pattern = NamePattern::new("*.Example.org.").unwrap();
        for (name, expected) in [
            ("a.example.org", true),
            ("a.b.EXAMPLE.org.", true),
            ("example.org", false),
            ("evilexample.org", false),
            ("example.org.evil.net", false),
        ] {
            assert_eq!(pattern.matches(&Name::new(name).unwrap()), expected, "{name}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "a".repeat(64);
        for text in ["", ".", "a..b", "a b", "*", "a.*.b", "ü.de", &long, &["abc"; 80].join(".")] {
            assert!(Name::new(text).is_err(), "{text}");
        }
    }
}
