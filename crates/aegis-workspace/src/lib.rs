//! The file server behind `/workspace`: directories of the host as file systems of a guest.
//!
//! ```text
//!   guest: programs ─► kernel's FUSE ─► harness ──┐ aegis.files, frames of aegis-guest-protocol
//!                                                 ▼
//!   host:  server ─► fuse_request ─► export, fuse_reply ─► fd_cache (descriptors) ─► inode_table (names)
//!                                         └────► quota (limit on size)
//!         notifier ◄─ watcher (what others have changed)
//! ```
//!
//! One process serves one machine and ends with it; it outlives the daemon, so a guest does not notice when that is
//! restarted. It listens nowhere: its only connection is to the machine's monitor. Everything that arrives on it is
//! hostile: messages are bounded and checked ([`fuse_request`]), names are single components that are never followed through
//! symbolic links ([`fd_cache`]), and the process confines itself to the directories that it serves ([`confine`]). It is given
//! these open, and looks no path up.
//!
//! Files belong to the guest's user in the guest and to this process's user on the host, whatever the guest asks for:
//! changes of ownership are taken and have no effect, and set-user-id bits and devices are never made.

mod export;
mod fd_cache;
pub mod fuse_reply;
pub mod fuse_request;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod inode_journal;
pub mod inode_table;
mod jail_profile;
pub mod notification_queue;
mod notifier;
mod quota;
mod server;
mod watcher;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use inode_journal::MOST as MOST_TABLE;
pub use server::serve;

/// A directory of the host that a guest sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportSpec {
    /// Where the directory was when it was opened, for messages.
    pub name: PathBuf,
    /// Number of the descriptor by which the server has it.
    pub descriptor: i32,
    /// Whether the guest may only read.
    pub read_only: bool,
    /// How much may be in it.
    pub limit: Option<Limit>,
    /// Where the server writes down what the guest knows by number, for another one to go on from; the machine's own.
    pub journal: PathBuf,
}

/// A limit on what is in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Sizes of its files, and 4 KiB for each name, bytes.
    pub bytes: u64,
    /// Where the servers of one directory keep count together.
    pub ledger: PathBuf,
}

/// The server cannot go on.
#[derive(Debug, Error)]
pub enum ServerError {
    /// A directory cannot be served.
    #[error("{}: {source}", path.display())]
    Export {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The connection failed.
    #[error("the connection to the guest failed: {0}")]
    Connection(#[from] std::io::Error),
}
