//! Use cases in domain types: what a request for an instance, an image, a kit or a workspace comes to.
//!
//! Every door of the daemon maps its own requests to calls of [`engine::Engine`]. Nothing here knows of HTTP. It is the only
//! crate that knows images, kits, secrets, workspaces and instances.

pub mod create;
pub mod engine;
pub mod error;
pub mod images;
pub mod kits;
pub mod network_choice;
pub mod new_instance;
pub mod services;
pub mod workspaces;
