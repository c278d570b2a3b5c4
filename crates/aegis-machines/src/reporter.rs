//! What a machine tells its owner, from one boot to its teardown.

use std::sync::Arc;

use aegis_guest_protocol::messages::ExitStatus;
use aegis_lifecycle::event::Boot;
use aegis_lifecycle::idle_policy::Lease;
use aegis_lifecycle::stop_reason::StopReason;
use tokio::sync::{mpsc, oneshot};

use crate::output::Output;

/// What happened to a machine or in its guest.
#[derive(Debug)]
pub enum MachineEvent {
    /// The machine is there: to be stored, and then confirmed.
    Started(oneshot::Sender<()>),
    /// The command ended, and its output has been taken to the end: to be stored, and then confirmed.
    Exited {
        /// How it ended.
        status: ExitStatus,
        /// Whether the guest ran out of memory.
        out_of_memory: bool,
        /// Confirms that it is stored.
        stored: oneshot::Sender<()>,
    },
    /// The guest worked.
    Active,
    /// The guest wants to stay awake, or no longer does.
    Lease(Option<Lease>),
    /// The guest has shut down in good order, as it was told to, perhaps by a daemon that is no more.
    Goodbye,
    /// The machine ended by itself, or is of no use any more.
    Died(StopReason),
    /// Something happened to its network: a stable word, and more about it.
    Network(&'static str, Option<String>),
}

/// Where events of all boots of one instance arrive, each with the number of its boot.
pub type MachineEvents = mpsc::Sender<(Boot, MachineEvent)>;

/// Reports on the machine of one boot: events to its owner, lines to the instance's log.
#[derive(Debug, Clone)]
pub struct Reporter {
    boot: Boot,
    events: MachineEvents,
    output: Arc<Output>,
}

impl Reporter {
    /// For the machine of this boot.
    #[must_use]
    pub fn new(boot: Boot, events: MachineEvents, output: Arc<Output>) -> Reporter {
        Reporter { boot, events, output }
    }

    /// The number of the boot.
    #[must_use]
    pub fn boot(&self) -> Boot {
        self.boot
    }

    /// Where the command's output goes.
    #[must_use]
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// Tells the owner. One that has gone has no use for it.
    pub async fn tell(&self, event: MachineEvent) {
        let _gone = self.events.send((self.boot, event)).await;
    }

    /// Tells the owner that the machine is there, and waits until that is stored: a daemon that dies then finds it again.
    pub async fn started(&self) {
        let (done, stored) = oneshot::channel();
        self.tell(MachineEvent::Started(done)).await;
        let _gone = stored.await;
    }

    /// Notes something in the instance's log.
    pub fn log(&self, text: &str) {
        self.output.log_system(text);
    }
}
