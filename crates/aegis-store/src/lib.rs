//! Everything durable on the host but the registry: the logs, the disks, and the layout of the home directory.
//!
//! This crate knows files, SQLite and bytes. It knows nothing of HTTP, of virtual machines or of what an
//! instance is about to do: rows, events and log records carry what its callers give it.
//!
//! - [`home`]: where everything lives, and the lock that makes one daemon the owner of a home.
//! - [`logs`]: what instances wrote, byte for byte.
//! - [`disk`]: making an instance's writable disk.
//! - [`secrets`]: sealed values, and the key that seals them.
//! - [`workspaces`]: directories that instances share with the host, by name.
//! - [`machine_state`]: machines at rest, in files.
//! - [`free_space`]: what a file system has left, and when that is too little.
//! - [`reserve`]: room that is kept so that it can be given up.
//! - [`orphans`]: removing what belongs to no instance.

pub mod disk;
pub mod free_space;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod home;
pub mod logs;
pub mod machine_state;
pub mod orphans;
pub mod reserve;
pub mod secrets;
pub mod workspaces;
