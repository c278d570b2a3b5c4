//! The registry: every instance and the newest events, in one SQLite database.
//!
//! One thread owns the connection and runs what callers queue, so there is one writer and no lock is ever held
//! across an await. Changes that are queued together share one transaction and one flush to disk; each still
//! succeeds or fails alone, and a method returns only after the commit that made its change durable. An
//! instance's change and its event are one unit: both are stored, or neither.

mod error;
mod migrations;
mod registry;
mod reserve;
mod rows;
mod sql;
mod writer;

pub use error::RegistryError;
pub use registry::Registry;
pub use rows::{EVENTS_KEPT, EventRow, InstanceRow, NewEvent};

#[cfg(test)]
mod tests;
