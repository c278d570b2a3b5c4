//! Public ports and names: connections in, spliced to whoever serves them.
//!
//! ```text
//!   listeners ──► serve ──► Backends::visit ──► Visit::connect ──► splice
//! ```
//!
//! It knows nothing of instances or machines: [`Backends`] says whom a connection is for, and reaches them.

mod backend;
mod free;
mod holder;
mod listeners;
mod serve;
mod splice;

pub use backend::{Backends, Io, Protocol, Refusal, Stream, Target, Unresolved, Visit, Wanted};
pub use listeners::{Listeners, OpenError};
