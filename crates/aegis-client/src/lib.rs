//! Typed client of the daemon, over its unix socket.

mod client;
pub mod daemon;
mod error;
mod events;
mod images;
mod instances;
mod kits;
mod lines;
mod logs;
mod network;
mod process_stream;
mod processes;
mod query;
mod secrets;
mod snapshots;
mod system;
mod transport;
mod url_path;
mod workspaces;

pub use client::Client;
pub use error::ClientError;
pub use events::{EventStreamItem, Events};
pub use images::{Download, Loaded, Pull};
pub use logs::{JsonLines, LogLines, NetworkLines};
pub use process_stream::{ProcessReader, ProcessWriter};
pub use query::{EventQuery, LogQuery};
pub use transport::Upload;
