//! Machines of instances that are stopped: booted to reach their files, without their command being executed.
//!
//! The instance stays stopped for everybody. Its disk has one user at a time: a start that comes meanwhile waits until the
//! machine is gone, a removal ends it at once.

use std::sync::Arc;
use std::time::Duration;

use aegis_guest_link::Events;
use aegis_guest_protocol::rest::{self, AtRest};
use aegis_store::home::Home;
use aegis_vmm::Machine;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::error::InstanceError;
use crate::exec::ExecSpec;
use crate::host_directory;
use crate::lifecycle::State;
use crate::machine::boot::{self, Made};
use crate::machine::files::FileServer;
use crate::machine::session::{ExecHandle, Session};
use crate::machine::teardown;
use crate::machine::timings::Stopwatch;
use crate::manager::{Context, InstanceHandle, Instances};
use crate::reason::StopReason;
use crate::spec::{InstanceSpec, check_process};
use crate::usage::{MOST_CONNECTIONS, User};
use crate::view::View;

/// The harness as a guest's end of a copy.
const OWN_TOOL: &str = "/proc/1/exe";
/// How long that may take to end.
const GRACE: Duration = Duration::from_secs(1);

/// Who uses an instance's disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct DiskUse {
    lock: Arc<Mutex<()>>,
    removed: CancellationToken,
}

impl DiskUse {
    /// Uses the disk, as soon as nobody else does.
    pub(crate) async fn begin(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.lock).lock_owned().await
    }

    /// Uses the disk, if nobody else does.
    pub(crate) fn try_begin(&self) -> Option<OwnedMutexGuard<()>> {
        Arc::clone(&self.lock).try_lock_owned().ok()
    }

    /// Ends all use for good.
    pub(crate) async fn end(&self) {
        self.removed.cancel();
        drop(self.lock.lock().await);
    }
}

/// Keeps the machine of a stopped instance; it ends when this is dropped.
#[derive(Debug)]
pub struct Upkeep {
    _over: DropGuard,
}

/// A machine whose guest waits for execs.
struct Held {
    machine: Arc<dyn Machine>,
    files: Option<JoinHandle<()>>,
    session: Arc<Session>,
    events: Events,
}

impl Instances {
    /// Executes a process in an instance, as [`InstanceHandle::exec`] does; if it is stopped and not disabled, in a
    /// machine that does not execute its command and lasts as long as the [`Upkeep`].
    ///
    /// # Errors
    /// As of `exec`; [`InstanceError::Disabled`].
    pub async fn exec_at_rest(
        &self,
        instance: &InstanceHandle,
        exec: &ExecSpec,
    ) -> Result<(ExecHandle, Arc<Session>, Option<Upkeep>), InstanceError> {
        loop {
            match instance.exec(exec).await {
                Ok((process, session)) => return Ok((process, session, None)),
                Err(InstanceError::Stopped) => {}
                Err(error) => return Err(error),
            }
            let mut view = instance.watch();
            if !view.borrow().enabled {
                return Err(InstanceError::Disabled);
            }
            // It may be on its way there, and its disk another one's business.
            let at_rest = |view: &View| match view.state {
                State::Stopped => !view.replacing,
                _ => view.reason.is_none(),
            };
            view.wait_for(|view| at_rest(view)).await.map_err(|_| InstanceError::Removed)?;
            let disk = instance.disk();
            let guard = tokio::select! {
                biased;
                guard = disk.begin() => guard,
                _ = view.wait_for(|view| view.state != State::Stopped) => continue,
            };
            let now = instance.view();
            if now.state == State::Stopped && now.enabled && !now.replacing {
                return self.hold(instance, &now, exec, guard).await;
            }
        }
    }

