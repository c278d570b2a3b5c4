//! What an instance may reach: rules over names, addresses, ports and protocols, and the decision that follows.
//!
//! ```text
//!   Attempt ──► floor: never the host, whatever a rule says
//!           ──► rules, in order: the first that matches decides
//!           ──► preset: none, public or open
//! ```
//!
//! Pure: nothing here resolves a name or opens a socket. An [`Attempt`] carries what is known at that moment, and is
//! judged again when more is known, or when the policy changes.

mod decide;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod limits;
mod name;
mod pattern;
mod rule;
mod scrutiny;
mod unresolved;
mod zone;

pub use decide::{Attempt, Because, Ruling};
pub use limits::Limits;
pub use name::{Name, NamePattern};
pub use pattern::{Net, Pattern};
pub use rule::{Action, Direction, Policy, Preset, Rule, SyntaxError};
pub use scrutiny::{Scrutiny, is_web_port};
pub use zone::{Zone, canonical, carried};

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
