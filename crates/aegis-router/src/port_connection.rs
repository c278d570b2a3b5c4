//! One connection to a public port: held while its instance wakes, then spliced.

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::backend::{Backends, Protocol, Refusal, Stream, Target, Upstream};
use crate::protocol_replies::{self, ClientProtocol, LONGEST_HEAD};
use crate::splice::splice;

/// How long a browser waits before it gets a page to look at.
pub(crate) const PATIENCE: Duration = Duration::from_millis(300);
/// How long a client that cannot be served may take for the head of its request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client may take to read a last reply and close.
const FAREWELL: Duration = Duration::from_secs(1);

/// What a client has sent before anybody took it.
#[derive(Debug, Default)]
struct Early {
    bytes: BytesMut,
    ended: bool,
}

impl Early {
    fn wants_more(&self) -> bool {
        !self.ended && self.bytes.len() < LONGEST_HEAD
    }

    async fn read(&mut self, client: &mut TcpStream) -> std::io::Result<()> {
        let room = LONGEST_HEAD.saturating_sub(self.bytes.len());
        self.bytes.reserve(room.min(4096));
        self.ended = client.read_buf(&mut (&mut self.bytes).limit(room)).await? == 0;
        Ok(())
    }
}

/// Serves a connection to its end.
pub(crate) async fn serve(backends: &dyn Backends, target: &Target, mut client: TcpStream) {
    // An old kernel delays small writes; nothing else suffers.
    let _delays = client.set_nodelay(true);
    let mut early = Early::default();
    let upstream = match backends.upstream(target) {
        Ok(upstream) => upstream,
        Err(refusal) => return refuse(client, early, target, &refusal).await,
    };
    let inspected = target.protocol != Protocol::Tcp && !upstream.is_awake();
    let connected = if inspected {
        match hold(&*upstream, target, &mut client, &mut early).await {
            Some(connected) => connected,
            None => return,
        }
    } else {
        upstream.connect().await
    };
    match connected {
        Ok(mut guest) => {
            let begun = begin(&mut guest, &early, &*upstream).await;
            drop(early);
            if begun.is_err() || splice(&mut client, &mut guest, &*upstream).await.is_err() {
                reset(&client);
            }
        }
        Err(refusal) => refuse(client, early, target, &refusal).await,
    }
}

/// Holds a client while its instance wakes, and takes what it says meanwhile. `None` if it is dealt with: a browser has
/// got a page, or the client has gone.
async fn hold(
    upstream: &dyn Upstream,
    target: &Target,
    client: &mut TcpStream,
    early: &mut Early,
) -> Option<Result<Stream, Refusal>> {
    let connecting = upstream.connect();
    tokio::pin!(connecting);
    let until = Instant::now() + PATIENCE;
    let mut patient = true;
    loop {
        tokio::select! {
            biased;
            connected = &mut connecting => return Some(connected),
            read = early.read(client), if early.wants_more() => {
                if read.is_err() {
                    return None;
                }
            }
            () = tokio::time::sleep_until(until), if patient => patient = false,
        }
        if !patient && protocol_replies::classify(&early.bytes) == ClientProtocol::Navigation {
            say(client, &protocol_replies::waiting_reply(target, upstream.state())).await;
            return None;
        }
    }
}

/// What came early goes first.
async fn begin(guest: &mut Stream, early: &Early, upstream: &dyn Upstream) -> std::io::Result<()> {
    guest.write_all(&early.bytes).await?;
    upstream.passed(early.bytes.len() as u64, 0);
    Ok(())
}

async fn refuse(mut client: TcpStream, mut early: Early, target: &Target, refusal: &Refusal) {
    tracing::debug!(instance = %target.name, %refusal, "connection refused");
    if target.protocol == Protocol::Tcp {
        return reset(&client);
    }
    let until = Instant::now() + HEAD_TIMEOUT;
    while protocol_replies::classify(&early.bytes) == ClientProtocol::Incomplete && early.wants_more() {
        if !matches!(timeout_at(until, early.read(&mut client)).await, Ok(Ok(()))) {
            break;
        }
    }
    match protocol_replies::failure_reply(protocol_replies::classify(&early.bytes), target, refusal) {
        Some(reply) => say(&mut client, &reply).await,
        None => reset(&client),
    }
}

/// Says something last. What the client still sends is taken, so that it does not come between the reply and its reader.
async fn say(client: &mut TcpStream, reply: &[u8]) {
    let farewell = async {
        client.write_all(reply).await?;
        client.shutdown().await?;
        let mut rest = [0; 4096];
        while client.read(&mut rest).await? > 0 {}
        std::io::Result::Ok(())
    };
    // A client that has gone, or stays for ever, hears no more.
    let _late = timeout(FAREWELL, farewell).await;
}

/// Makes the end of this connection a reset.
fn reset(client: &TcpStream) {
    // A connection that has gone needs none.
    let _gone = client.set_zero_linger();
}
