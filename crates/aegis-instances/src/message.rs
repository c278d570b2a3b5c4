//! Messages to the actor of an instance, and what others hold of one.

use std::sync::Arc;

use aegis_lifecycle::event::{Boot, Event, Reply, Request};
use aegis_lifecycle::idle_policy::Lease;
use aegis_machines::boot_timings::Timings;
use aegis_machines::checkpoint::capture::{Checkpoint, CheckpointSource};
use aegis_machines::disk_lock::DiskLock;
use aegis_machines::environment::EnvironmentSources;
use aegis_machines::machine_run::MachineRun;
use aegis_machines::output::Output;
use aegis_spec::network::NetworkChange;
use tokio::sync::{mpsc, oneshot, watch};

use crate::cancellation::Caller;
use crate::error::InstanceError;
use crate::metrics::Metrics;
use crate::ports::PortRequest;
use crate::spec_update::Revision;
use crate::usage::Usage;
use crate::view::View;

/// What its disk is to be replaced by.
#[derive(Debug)]
pub(crate) struct Replacement {
    /// The snapshot's name.
    pub(crate) name: String,
    /// What was kept.
    pub(crate) checkpoint: Checkpoint,
    /// Whether it runs afterwards.
    pub(crate) runs: bool,
    /// Whether whoever asked has gone.
    pub(crate) caller: Caller,
}

/// What became of it: the snapshot's name, and where the next machine goes on, if one was kept.
pub(crate) type Replaced = Result<(String, Option<CheckpointSource>), String>;

/// What an actor is told.
#[derive(Debug)]
pub(crate) enum Message {
    /// Somebody wants something.
    Request(Request, oneshot::Sender<Reply>),
    /// The time of the command of this boot is up.
    TimeUp(Boot),
    /// Something happened.
    Event(Event),
    /// Where the time of this boot went.
    BootTimed(Boot, Timings),
    /// The daemon is ready to serve ports. To be confirmed when they are open.
    Listen(oneshot::Sender<()>),
    /// Ports are to be exposed: all of them or none.
    Expose(Vec<PortRequest>, oneshot::Sender<Result<(), InstanceError>>),
    /// A port of the guest is to be exposed no longer.
    Unexpose(u16, oneshot::Sender<Result<(), InstanceError>>),
    /// Its network is to change.
    Network(NetworkChange, oneshot::Sender<Result<(), InstanceError>>),
    /// Its specification is to change.
    Revise(Revision, oneshot::Sender<Result<(), InstanceError>>),
    /// Its disk is to be replaced.
    Replace(Box<Replacement>, oneshot::Sender<Reply>),
    /// Its disk has been replaced, or has not.
    Replaced(Replaced),
    /// The host's disk is full, how full, and this instance fills it; or, if absent, there is room again.
    DiskPressure(Option<String>),
    /// It is to stay awake for a while; or no longer, if absent.
    Lease(Option<Lease>),
}

/// What others hold of an instance.
#[derive(Debug, Clone)]
pub(crate) struct InstanceRef {
    pub(crate) mailbox: mpsc::Sender<Message>,
    pub(crate) view: watch::Receiver<Arc<View>>,
    pub(crate) output: Arc<Output>,
    pub(crate) usage: Arc<Usage>,
    pub(crate) metrics: Metrics,
    pub(crate) environment: EnvironmentSources,
    /// The run of its machine, while there is one.
    pub(crate) run: watch::Receiver<Option<Arc<MachineRun>>>,
    pub(crate) disk: DiskLock,
}
