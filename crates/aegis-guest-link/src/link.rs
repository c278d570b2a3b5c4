//! One session with a guest.

use std::net::Ipv4Addr;
use std::time::Duration;

use aegis_guest_protocol::flow::{CONNECTION_WINDOW, WINDOW};
use aegis_guest_protocol::frame::Nonce;
use aegis_guest_protocol::messages::{self, Hello, HelloReply};
use aegis_guest_protocol::rpc::Call;
use tokio::net::UnixStream;

use crate::connection::GuestConnection;
use crate::control::{Control, Events};
use crate::error::LinkError;
use crate::handshake::greet;
use crate::resume::Resume;
use crate::streams::{GuestStream, Streams};

/// How long the guest may take to answer the greeting and each call.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// One session with a guest. Clones share it.
#[derive(Debug, Clone)]
pub struct GuestLink {
    control: Control,
    streams: Streams,
}

impl GuestLink {
    /// Greets the guest on both pipes and says hello, which the guest may take so long to answer. For a guest that is still
    /// booting this waits until it is up.
    ///
    /// # Errors
    /// [`LinkError`]; the guest may be asked again over new pipes.
    pub async fn open(
        control: UnixStream,
        bulk: UnixStream,
        resume: Resume,
        patience: Duration,
    ) -> Result<(GuestLink, HelloReply, Events), LinkError> {
        let nonce: Nonce = random();
        let (control, bulk) =
            tokio::try_join!(greet(control, nonce, resume.returning), greet(bulk, nonce, resume.returning))?;
        let streams = Streams::start(bulk, resume);
        let (control, events) = Control::start(control, resume.events_seen, streams.end_token());
        let link = GuestLink { control, streams };
        let hello = Hello {
            oldest: messages::OLDEST_VERSION,
            newest: messages::NEWEST_VERSION,
            unix_time_ns: unix_time_ns(),
            entropy: entropy(),
            events_seen: resume.events_seen,
            stdout_held: resume.stdout_held,
            stderr_held: resume.stderr_held,
            another: resume.another,
        };
        let said = link.control.call(&hello, patience).await;
        // Whoever is not answered is gone for the guest as well.
        let reply = said.inspect_err(|_| link.close())?;
        Ok((link, reply, events))
    }

    /// Calls a method of the guest.
    ///
    /// # Errors
    /// [`LinkError::Guest`] with the guest's own error, or why there was no answer.
    pub async fn call<C: Call>(&self, call: &C) -> Result<C::Reply, LinkError> {
        self.control.call(call, CALL_TIMEOUT).await
    }

    /// Connects to a TCP port of the guest. A refusal counts as an answer only after `patience`.
    ///
    /// # Errors
    /// [`LinkError::Guest`] with [`messages::code::REFUSED`] if nothing listens there.
    pub async fn connect(&self, port: u16, patience: Duration) -> Result<GuestConnection, LinkError> {
        let stream = self.streams.open(CONNECTION_WINDOW);
        let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        let call = messages::Connect { stream: stream.id(), port, patience_ms };
        self.control.call(&call, patience.saturating_add(CALL_TIMEOUT)).await?;
        Ok(GuestConnection::new(stream))
    }

    /// Tells the guest that all events up to `seq` have been dealt with.
    ///
    /// # Errors
    /// [`LinkError::Closed`].
    pub async fn acknowledge(&self, seq: u64) -> Result<(), LinkError> {
        self.control.acknowledge(seq).await
    }

    /// A new stream. It exists for the guest once a call names its number.
    #[must_use]
    pub fn open_stream(&self) -> GuestStream {
        self.streams.open(WINDOW)
    }

    /// One of the workload's own streams; each can be taken once.
    #[must_use]
    pub fn workload_stream(&self, id: u32) -> Option<GuestStream> {
        self.streams.take(id)
    }

    /// Ends the session. The guest keeps what it owes for the next one.
    pub fn close(&self) {
        self.streams.close();
    }

    /// Waits until the session is over.
    pub async fn closed(&self) {
        self.streams.closed().await;
    }

    /// What makes a guest another instance.
    #[must_use]
    pub fn reidentify_call(
        hostname: String,
        groups: Vec<(Ipv4Addr, u8)>,
        cause: messages::Cause,
    ) -> messages::Reidentify {
        messages::Reidentify { hostname, groups, cause, entropy: entropy() }
    }

    /// What to say after a pause: the time, and fresh randomness.
    #[must_use]
    pub fn health_call() -> messages::Health {
        messages::Health { unix_time_ns: unix_time_ns(), entropy: entropy() }
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Cannot fail for so few bytes once the system is up; a predictable nonce would only be a weaker one.
    let _filled = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty());
    bytes
}

fn entropy() -> String {
    random::<32>().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unix_time_ns() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
