//! Brings members of groups together: takes the end of a connection that one machine's gateway wants, wakes who it is
//! for, and hands it to that machine's gateway. From then on it is theirs, and outlives the daemon.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aegis_gateway::ConnectOutcome;
use aegis_gateway::control::{PeerConnection, PeerRequest, Reply, Request};
use tokio::task::JoinSet;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::network::gateway_client::GatewayClient;
use crate::network::groups::Directory;
use crate::reporter::{MachineEvent, Reporter};

/// How long whoever connects waits for a member to run.
const WAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// Most connections of one gateway that are seen to at a time. More wait with it.
const MOST_AT_A_TIME: usize = 256;
/// How long a gateway may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait before a gateway is asked again that is just being replaced.
const AGAIN: Duration = Duration::from_millis(100);

/// Keeps an instance awake until it is dropped.
pub trait ActivityGuard: Send + Sync {
    /// Notes that it is still in use.
    fn touch(&self);
}

/// A connection to a member that is being made: counts as one until it is dropped.
#[async_trait]
pub trait MemberConnection: Send + Sync {
    /// Returns when the member runs: resumed or booted, if need be.
    ///
    /// # Errors
    /// Why it does not, as a sentence.
    async fn wake(&self) -> Result<(), String>;

    /// The control socket of its gateway, if it has a machine.
    fn gateway_socket(&self) -> Option<PathBuf>;

    /// How long from now a port may refuse because its server is not up yet, milliseconds.
    fn server_timeout_ms(&self) -> u64;
}

/// Whoever knows the instances that are members of groups.
pub trait GroupMembers: std::fmt::Debug + Send + Sync {
    /// Counts a connection in at an instance that it has been admitted to; `None` if it has too many, or is gone.
    fn admitted(&self, id: &str) -> Option<Box<dyn ActivityGuard>>;

    /// Counts in somebody who is about to connect to an instance.
    ///
    /// # Errors
    /// Why that cannot be, as a sentence.
    fn connect(&self, id: &str) -> Result<Box<dyn MemberConnection>, String>;
}

/// How often at most it is told that a gateway has reached one of its bounds.
const LIMITED_EVERY: Duration = Duration::from_secs(50);

/// Sees to the connections that one gateway wants.
#[derive(Debug)]
pub struct GroupBroker {
    id: String,
    socket: PathBuf,
    groups: watch::Receiver<Arc<Directory>>,
    members: Arc<dyn GroupMembers>,
    reporter: Reporter,
}

/// Tells who waits at the other end that nothing comes of it.
fn give_up(end: &OwnedFd) {
    // It may have given up itself.
    let _gone = rustix::io::write(end, &[ConnectOutcome::Unreachable.byte()]);
}

impl GroupBroker {
    /// For the instance with this id, whose gateway is at `socket`.
    #[must_use]
    pub fn new(
        id: &str,
        socket: &Path,
        groups: watch::Receiver<Arc<Directory>>,
        members: &Arc<dyn GroupMembers>,
        reporter: Reporter,
    ) -> GroupBroker {
        let members = Arc::clone(members);
        GroupBroker { id: id.to_owned(), socket: socket.to_owned(), groups, members, reporter }
    }

    /// Serves until the gateway says no more. What is under way is given up then.
    pub async fn serve(&self) -> io::Error {
        match self.converse().await {
            Ok(()) => std::future::pending().await,
            Err(error) => error,
        }
    }

