//! The host's end of the guest protocol: calls, events, and streams over two byte pipes.
//!
//! A [`GuestLink`] is one session. When either pipe breaks, or the guest breaks the rules, the whole session ends:
//! every call fails, every stream ends, and the event channel closes. A new session starts with a new link and
//! says how far the old one got ([`Resume`]).
//!
//! Everything the guest sends is hostile. Frames are bounded by the protocol crate, stream data by flow control,
//! events by the channel's capacity; exceeding any of them ends the session.

mod connection;
mod control;
mod error;
mod frame_queue;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod handshake;
mod link;
mod resume;
mod streams;

pub use connection::GuestConnection;
pub use control::Events;
pub use error::LinkError;
pub use link::{CALL_TIMEOUT, GuestLink};
pub use resume::Resume;
pub use streams::GuestStream;
