//! Public ports and names: connections in, spliced to whoever serves them.
//!
//! ```text
//!   listeners ──► serve ───────► Backends::upstream ──► Upstream::connect ──► splice
//!   by_name ────► proxy ──► Backends::resolve ──┘          └──► pool of HTTP connections
//! ```
//!
//! It knows nothing of instances or machines: [`Backends`] says whom a connection is for, and reaches them.

mod backend;
mod by_name;
mod free;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod holder;
mod listeners;
mod manners;
mod serve;
mod splice;

pub use backend::{Backends, Io, PortOwner, Protocol, Refusal, Stream, Target, Unresolved, Upstream, Wanted};
pub use by_name::{Admission, Names};
pub use holder::process as holder;
pub use listeners::{Listeners, OpenError};
