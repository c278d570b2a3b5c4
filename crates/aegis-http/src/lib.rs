//! The API over HTTP: requests in, calls of the engine, responses out. No decisions of its own.

pub mod api_failure;
mod attach;
mod body;
mod events;
mod exec_timeout;
mod images;
mod instances;
mod kits;
mod logs;
mod mapping;
mod network;
mod ports;
mod processes;
pub mod routes;
mod secrets;
mod snapshots;
pub mod state;
mod stats;
mod stream;
pub mod system;
mod templates;
mod workspaces;
