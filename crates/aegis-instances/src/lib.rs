//! The heart: what an instance is, and everything that happens to it.
//!
//! ```text
//!   Instances ── one actor per instance ── lifecycle::step (pure) ── effects ─┐
//!       │               ▲                                                      │
//!       │               └── events ◄── boot, guest session, teardown ◄─────────┘
//!       └── attach, exec ──► Output (log + attached clients), Session (streams)
//! ```
//!
//! [`lifecycle`] decides; an actor owns the state, is its only writer, stores each change before it answers
//! anybody, and performs the effects. What takes time runs in tasks that report back by message.
//!
//! [`machine`] is how machines come and go, [`at_rest`] how they are kept and copied, [`network`] what they reach.

mod actor;
pub mod at_rest;
mod create;
pub mod environment;
pub mod error;
pub mod events;
pub mod exec;
pub mod host_directory;
pub mod host_disk;
mod ingress;
mod instance;
pub mod kit;
pub mod lifecycle;
pub mod machine;
pub mod manager;
pub mod measures;
pub mod mounts;
pub mod network;
mod orphans;
pub mod output;
pub mod ports;
pub mod reason;
mod record;
mod recovery;
pub mod rest;
pub mod restart;
mod revision;
pub mod root;
pub mod secret;
mod shown;
pub mod spec;
pub mod usage;
pub mod view;

pub use error::InstanceError;
pub use ingress::Visit;
pub use manager::{Config, Instances, Surroundings};
pub use network::conversation::Conversation;
pub use reason::StopReason;
pub use spec::InstanceSpec;
pub use view::View;

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    ms_of(std::time::SystemTime::now())
}

/// The same of another moment.
pub(crate) fn ms_of(moment: std::time::SystemTime) -> i64 {
    let since = moment.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