    async fn hold(
        &self,
        instance: &InstanceHandle,
        view: &View,
        exec: &ExecSpec,
        guard: OwnedMutexGuard<()>,
    ) -> Result<(ExecHandle, Arc<Session>, Option<Upkeep>), InstanceError> {
        let mut process = exec.process(&view.spec, &instance.values(&view.spec)?);
        let copies = process.command.first().is_some_and(|program| *program == OWN_TOOL);
        let (spec, rest) = at_hand(&self.context().home, &view.spec, &process.workdir, copies);
        if !rest.absent.is_empty() {
            // Its own may be in what is absent.
            "/".clone_into(&mut process.workdir);
        }
        process.env.insert(rest::VARIABLE.to_owned(), rest.to_value());
        check_process(&process.command, &process.env, &process.workdir)?;
        let stay = instance.usage().enter(User::Exec);
        let stay = stay.ok_or(InstanceError::TooManyConnections(MOST_CONNECTIONS))?;
        let over = self.context().upkeep_over.child_token();
        let upkeep = Upkeep { _over: over.clone().drop_guard() };
        let (ready, when_ready) = tokio::sync::oneshot::channel();
        let context = Arc::clone(self.context());
        let view = Arc::new(View { spec: Arc::new(spec), ..view.clone() });
        let (id, removed) = (view.id.clone(), instance.disk().removed.clone());
        // Owned by the instances, which wait for it before the daemon ends.
        self.context().upkeep.spawn(async move {
            let _in_use = guard;
            let unwanted = async {
                tokio::select! {
                    () = over.cancelled() => {}
                    () = removed.cancelled() => {}
                }
            };
            match begin(&context, &view, &over, unwanted).await {
                Ok(held) => {
                    // One who is not there any more has dropped the upkeep too.
                    let _gone = ready.send(Ok(Arc::clone(&held.session)));
                    attend(held, &over, &removed).await;
                }
                Err(reason) => drop(ready.send(Err(reason))),
            }
            if let Err(error) = context.home.remove_run_dir(&id) {
                tracing::warn!(id, %error, "run-time directory not removed");
            }
        });
        let session = when_ready.await.map_err(|_| InstanceError::Removed)?.map_err(InstanceError::Failed)?;
        let process = session.exec(process, stay).await?;
        Ok((process, session, Some(upkeep)))
    }

    /// Ends the machines of stopped instances, in good order.
    pub async fn end_upkeep(&self) {
        self.context().upkeep_over.cancel();
        self.context().upkeep.close();
        self.context().upkeep.wait().await;
    }
}

/// What of an instance can be had now, and what its process is told of that. Whoever copies may do without directories of
/// the host that are not there any more, and refuses to write in their places; another program does not know, and gets
/// none of the rest either.
fn at_hand(home: &Home, of: &InstanceSpec, workdir: &str, copies: bool) -> (InstanceSpec, AtRest) {
    let (mut spec, mut rest) = (of.clone(), AtRest { workdir: workdir.to_owned(), absent: Vec::new() });
    if copies {
        spec.mounts.retain(|mount| host_directory::open(mount, home).is_ok());
        let absent = of.mounts.iter().filter(|mount| !spec.mounts.contains(mount));
        rest.absent = absent.map(|mount| mount.at.clone()).collect();
    }
    (spec, rest)
}

/// Boots a machine of a stopped instance. One that does not come up is gone when that is told.
async fn begin(
    context: &Context,
    view: &View,
    over: &CancellationToken,
    end: impl Future<Output = ()>,
) -> Result<Held, StopReason> {
    let mut made = boot::make_machine(context, &view.id, &view.spec, &Stopwatch::start(), over).await?;
    let machine = Arc::clone(&made.machine);
    let files = match FileServer::of(context, &view.id, &view.spec, None) {
        Some(server) => server.start(&machine).await.map(Some),
        None => Ok(None),
    };
    let (files, opened) = match files {
        Err(reason) => (None, Err(reason)),
        Ok(files) => {
            let opened = tokio::select! {
                opened = tokio::time::timeout(context.config.boot_timeout, open(&mut made, view)) => {
                    opened.unwrap_or_else(|_| Err(StopReason::new("boot_timeout", "the guest did not come up in time")))
                }
                ended = machine.ended() => Err(StopReason::died(&ended)),
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

async fn open(made: &mut Made, view: &View) -> Result<(Arc<Session>, Events), StopReason> {
    let (session, events) = made.session().await?;
    let prepared = session.link().call(&boot::preparation(view.name(), &view.spec)).await;
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
            () = teardown::farewell(&session, GRACE) => {}
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
