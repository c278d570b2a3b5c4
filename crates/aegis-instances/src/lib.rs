//! Instances: one actor each, the table of all, ports, idle timers, recovery.
//!
//! ```text
//!   Instances ── one actor per instance ── Lifecycle::step (pure) ── effects ─┐
//!       │               ▲                                                      │
//!       │               └── events ◄── machine events, tasks of effects ◄──────┘
//!       └── attach, exec ──► Output (log + attached clients), Session (streams)
//! ```
//!
//! [`aegis_lifecycle`] decides; an actor owns the state, is its only writer, stores each change before it answers anybody,
//! and performs the effects with the help of [`aegis_machines`]. What takes time runs in tasks that report back by message.

mod actor;
mod cancellation;
pub mod connection;
mod create;
mod deps;
pub mod disk_watch;
pub mod error;
pub mod event_log;
pub mod events;
pub mod fork;
mod group_members;
pub mod handle;
pub mod instances;
pub mod maintenance_exec;
mod message;
pub mod metrics;
pub mod network_access;
mod orphans;
pub mod ports;
mod record;
mod recovery;
pub mod snapshots;
mod spec_update;
pub mod startup;
mod table;
pub mod usage;
pub mod view;
