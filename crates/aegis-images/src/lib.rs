//! Container images: from a reference or an archive to a read-only root disk, kept as long as somebody uses it.
//!
//! ```text
//!   reference ──► registry ──► manifest, config ─┐              ┌─► metadata disk of the image ─┐
//!                     │                          ├─► prepare ───┤                               ├─► root disk
//!   archive ──────────┴──────► layers (blobs) ───┘              └─► data of each layer ─────────┘
//! ```
//!
//! Everything is named by its digest and appears under its name only when it is whole and on disk: blobs as they were
//! sent, layers as [`aegis_erofs::Layer`] makes them, and last the record of an image that binds them together. A
//! reference is a name for a record. So a crash leaves nothing half used. What it leaves behind is of use to the next
//! pull, or goes with the next prune.
//!
//! Registries and archives are untrusted: whatever they send is bounded and checked against its digest.

mod archive;
pub mod chunk_reader;
mod compression;
mod decompression;
mod digest;
mod error;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod image_builder;
mod image_record;
mod layer;
mod manifest;
mod progress;
mod reference;
mod registry;
mod run_settings;
mod save;
mod settings;
mod single_flight;
mod store;

pub use archive::Loaded;
pub use digest::Digest;
pub use error::ImageError;
pub use image_record::{Record, RecordedLayer};
pub use progress::{LayerProgress, Progress, Stage};
pub use reference::{ImageName, ImageReference, familiar};
pub use run_settings::RunSettings;
pub use settings::{RegistrySettings, Settings};
pub use store::removal::{InUse, Removed};
pub use store::{HeldImage, Images, Listed, pulled};
