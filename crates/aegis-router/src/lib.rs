//! Public ports and names: connections in, spliced to whoever serves them.
//!
//! ```text
//!   listeners ──► port_connection ► Backends::upstream ──► Upstream::connect ──► splice
//!   by_name ────► proxy ──► Backends::resolve ──┘          └──► pool of HTTP connections
//! ```
//!
//! It knows nothing of instances or machines: [`Backends`] says whom a connection is for, and reaches them.

mod backend;
mod by_name;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod listeners;
mod loading_page;
mod port_allocator;
mod port_connection;
mod port_owner;
mod protocol_replies;
mod splice;

pub use backend::{
    Backends, InstanceIdentity, InstanceName, Io, Protocol, Refusal, Stream, Target, Unresolved, Upstream,
};
pub use by_name::{Admission, NameRouter};
pub use listeners::{Listeners, OpenError};
pub use port_owner::process as port_owner;
