//! The wire between host and guest, shared by both ends.
//!
//! Two byte pipes connect them. On QEMU both are virtio-serial ports:
//!
//! ```text
//!   aegis.control   JSON-RPC 2.0: run, exec, signal, resize, health, shutdown; events back
//!   aegis.bulk      many byte streams side by side, each with its own flow control
//! ```
//!
//! Control has a pipe of its own so that bulk never delays it. Both carry the frames of [`frame`].
//!
//! # Sessions
//! The host process may die and come back while the guest runs on, and a virtio-serial port tells the guest
//! about it only if the guest happens to look. So a connection begins with a *greeting*: the host sends a fixed
//! marker and a fresh random nonce, the guest answers with its own marker and the same nonce, and each side
//! throws away whatever it receives before. A greeting found in the middle of a conversation starts it anew.
//! A frame that was cut off by the end of the old session would swallow the greeting as its payload; a returning
//! host therefore first sends [`frame::MAX_PAYLOAD`] zero bytes, which complete any such frame and are no frame
//! themselves.
//!
//! # What survives a session
//! Everything the guest owes the host has a number: events ([`outbox`]) and each byte of the workload's output
//! ([`replay`]). The guest keeps both until the host has acknowledged them, and the host's `hello` says how far
//! it got. Streams of `exec` belong to one session and end with it.
//!
//! This crate does no I/O. Every parser here takes hostile input, is bounded, and is tested with arbitrary bytes.

pub mod argument;
pub mod changes;
pub mod flow;
pub mod frame;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod messages;
pub mod outbox;
pub mod replay;
pub mod rpc;
pub mod stopped_copy;