    async fn converse(&self) -> io::Result<()> {
        let mut gateway = GatewayClient::open(&self.socket).await?;
        gateway.ask(&Request::Broker, None).await?;
        let mut under_way = JoinSet::new();
        let (mut visitors, mut told) = (None, BTreeMap::new());
        loop {
            tokio::select! {
                said = gateway.next(), if under_way.len() < MOST_AT_A_TIME => match said? {
                    Reply::Visitors { open } => self.count(&mut visitors, open),
                    Reply::Wanted(wanted) => match gateway.take_end() {
                        Some(end) => {
                            let directory = Arc::clone(&self.groups.borrow());
                            let members = Arc::clone(&self.members);
                            under_way.spawn(connect(directory, members, self.id.clone(), wanted, end));
                        }
                        None => return Err(io::ErrorKind::InvalidData.into()),
                    },
                    // A gateway that has been taken over says so more often than it should.
                    Reply::Limited(bound) => {
                        if told.get(&bound).is_none_or(|told: &Instant| told.elapsed() > LIMITED_EVERY) {
                            told.insert(bound, Instant::now());
                            let event = MachineEvent::Network("network_limited", Some(bound.to_string()));
                            self.reporter.tell(event).await;
                        }
                    }
                    // An older gateway knows nothing of groups.
                    Reply::Failed(_) => return Ok(()),
                    _ => return Err(io::ErrorKind::InvalidData.into()),
                },
                Some(_) = under_way.join_next() => {}
            }
        }
    }

    /// Keeps the instance awake as long as somebody is connected to it.
    fn count(&self, visitors: &mut Option<Box<dyn ActivityGuard>>, open: usize) {
        match visitors {
            Some(_) if open == 0 => *visitors = None,
            Some(guard) => guard.touch(),
            None if open > 0 => *visitors = self.members.admitted(&self.id),
            None => {}
        }
    }
}

/// Sees to one connection.
async fn connect(
    directory: Arc<Directory>,
    members: Arc<dyn GroupMembers>,
    id: String,
    wanted: PeerRequest,
    end: OwnedFd,
) {
    let failed = match reach(&directory, &*members, &id, wanted).await {
        // The connection keeps the member awake until its gateway has counted the connection in.
        Ok((_connection, mut gateway, visitor)) => {
            // The end is the other gateway's from the moment at which it is sent, whatever becomes of the answer.
            let admitted = tokio::time::timeout(TIMEOUT, admit(&mut gateway, visitor, &end)).await;
            admitted.unwrap_or_else(|late| Err(late.into())).map_err(|error| error.to_string())
        }
        Err(error) => {
            give_up(&end);
            Err(error)
        }
    };
    if let Err(error) = failed {
        tracing::debug!(id, to = %wanted.to, port = wanted.port, error, "a member of a group was not reached");
    }
}

/// Wakes the member that a connection is for, and begins to speak to its gateway. With these comes whom to announce.
async fn reach(
    directory: &Directory,
    members: &dyn GroupMembers,
    id: &str,
    wanted: PeerRequest,
) -> Result<(Box<dyn MemberConnection>, GatewayClient, PeerConnection), String> {
    // Whatever a gateway says that it wants, it gets no further than to members of its instance's groups.
    let found = directory.find(id, wanted.to);
    let (member, from) = found.ok_or_else(|| format!("{} is no member", wanted.to))?;
    let connection = members.connect(&member.id)?;
    let until = tokio::time::Instant::now() + WAKE_TIMEOUT;
    loop {
        connection.wake().await?;
        match open_gateway(&*connection).await {
            Ok(gateway) => {
                let patience_ms = connection.server_timeout_ms();
                let visitor = PeerConnection { from, own: member.address, wanted, patience_ms };
                return Ok((connection, gateway, visitor));
            }
            // Its machine is ending, or its gateway is being replaced.
            Err(_) if tokio::time::Instant::now() < until => tokio::time::sleep(AGAIN).await,
            Err(error) => return Err(error.to_string()),
        }
    }
}

async fn open_gateway(connection: &dyn MemberConnection) -> io::Result<GatewayClient> {
    let socket = connection.gateway_socket().ok_or(io::ErrorKind::NotConnected)?;
    GatewayClient::open(&socket).await
}

async fn admit(gateway: &mut GatewayClient, visitor: PeerConnection, end: &OwnedFd) -> io::Result<()> {
    gateway.ask(&Request::Admit(visitor), Some(end)).await?;
    match gateway.next().await? {
        Reply::Done => Ok(()),
        other => Err(io::Error::other(format!("{other:?}"))),
    }
}
