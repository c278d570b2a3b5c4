//! What a client says on an upgraded connection, carried to a process.

use std::sync::Arc;

use aegis_api::stream::Frame;
use aegis_guest_protocol::messages::{Resize, Signal, Target};
use aegis_machines::session::Session;

use crate::mapping;
use crate::stream::Incoming;

/// Carries the client's frames to the process until the client has gone.
pub(crate) async fn client(
    mut incoming: Incoming,
    session: Arc<Session>,
    target: Target,
    stdin: Arc<aegis_guest_link::GuestStream>,
) {
    while let Some(frame) = incoming.next().await {
        if !pass_on(frame, &session, target, &stdin).await {
            return;
        }
    }
}

/// Passes one frame of a client on. Returns false for what no client says.
///
/// What the process does not want any more is dropped: its exit is told by the other direction.
pub(crate) async fn pass_on(
    frame: Frame,
    session: &Session,
    target: Target,
    stdin: &aegis_guest_link::GuestStream,
) -> bool {
    match frame {
        Frame::Stdin(bytes) => drop(stdin.write(bytes).await),
        Frame::StdinEnd => drop(stdin.finish().await),
        Frame::Signal(signal) => drop(session.link().call(&Signal { target, signal: signal.into() }).await),
        Frame::Resize(size) => drop(session.link().call(&Resize { target, size: mapping::size(size) }).await),
        Frame::Started(_)
        | Frame::Stdout(_)
        | Frame::Stderr(_)
        | Frame::Exit(_)
        | Frame::Error(_)
        | Frame::Notice(_) => {
            return false;
        }
    }
    true
}
