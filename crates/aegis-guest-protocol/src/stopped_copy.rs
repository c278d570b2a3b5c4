//! What a process is told that is executed in the machine of a stopped instance: for the guest's end of a copy.

use serde::{Deserialize, Serialize};

/// The variable of its environment that says so, as [`AtRest`] in JSON.
pub const VARIABLE: &str = "AEGIS_AT_REST";

/// The file systems of a stopped instance, as they are in the machine that was booted for them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AtRest {
    /// Where relative paths begin, whether that directory is there or not.
    pub workdir: String,
    /// Where directories of the host would be that are not there. What is written there is hidden when they are.
    pub absent: Vec<String>,
}

impl AtRest {
    /// The variable's value.
    #[must_use]
    pub fn to_value(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What a variable says; nothing if it is another one of that name.
    #[must_use]
    pub fn of_value(value: &str) -> Option<AtRest> {
        serde_json::from_str(value).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_understood() {
        let rest = AtRest { workdir: "/a \n\"b".into(), absent: vec!["/workspace".into(), "/d:e".into()] };
        assert_eq!(AtRest::of_value(&rest.to_value()), Some(rest));
        assert_eq!(AtRest::of_value("1"), None);
    }
}
