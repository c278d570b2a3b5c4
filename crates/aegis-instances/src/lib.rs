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

mod actor;
mod at_rest;
mod boot;
mod broker;
mod clone;
mod conversation;
mod create;
pub mod error;
pub mod events;
pub mod exec;
mod files;
pub mod fork;
mod gateway;
pub mod groups;
mod helper;
mod hibernate;
mod ingress;
pub mod kit;
pub mod lifecycle;
mod live;
pub mod manager;
pub mod measures;
mod moment;
pub mod mounts;
pub mod network;
mod orphans;
pub mod output;
pub mod ports;
pub mod reason;
mod record;
mod recovery;
pub mod resolvers;
pub mod rest;
pub mod restart;
pub mod root;
pub mod secret;
pub mod session;
pub mod snapshots;
pub mod spares;
pub mod spec;
mod teardown;
pub mod templates;
pub mod timings;
pub mod upkeep;
pub mod usage;
pub mod view;

pub use conversation::Conversation;
pub use error::InstanceError;
pub use ingress::Visit;
pub use manager::{Config, Instances, Surroundings};
pub use reason::StopReason;
pub use spec::InstanceSpec;
pub use view::View;

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
