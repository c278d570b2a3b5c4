//! Kits: which there are, what they say about instances, and their daemons.

pub mod host_kits;
pub mod manifest_defaults;
pub mod supervisor;
pub mod use_case;
