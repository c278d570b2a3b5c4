//! One connection to a public port.

use tokio::net::TcpStream;

use crate::backend::{Backends, Target};
use crate::splice::splice;

/// Serves a connection to its end.
pub(crate) async fn serve(backends: &dyn Backends, target: &Target, mut client: TcpStream) {
    // An old kernel delays small writes; nothing else suffers.
    let _delays = client.set_nodelay(true);
    let connected = match backends.visit(target) {
        Ok(visit) => visit.connect().await.map(|guest| (visit, guest)),
        Err(refusal) => Err(refusal),
    };
    match connected {
        Ok((visit, mut guest)) => {
            if splice(&mut client, &mut guest, &*visit).await.is_err() {
                reset(&client);
            }
        }
        Err(refusal) => {
            tracing::debug!(instance = %target.name, %refusal, "connection refused");
            reset(&client);
        }
    }
}

/// Makes the end of this connection a reset.
fn reset(client: &TcpStream) {
    // A connection that has gone needs none.
    let _gone = client.set_zero_linger();
}
