//! What the fuzzer drives; see `fuzz/`.

use aegis_fuzz::Target;

use crate::{Name, NamePattern, Rule};

/// A rule as a person or a kit writes it.
///
/// # Panics
/// If it is written otherwise than it is read.
pub fn rule(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(rule) = text.parse::<Rule>() {
        assert_eq!(rule.to_string().parse::<Rule>(), Ok(rule));
    }
}

/// A pattern of names, and a name.
///
/// # Panics
/// If a name is written otherwise than it is read, or a pattern depends on how a name is written.
pub fn name(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (pattern, text) = text.split_once(' ').unwrap_or((text, text));
    let Ok(name) = Name::new(text) else { return };
    assert_eq!(Name::new(name.as_str()).as_ref(), Ok(&name));
    if let (Ok(pattern), Ok(dotted)) = (NamePattern::new(pattern), Name::new(&format!("{name}."))) {
        assert_eq!(pattern.matches(&name), pattern.matches(&dotted));
    }
}

/// All of them by name; the seeds of each are in `fuzz/seeds/NAME`.
pub const TARGETS: [(&str, Target); 2] = [("policy-rule", rule), ("policy-name", name)];

#[cfg(test)]
mod tests {
    #[test]
    fn seeds() {
        aegis_fuzz::replay(&super::TARGETS);
    }
}
