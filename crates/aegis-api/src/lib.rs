//! What daemon and clients say to each other: requests, replies, errors, stream frames. No I/O.
//!
//! JSON over HTTP/1.1 on a unix socket. Times are RFC 3339 in UTC. `{id}` in a path is an instance's id or handle.
//! Byte streams (`exec`, `attach`) are connections upgraded to the protocol of [`stream`].

pub mod command_encoding;
pub mod duration;
pub mod error;
pub mod events;
pub mod handle;
pub mod image;
pub mod instance;
pub mod kit;
pub mod logs;
pub mod network;
pub mod ports;
pub mod secret;
pub mod size;
pub mod snapshot;
pub mod status;
pub mod stream;
pub mod template;
pub mod workspace;

/// Version of this API, the first segment of every path.
pub const VERSION: &str = "v1";
