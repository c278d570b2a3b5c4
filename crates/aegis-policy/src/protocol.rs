//! Transport protocols of rules.

use serde::{Deserialize, Serialize};

/// What an attempt speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP echo, of either IP version.
    Icmp,
}

impl Protocol {
    /// Its word in rules and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Icmp => "icmp",
        }
    }

    /// The one with this word.
    #[must_use]
    pub fn of(word: &str) -> Option<Protocol> {
        [Protocol::Tcp, Protocol::Udp, Protocol::Icmp].into_iter().find(|one| one.as_str() == word)
    }
}
