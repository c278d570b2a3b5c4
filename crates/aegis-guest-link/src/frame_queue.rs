//! Frames that wait to be written to a pipe.

use aegis_guest_protocol::frame::Frame;
use tokio::sync::mpsc;

/// Most frames that wait to be written.
pub(crate) const QUEUE: usize = 64;

pub(crate) type FrameQueue = mpsc::Sender<Frame>;
