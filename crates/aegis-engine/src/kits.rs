//! Kits: which there are, what they say about instances, and their daemons.

pub mod host_kits;
pub mod kit_request;
pub mod manifest_defaults;
pub mod supervisor;
