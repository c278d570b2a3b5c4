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

mod address_class;
mod decide;
mod error;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod inspection_level;
mod limits;
mod name;
mod pattern;
mod protocol;
mod rule;
mod unresolved;

pub use address_class::{Zone, canonical, carried};
pub use decide::{Attempt, Reason, Verdict};
pub use error::SyntaxError;
pub use inspection_level::{InspectionLevel, is_web_port};
pub use limits::Limits;
pub use name::{Name, NamePattern};
pub use pattern::{Net, Pattern};
pub use protocol::Protocol;
pub use rule::{Action, Direction, Policy, Preset, Rule};
