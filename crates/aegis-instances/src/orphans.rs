//! Ephemeral instances whose client has gone.

use std::time::Duration;

use aegis_lifecycle::event::Request;
use tokio::sync::oneshot;

use crate::message::{InstanceRef, Message};

/// How long an ephemeral instance lives without anybody attached.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Deletes an ephemeral instance that nobody has been attached to for a while.
pub(crate) async fn watch(reference: InstanceRef) {
    let mut clients = reference.output.clients();
    loop {
        let orphaned = async {
            if clients.wait_for(|count| *count > 0).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = orphaned => {}
            () = reference.mailbox.closed() => return,
            () = tokio::time::sleep(TIMEOUT) => {
                let (reply, gone) = oneshot::channel();
                if reference.mailbox.send(Message::Request(Request::Delete, reply)).await.is_ok() {
                    let _deleted = gone.await;
                }
                return;
            }
        }
        // The output outlives this task's reference to it.
        let _none = clients.wait_for(|count| *count == 0).await;
    }
}
