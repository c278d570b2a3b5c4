//! What can go wrong with a request about instances.

use aegis_guest_link::LinkError;
use aegis_machines::checkpoint::snapshot_store::SnapshotError;
use aegis_machines::error_chain::chain;
use aegis_registry::RegistryError;
use aegis_store::home::HomeError;
use thiserror::Error;

use aegis_lifecycle::event::Reply;
use aegis_lifecycle::stop_reason::StopReason;
use aegis_machines::network::groups::GroupError;
use aegis_spec::error::SpecError;

/// A request's failure.
#[derive(Debug, Error)]
pub enum InstanceError {
    /// A value is out of range.
    #[error(transparent)]
    Invalid(#[from] SpecError),
    /// No instance has this id or handle.
    #[error("there is no instance {0:?}")]
    NotFound(String),
    /// The handle is taken.
    #[error("an instance with the handle {0:?} exists")]
    HandleExists(String),
    /// It runs already.
    #[error("the instance is {0} already")]
    AlreadyRunning(&'static str),
    /// It is stopped.
    #[error("the instance is stopped")]
    Stopped,
    /// It is disabled.
    #[error("the instance is disabled")]
    Disabled,
    /// Its lifetime is over.
    #[error("the instance's lifetime is over")]
    LifetimeOver,
    /// It has too many connections.
    #[error("the instance has {0} connections; it can have no more")]
    TooManyConnections(u32),
    /// A secret is missing or cannot be read.
    #[error("{0}")]
    Secret(String),
    /// Nothing listens on a port of the guest.
    #[error("nothing listens on port {0} in the guest")]
    PortRefused(u16),
    /// A port contradicts what is exposed.
    #[error("{0}")]
    PortConflict(String),
    /// A port is taken.
    #[error("{0}")]
    Port(String),
    /// It cannot join a group.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// It is being deleted.
    #[error("the instance is being deleted")]
    Removed,
    /// It came to an end before it was as wanted.
    #[error("{}", .0.message)]
    Failed(StopReason),
    /// The host's disk has no room for it.
    #[error("{0}")]
    NoRoom(String),
    /// The machine refused.
    #[error("the machine refused: {0}")]
    Refused(String),
    /// The guest refused, or could not be reached.
    #[error(transparent)]
    Guest(#[from] LinkError),
    /// It did not get there in time.
    #[error("the instance was not ready within {0} seconds")]
    NotReady(u64),
    /// A file of the host is missing.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The registry could not be written.
    #[error(transparent)]
    Registry(RegistryError),
    /// The log could not be read.
    #[error(transparent)]
    Log(#[from] aegis_store::logs::LogError),
    /// Its disk could not be made.
    #[error("{}", chain(.0))]
    Disk(aegis_store::disk::DiskError),
    /// Its disk cannot grow now.
    #[error("a disk grows while its instance is stopped")]
    DiskInUse,
    /// Its disk would become smaller.
    #[error("a disk does not shrink: it has {has} MiB, and {wanted} are asked for")]
    DiskShrinks {
        /// What it has, MiB.
        has: u64,
        /// What is asked for, MiB.
        wanted: u64,
    },
    /// A copy would share what it was not said that it may share.
    #[error("{0}")]
    NotShared(String),
    /// It cannot be copied, or the copy cannot be kept.
    #[error("{0}")]
    NotCopied(String),
    /// No snapshot has this name.
    #[error("there is no snapshot {0:?}")]
    NoSnapshot(String),
    /// The name of the snapshot is taken.
    #[error("a snapshot with the name {0:?} exists")]
    SnapshotExists(String),
    /// The daemon ends.
    #[error("the daemon is stopping")]
    ShuttingDown,
}

impl From<RegistryError> for InstanceError {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::HandleTaken(handle) => InstanceError::HandleExists(handle),
            other => InstanceError::Registry(other),
        }
    }
}

impl InstanceError {
    /// The failure in a reply of the lifecycle, if it is one.
    pub(crate) fn from_reply(reply: Reply, state: &'static str) -> Result<(), InstanceError> {
        match reply {
            Reply::Done => Ok(()),
            Reply::AlreadyRunning => Err(InstanceError::AlreadyRunning(state)),
            Reply::Stopped => Err(InstanceError::Stopped),
            Reply::Disabled => Err(InstanceError::Disabled),
            Reply::LifetimeOver => Err(InstanceError::LifetimeOver),
            Reply::DaemonShutdown => Err(InstanceError::ShuttingDown),
            Reply::Removed => Err(InstanceError::Removed),
            Reply::Failed(reason) => Err(InstanceError::Failed(reason)),
            Reply::NoRoom(text) => Err(InstanceError::NoRoom(text)),
            Reply::Refused(error) => Err(InstanceError::Refused(error)),
            Reply::NotReplaced(error) => Err(InstanceError::NotCopied(error)),
        }
    }
}

impl From<SnapshotError> for InstanceError {
    fn from(error: SnapshotError) -> Self {
        match error {
            SnapshotError::Missing(name) => InstanceError::NoSnapshot(name),
            SnapshotError::Exists(name) => InstanceError::SnapshotExists(name),
            SnapshotError::Secret(text) => InstanceError::Secret(text),
            SnapshotError::Disk(error) => InstanceError::Disk(error),
            SnapshotError::Failed(text) => InstanceError::NotCopied(text),
        }
    }
}
