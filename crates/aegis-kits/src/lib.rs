//! Kits: presets for instances, as manifests and files on the host; their checks, and the daemons that belong to them.
//!
//! A kit is written without touching anything of Aegis: a manifest ([`manifest`]) and the files that it names, in a
//! directory where they are found ([`discovery`]). This crate knows neither the API nor instances; whoever makes instances reads
//! from a manifest what they are to be like, and tells [`daemons`] which of them exist.

pub mod daemons;
pub mod discovery;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod manifest;

pub use discovery::{Kit, KitDiscovery};
pub use manifest::Manifest;
