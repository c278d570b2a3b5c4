//! Maintenance machines: machines of instances that are stopped, booted to reach their files, without their command being
//! executed.
//!
//! The instance stays stopped for everybody. Its disk has one user at a time: a start that comes meanwhile waits until the
//! machine is gone, a removal ends it at once.

use std::sync::Arc;
use std::time::Duration;

use aegis_guest_link::Events;
use aegis_guest_protocol::messages::Process;
use aegis_guest_protocol::stopped_copy::{self, AtRest};
use aegis_lifecycle::stop_reason::StopReason;
use aegis_spec::instance::InstanceSpec;
use aegis_store::home::Home;
use aegis_vmm::Machine;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::boot_timings::Stopwatch;
use crate::disk_lock::DiskGuard;
use crate::guest_calls::preparation;
use crate::helpers::Helpers;
use crate::host_directory;
use crate::machine_factory::{MachineFactory, NewMachine};
use crate::session::Session;
use crate::stop_reasons;
use crate::teardown;

/// The harness as a guest's end of a copy.
const OWN_TOOL: &str = "/proc/1/exe";
/// How long that may take to end.
const GRACE: Duration = Duration::from_secs(1);

/// The stopped instance that a machine is booted for.
#[derive(Debug)]
pub struct StoppedInstance {
    /// Its id.
    pub id: String,
    /// What its guest calls itself.
    pub hostname: String,
    /// What it is made of.
    pub spec: InstanceSpec,
}

/// Boots maintenance machines.
#[derive(Debug, Clone)]
pub struct Maintenance {
    /// Makes the machines.
    pub factory: MachineFactory,
    /// Starts their helpers.
    pub helpers: Helpers,
    /// How long a guest may take to come up.
    pub timeout: Duration,
    /// Owns the machines' tasks, which are waited for before the daemon ends.
    pub tasks: TaskTracker,
    /// The daemon ends.
    pub shutdown: CancellationToken,
}

/// Keeps a maintenance machine; it ends when this is dropped.
#[derive(Debug)]
pub struct MaintenanceMachine {
    _over: DropGuard,
}

/// A machine whose guest waits for execs.
struct Held {
    machine: Arc<dyn Machine>,
    files: Option<JoinHandle<()>>,
    session: Arc<Session>,
    events: Events,
}

/// What of an instance can be had now, and the process as it is told of that. Whoever copies may do without directories of
/// the host that are not there any more, and refuses to write in their places; another program does not know, and gets
/// none of the rest either.
#[must_use]
pub fn available(home: &Home, of: &InstanceSpec, mut process: Process) -> (InstanceSpec, Process) {
    let mut spec = of.clone();
    let mut rest = AtRest { workdir: process.workdir.clone(), absent: Vec::new() };
    if process.command.first().is_some_and(|program| *program == OWN_TOOL) {
        spec.mounts.retain(|mount| host_directory::open(mount, home).is_ok());
        let absent = of.mounts.iter().filter(|mount| !spec.mounts.contains(mount));
        rest.absent = absent.map(|mount| mount.at.clone()).collect();
    }
    if !rest.absent.is_empty() {
        // Its own may be in what is absent.
        "/".clone_into(&mut process.workdir);
    }
    process.env.insert(stopped_copy::VARIABLE.to_owned(), rest.to_value());
    (spec, process)
}

impl Maintenance {
    /// Boots a machine for a stopped instance whose disk is held. `removed` ends it at once.
    ///
    /// # Errors
    /// If it does not come up. Then it is gone.
    pub async fn start(
        &self,
        of: StoppedInstance,
        disk: DiskGuard,
        removed: CancellationToken,
    ) -> Result<(Arc<Session>, MaintenanceMachine), StopReason> {
        let over = self.shutdown.child_token();
        let machine = MaintenanceMachine { _over: over.clone().drop_guard() };
        let (ready, when_ready) = tokio::sync::oneshot::channel();
        let this = self.clone();
        self.tasks.spawn(async move {
            let _in_use = disk;
            let unwanted = async {
                tokio::select! {
                    () = over.cancelled() => {}
                    () = removed.cancelled() => {}
                }
            };
            match this.begin(&of, &over, unwanted).await {
                Ok(held) => {
                    // One who is not there any more has dropped the machine too.
                    let _gone = ready.send(Ok(Arc::clone(&held.session)));
                    attend(held, &over, &removed).await;
                }
                Err(reason) => drop(ready.send(Err(reason))),
            }
            let id = &of.id;
            if let Err(error) = this.helpers.home.remove_run_dir(id) {
                tracing::warn!(id, %error, "run-time directory not removed");
            }
        });
        let session = when_ready.await.unwrap_or_else(|_| Err(StopReason::deleted()))?;
        Ok((session, machine))
    }

    /// Boots the machine. One that does not come up is gone when that is told.
    async fn begin(
        &self,
        of: &StoppedInstance,
        over: &CancellationToken,
        end: impl Future<Output = ()>,
    ) -> Result<Held, StopReason> {
        let mut made = self.factory.make(&of.id, &of.spec, &Stopwatch::start(), over).await?;
        let machine = Arc::clone(&made.machine);
        let (files, opened) = match self.helpers.start_file_server(&of.id, &of.spec, &machine).await {
            Err(reason) => (None, Err(reason)),
            Ok(files) => {
                let opened = tokio::select! {
                    opened = tokio::time::timeout(self.timeout, open(&mut made, of)) => {
                        opened.unwrap_or_else(|_| Err(StopReason::new("boot_timeout", "the guest did not come up in time")))
                    }
                    ended = machine.ended() => Err(stop_reasons::died(&ended)),
                    () = end => Err(StopReason::stopped()),
                };
                (files, opened)
            }
        };
        match opened {
            Ok((session, events)) => Ok(Held { machine, files, session, events }),
            Err(reason) => {
                unplug(&*machine, files).await;
                Err(reason)
            }
        }
    }

    /// Ends all maintenance machines in good order, and waits for all other tasks in the background.
    pub async fn end(&self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn open(made: &mut NewMachine, of: &StoppedInstance) -> Result<(Arc<Session>, Events), StopReason> {
    let (session, events) = made.session().await?;
    let prepared = session.link().call(&preparation(&of.hostname, &of.spec)).await;
    prepared.map_err(|error| StopReason::unreachable(&error))?;
    Ok((session, events))
}

async fn unplug(machine: &dyn Machine, files: Option<JoinHandle<()>>) {
    machine.stop().await;
    if let Some(files) = files {
        // A task that panicked has ended too.
        let _ended = files.await;
    }
}

/// Serves a guest until nobody needs it, and ends it in good order.
async fn attend(held: Held, over: &CancellationToken, removed: &CancellationToken) {
    let Held { machine, files, session, events } = held;
    let listening = session.attend(events);
    let serving = async {
        tokio::select! {
            () = over.cancelled() => {}
            () = removed.cancelled() => return,
            _ = machine.ended() => return,
        }
        tokio::select! {
            () = teardown::shut_down_guest(&session, GRACE) => {}
            () = removed.cancelled() => {}
        }
    };
    tokio::pin!(listening, serving);
    tokio::select! {
        () = &mut serving => {}
        () = &mut listening => serving.await,
    }
    unplug(&*machine, files).await;
}
