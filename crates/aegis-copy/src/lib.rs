//! Trees of files as a stream of bytes: read from a directory, and written into one, never outside it.
//!
//! Both ends of `aegis cp` are this crate: one on the host, one in the guest, which is why no program of the guest's image
//! is needed for it. [`pack`] reads a tree, [`unpack`] writes one. What comes out of a guest is hostile, and what is on the
//! host may be a workspace that a guest changes at this moment: what the user typed is opened once, and everything else is
//! taken from there, never through a symbolic link. What the copy itself names, as `b` in a copy of `a/b` to a directory,
//! is not what the user typed.
//!
//! A tree may live while it is copied: what goes or cannot be read is left out, and told ([`LeftOut`]). What is written has
//! another name until it is complete, so that whatever happens nothing is lost that was there.

mod chunks;
mod error;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod limits;
mod pack;
mod receive;
mod send;
mod skipped;
mod source_name;
mod target;
mod temporary;
mod unpack;
mod wire;

pub use error::CopyError;
pub use limits::Limits;
pub use pack::{Packed, pack, pack_beneath};
pub use skipped::{ABSENT, LeftOut, NO_ROOM, Omissions, PARTIAL, VANISHED, VOLATILE};
pub use source_name::name_of;
pub use target::Target;
pub use unpack::{Owner, unpack};

#[cfg(test)]
mod concurrent_change_tests;
#[cfg(test)]
mod tests;
