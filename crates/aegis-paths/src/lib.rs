//! Opens paths an attacker owns a part of, without following what he put there.
//!
//! A path that was looked at once leads elsewhere the next time, where somebody else may rename or link below it: a guest
//! in its workspace, for one. Two things help, and both are here. What a user typed is opened once, links followed, as
//! they are his; whatever is below is taken from that descriptor, and a link there leads nowhere ([`Dir`]). A directory
//! that is kept by name and opened again later is compared with what it was ([`Identity`], [`open_unchanged`]). Where it
//! is on its file system, whatever that is mounted at, [`Mounts`] tells, and [`trail`] which links lead to it.

mod beneath;
mod identity;
mod lookup;
mod mounts;
mod owner;
mod remove;
mod symlink_trace;

pub use beneath::Dir;
pub use identity::{Identity, Unopened, open_unchanged, resolve};
pub use mounts::{Location, Mounts, is_kernel_interface};
pub use owner::{foreign_link, foreign_owner, foreign_part};
pub use remove::remove_tree;
pub use symlink_trace::{Link, Trail, trail};

#[cfg(test)]
mod tests;
