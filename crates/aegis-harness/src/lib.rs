//! PID 1 of every guest: mounts the root, runs the workload, and answers the host.
//!
//! ```text
//!   aegis.control ──► control ──► processes ──► child::spawn, reaper
//!                        │            │
//!                        ▼            ▼
//!   aegis.bulk ◄──► streams ◄──── stdio_forwarder (pipes and terminals of the processes)
//!                        ▲
//!                        └─────── connections (the guest's TCP ports)
//!
//!   /run/aegis/api.sock ──► guest_api ──► events
//! ```
//!
//! One thread runs everything, so state is shared by `Rc` and needs no lock. Whatever touches the machine
//! itself (mounts, clock, killing all processes) is behind [`platform::Platform`], so that the rest runs and is
//! tested on any Linux host. Nothing that the host sends, or fails to send, ends the harness.

pub mod activity;
pub mod async_fd;
pub mod connections;
pub mod control;
pub mod guest_api;
pub mod hooks;
pub mod keepalive;
pub mod listen_watch;
pub mod machine_parts;
pub mod module_index;
pub mod outbound_sockets;
pub mod path_lookup;
pub mod platform;
pub mod port_writer;
pub mod process_user;
pub mod processes;
pub mod stdio_forwarder;
pub mod streams;
pub mod terminal_eof;
pub mod virtio_port;
pub mod workload_output;

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use platform::Platform;

/// Serves the host on the two ports until the end of time.
///
/// # Errors
/// If the ports cannot be watched.
pub async fn serve(control: OwnedFd, bulk: OwnedFd, platform: Rc<dyn Platform>) -> io::Result<()> {
    let streams = streams::Streams::start(bulk)?;
    control::Control::start(control, streams, platform)?.run().await
}
