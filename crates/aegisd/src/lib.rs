//! The daemon: configuration, wiring, sockets.

mod ca_certificates;
pub mod config;
mod confinement;
mod daemon;
pub mod doctor;
pub mod environment;
mod error;
mod file_server;
mod keyring;
mod log;
mod programs;
pub mod resolvers;
mod router_backends;
mod runtime;
mod socket;

pub use daemon::serve;
pub use error::DaemonError;
pub use file_server::serve_files;

/// The API's OpenAPI document.
#[must_use]
pub fn openapi_json() -> String {
    aegis_http::routes::openapi_json()
}
