//! Rules and policies as people write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Pattern, SyntaxError};

/// Most rules of a policy.
const MOST_RULES: usize = 1000;

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It goes on.
    Allow,
    /// It is refused, at once.
    Deny,
}

impl Action {
    /// Its word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Allow => "allow",
            Action::Deny => "deny",
        }
    }
}

/// Who begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// The instance.
    Out,
    /// Another instance of one of its groups.
    In,
}

/// One rule: `allow|deny [in] PATTERN`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rule {
    /// What happens.
    pub action: Action,
    /// Who begins.
    pub direction: Direction,
    /// With whom.
    pub pattern: Pattern,
}

impl FromStr for Rule {
    type Err = SyntaxError;

    fn from_str(text: &str) -> Result<Rule, SyntaxError> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let action = |word: &str| match word {
            "allow" => Ok(Action::Allow),
            "deny" => Ok(Action::Deny),
            _ => Err(SyntaxError(format!("{text:?}: a rule begins with allow or deny"))),
        };
        match words.as_slice() {
            [_, "in" | "out"] => Err(SyntaxError(format!("{text:?}: what follows the direction is missing"))),
            [first, "in", pattern] => {
                Ok(Rule { action: action(first)?, direction: Direction::In, pattern: pattern.parse()? })
            }
            [first, pattern] | [first, "out", pattern] => {
                Ok(Rule { action: action(first)?, direction: Direction::Out, pattern: pattern.parse()? })
            }
            _ => Err(SyntaxError(format!("{text:?}: expected allow|deny [in] WHAT[:PORTS][/PROTOCOL]"))),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = if self.direction == Direction::In { "in " } else { "" };
        write!(f, "{} {direction}{}", self.action.as_str(), self.pattern)
    }
}

impl TryFrom<String> for Rule {
    type Error = SyntaxError;

    fn try_from(text: String) -> Result<Rule, SyntaxError> {
        text.parse()
    }
}

impl From<Rule> for String {
    fn from(rule: Rule) -> String {
        rule.to_string()
    }
}

/// What happens where no rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// Nothing is reached.
    None,
    /// The internet is, and nothing nearer.
    #[default]
    Public,
    /// All is but the host itself.
    Open,
}

impl Preset {
    /// Its word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Preset::None => "none",
            Preset::Public => "public",
            Preset::Open => "open",
        }
    }
}

impl FromStr for Preset {
    type Err = SyntaxError;

    fn from_str(text: &str) -> Result<Preset, SyntaxError> {
        let all = [Preset::None, Preset::Public, Preset::Open];
        let found = all.into_iter().find(|preset| preset.as_str() == text);
        found.ok_or_else(|| SyntaxError(format!("{text:?}: expected none, public or open")))
    }
}

/// What an instance may reach.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Where no rule matches.
    pub default: Preset,
    /// In order: the first that matches decides.
    pub rules: Vec<Rule>,
}

impl Policy {
    /// Checks what its parts cannot.
    ///
    /// # Errors
    /// If it has more than 1000 rules.
    pub fn check(&self) -> Result<(), SyntaxError> {
        match self.rules.len() {
            0..=MOST_RULES => Ok(()),
            many => Err(SyntaxError(format!("{many} rules; {MOST_RULES} are possible"))),
        }
    }

    /// Puts a rule before all others, and takes out what it makes void: the same rule, or its contrary.
    pub fn prefer(&mut self, rule: Rule) {
        self.rules.retain(|old| old.direction != rule.direction || old.pattern != rule.pattern);
        self.rules.insert(0, rule);
    }

    /// Whether names decide anything: then what names a connection is looked at.
    #[must_use]
    pub fn judges_names(&self) -> bool {
        self.rules.iter().any(|rule| rule.pattern.name.is_some())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rules_are_written_as_they_are_read() {
        for text in [
            "allow api.example.com",
            "deny 10.0.0.0/8",
            "deny in any:22/tcp",
            "allow db.example.com:5432/raw",
        ] {
            assert_eq!(text.parse::<Rule>().unwrap().to_string(), text);
        }
        for text in ["", "allow", "permit x", "allow in", "deny in x y"] {
            assert!(text.parse::<Rule>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_policy_is_plain_json() {
        let json = r#"{"default":"none","rules":["allow *.example.org:443"]}"#;
        let policy: Policy = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&policy).unwrap(), json);
        assert!(policy.judges_names());
        assert!(serde_json::from_str::<Policy>(r#"{"ruels":[]}"#).is_err());
    }

    #[test]
    fn the_newest_rule_comes_first_and_replaces_its_contrary() {
        let mut policy = Policy::default();
        for text in ["allow a.example", "deny b.example", "deny a.example"] {
            policy.prefer(text.parse().unwrap());
        }
        let texts: Vec<String> = policy.rules.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["deny a.example", "deny b.example"]);
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".{0,40}") {
            drop(text.parse::<Rule>());
        }
    }
}
