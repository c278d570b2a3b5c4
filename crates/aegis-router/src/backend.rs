//! Whom connections are for, and how they are reached.

use std::fmt::{self, Debug};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};

/// What is spoken on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1, or HTTP/2 without TLS.
    Http,
    /// Anything.
    Tcp,
    /// gRPC.
    Grpc,
    /// WebSocket, or HTTP.
    Ws,
}

impl Protocol {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Http => "http",
            Protocol::Tcp => "tcp",
            Protocol::Grpc => "grpc",
            Protocol::Ws => "ws",
        }
    }
}

/// A word that names no protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("there are the protocols http, tcp, grpc, ws")]
pub struct NoProtocol;

impl FromStr for Protocol {
    type Err = NoProtocol;

    fn from_str(word: &str) -> Result<Protocol, NoProtocol> {
        let all = [Protocol::Http, Protocol::Tcp, Protocol::Grpc, Protocol::Ws];
        all.into_iter().find(|protocol| protocol.as_str() == word).ok_or(NoProtocol)
    }
}

/// What a connection is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// Id of the instance.
    pub instance: Arc<str>,
    /// Its handle, or else its id.
    pub name: Arc<str>,
    /// Port in its guest.
    pub guest_port: u16,
    /// What is spoken there.
    pub protocol: Protocol,
}

/// A byte stream in both directions. Shutting it down ends its writing side only; dropping one that has not ended in
/// both directions resets it.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Any byte stream.
pub type Stream = Box<dyn Io>;

/// Why a connection is not served.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The instance is disabled.
    #[error("the instance is disabled")]
    Disabled,
    /// The instance does not exist any more.
    #[error("the instance does not exist")]
    Gone,
    /// The instance stopped instead of serving.
    #[error("the instance stopped: {0}")]
    Stopped(String),
    /// The instance has as many connections as it can have.
    #[error("the instance has too many connections")]
    TooManyConnections,
    /// Nothing listens there.
    #[error("nothing listens on port {0} in the instance")]
    PortRefused(u16),
    /// It did not come up in time.
    #[error("the instance was not ready within {} seconds", .0.as_secs())]
    TimedOut(Duration),
    /// Something else.
    #[error("{0}")]
    Failed(String),
}

impl Refusal {
    /// A stable word.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::Disabled => "instance_disabled",
            Refusal::Gone => "not_found",
            Refusal::Stopped(_) => "instance_stopped",
            Refusal::TooManyConnections => "too_many_connections",
            Refusal::PortRefused(_) => "port_refused",
            Refusal::TimedOut(_) => "timed_out",
            Refusal::Failed(_) => "failed",
        }
    }
}

/// What a request to the name router names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum InstanceName {
    /// An instance, by handle or id: its first HTTP port.
    Handle(String),
    /// A given port of an instance.
    HandlePort(String, u16),
    /// The only one there is.
    Only,
}

/// A name that means nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unresolved {
    /// Why, as a sentence.
    pub message: String,
    /// The names that mean something.
    pub names: Vec<String>,
}

/// Whoever serves.
pub trait Backends: Debug + Send + Sync {
    /// Counts a connection or a request in, until the upstream is dropped.
    ///
    /// # Errors
    /// [`Refusal`].
    fn upstream(&self, target: &Target) -> Result<Arc<dyn Upstream>, Refusal>;

    /// What a name means.
    ///
    /// # Errors
    /// [`Unresolved`].
    fn resolve(&self, wanted: &InstanceName) -> Result<Target, Unresolved>;

    /// Whose public port this is: what it serves is an instance's, by whatever name of this machine it is reached.
    fn instance_of_port(&self, public_port: u16) -> Option<InstanceIdentity>;
}

/// The instance that a public port belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceIdentity {
    /// Its id.
    pub instance: Arc<str>,
    /// Its handle, or else its id.
    pub name: Arc<str>,
}

/// A connection or request on its way.
#[async_trait]
pub trait Upstream: Debug + Send + Sync {
    /// Whether the instance runs at this moment, and nothing is under way that would change that.
    fn is_awake(&self) -> bool;

    /// The word for its state.
    fn state(&self) -> &'static str;

    /// Returns when it runs.
    ///
    /// # Errors
    /// [`Refusal`].
    async fn wake(&self) -> Result<(), Refusal>;

    /// Returns when the machine that it is connected to runs: it goes on if it stands still, and is never booted. One that
    /// somebody has just let stand still may be waited for without end.
    ///
    /// # Errors
    /// [`Refusal`]; [`Refusal::Stopped`] and [`Refusal::Gone`] if that machine is no more.
    async fn go_on(&self) -> Result<(), Refusal>;

    /// Returns when the machine that it was connected to is no more.
    async fn cut(&self);

    /// Connects, waking it if need be. Bounded in time. Abandoned, it gives up the connection and not the wake.
    ///
    /// # Errors
    /// [`Refusal`].
    async fn connect(&self) -> Result<Stream, Refusal>;

    /// Notes bytes that were carried.
    fn passed(&self, to_guest: u64, from_guest: u64);
}

impl fmt::Display for Protocol {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}
