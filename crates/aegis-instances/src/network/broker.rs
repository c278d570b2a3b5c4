//! Brings members of groups together: takes the end of a connection that one machine's gateway wants, wakes who it is
//! for, and hands it to that machine's gateway. From then on it is theirs, and outlives the daemon.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aegis_gateway::Verdict;
use aegis_gateway::control::{Reply, Request, Visitor, Wanted};
use tokio::task::JoinSet;

use crate::error::InstanceError;
use crate::ingress::{Visit, WAKE_TIMEOUT};
use crate::machine::live::Live;
use crate::manager::Context;
use crate::network::conversation::Conversation;
use crate::usage::{Stay, User};

/// Most connections of one gateway that are seen to at a time. More wait with it.
const MOST_AT_A_TIME: usize = 256;
/// How long a gateway may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait before a gateway is asked again that is just being replaced.
const AGAIN: Duration = Duration::from_millis(100);

/// Sees to the connections that one gateway wants.
#[derive(Debug)]
pub(crate) struct Broker {
    context: Arc<Context>,
    id: String,
    socket: PathBuf,
    live: Arc<Live>,
}

/// Tells who waits at the other end that nothing comes of it.
fn give_up(end: &OwnedFd) {
    // It may have given up itself.
    let _gone = rustix::io::write(end, &[Verdict::Unreachable.byte()]);
}

impl Broker {
    pub(crate) fn new(context: &Arc<Context>, id: &str, socket: &Path, live: &Arc<Live>) -> Broker {
        let (context, live) = (Arc::clone(context), Arc::clone(live));
        Broker { context, id: id.to_owned(), socket: socket.to_owned(), live }
    }

    /// Serves until the gateway says no more. What is under way is given up then.
    pub(crate) async fn serve(&self) -> io::Error {
        match self.converse().await {
            Ok(()) => std::future::pending().await,
            Err(error) => error,
        }
    }

    async fn converse(&self) -> io::Result<()> {
        let mut gateway = Conversation::open(&self.socket).await?;
        gateway.ask(&Request::Broker, None).await?;
        let mut under_way = JoinSet::new();
        let mut visitors = None;
        loop {
            tokio::select! {
                said = gateway.next(), if under_way.len() < MOST_AT_A_TIME => match said? {
                    Reply::Visitors { open } => self.count(&mut visitors, open),
                    Reply::Wanted(wanted) => match gateway.take_end() {
                        Some(end) => {
                            under_way.spawn(connect(Arc::clone(&self.context), self.id.clone(), wanted, end));
                        }
                        None => return Err(io::ErrorKind::InvalidData.into()),
                    },
                    Reply::Limited(bound) => {
                        self.live.network_event("network_limited", Some(bound.to_string())).await;
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
    fn count(&self, visitors: &mut Option<Stay>, open: usize) {
        match visitors {
            Some(_) if open == 0 => *visitors = None,
            Some(stay) => stay.carried(0, 0),
            None if open > 0 => {
                let instance = self.context.find(&self.id);
                *visitors = instance.ok().and_then(|instance| instance.usage().enter(User::Connection));
            }
            None => {}
        }
    }
}

/// Sees to one connection.
async fn connect(context: Arc<Context>, id: String, wanted: Wanted, end: OwnedFd) {
    let failed = match reach(&context, &id, wanted).await {
        // The visit keeps the member awake until its gateway has counted the connection in.
        Ok((_visit, mut gateway, visitor)) => {
            // The end is the other gateway's from the moment at which it is sent, whatever becomes of the answer.
            let admitted = tokio::time::timeout(PATIENCE, admit(&mut gateway, visitor, &end)).await;
            admitted.unwrap_or_else(|late| Err(late.into())).map_err(|error| error.to_string())
        }
        Err(error) => {
            give_up(&end);
            Err(error.to_string())
        }
    };
    if let Err(error) = failed {
        tracing::debug!(id, to = %wanted.to, port = wanted.port, error, "a member of a group was not reached");
    }
}

/// Wakes the member that a connection is for, and begins to speak to its gateway. With these comes whom to announce.
async fn reach(
    context: &Context,
    id: &str,
    wanted: Wanted,
) -> Result<(Visit, Conversation, Visitor), InstanceError> {
    let directory = context.groups.directory();
    // Whatever a gateway says that it wants, it gets no further than to members of its instance's groups.
    let found = directory.find(id, wanted.to);
    let (member, from) = found.ok_or_else(|| InstanceError::NotFound(wanted.to.to_string()))?;
    let visit = context.find(&member.id)?.visit()?;
    let until = tokio::time::Instant::now() + WAKE_TIMEOUT;
    loop {
        visit.wake().await?;
        match speak_to(&visit).await {
            Ok(gateway) => {
                let patience_ms = visit.patience_ms();
                let visitor = Visitor { from, own: member.address, wanted, patience_ms };
                return Ok((visit, gateway, visitor));
            }
            // Its machine is ending, or its gateway is being replaced.
            Err(_) if tokio::time::Instant::now() < until => tokio::time::sleep(AGAIN).await,
            Err(_) => return Err(InstanceError::NotReady(WAKE_TIMEOUT.as_secs())),
        }
    }
}

async fn speak_to(visit: &Visit) -> io::Result<Conversation> {
    let network = visit.network().ok_or(io::ErrorKind::NotConnected)?;
    Conversation::open(&network.socket).await
}

async fn admit(gateway: &mut Conversation, visitor: Visitor, end: &OwnedFd) -> io::Result<()> {
    gateway.ask(&Request::Admit(visitor), Some(end)).await?;
    match gateway.next().await? {
        Reply::Done => Ok(()),
        other => Err(io::Error::other(format!("{other:?}"))),
    }
}
