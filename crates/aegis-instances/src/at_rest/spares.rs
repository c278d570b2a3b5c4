//! A machine that is ready before anybody asks for it: one, of the kind that was started last.
//!
//! It is a clone of its template which has done once what a start does, on a disk that is thrown away, and stands still.
//! Under emulation most of a start is translating code that this machine executes for the first time; a spare has that
//! behind it. Whoever starts such an instance gets it with the disk and names of that instance. It holds nothing of any
//! instance, runs for one only, and goes when nothing was started for a while, or when memory is short.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aegis_guest_protocol::messages::{Process, Rehearse, Run};
use aegis_vmm::{Endpoint, Machine, MachineSpec, Origin, Saved, VmmError};
use tokio::sync::{oneshot, watch};

use crate::at_rest::templates::{self, Pattern};
use crate::error::chain;
use crate::machine::boot;
use crate::manager::Context;
use crate::network::{self, NetworkSpec};
use crate::now_ms;

/// How long a spare waits after the last start, unless set otherwise.
pub const DEFAULT_KEEP: Duration = Duration::from_secs(300);

/// For how long nothing may have been started when one is made: that takes a processor for a second.
const QUIET: Duration = Duration::from_millis(250);
/// Memory that the host must have beside what a machine needs, MiB.
const PLENTY_MIB: u64 = 1024;

/// A machine that is ready.
#[derive(Debug)]
pub(crate) struct Spare {
    id: String,
    pattern: Arc<Pattern>,
    machine: Arc<dyn Machine>,
    /// Dropped when somebody takes it.
    _kept: oneshot::Sender<()>,
}

impl Spare {
    /// Makes it the machine of an instance, whose guest goes on.
    ///
    /// # Errors
    /// Why that cannot be; then nothing of it is left.
    pub(crate) async fn assign(
        self,
        context: &Context,
        spec: &MachineSpec,
    ) -> Result<Arc<dyn Machine>, String> {
        let assigned = async {
            let machine = self.machine.assign(spec).await?;
            machine.resume().await?;
            Ok::<_, VmmError>(machine)
        };
        let assigned = assigned.await;
        if assigned.is_err() {
            self.machine.stop().await;
        }
        templates::clear_up(context, &self.id);
        assigned.map_err(|error| chain(&error))
    }

    async fn end(self, context: &Context) {
        self.machine.stop().await;
        templates::clear_up(context, &self.id);
    }
}

/// The place for a spare.
#[derive(Debug)]
pub(crate) struct Spares {
    keep: Duration,
    ready: Mutex<Option<Spare>>,
    /// How many instances are being started.
    starting: watch::Sender<usize>,
    /// Of which kind one is wanted.
    wanted: watch::Sender<Option<Arc<Pattern>>>,
}

/// A start that is under way.
#[derive(Debug)]
pub(crate) struct Starting<'a>(&'a Spares);

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.0.starting.send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl Spares {
    /// None yet; each is kept for so long after the last start. With no time at all there are none.
    pub(crate) fn new(keep: Duration) -> Spares {
        let (starting, wanted) = (watch::Sender::new(0), watch::Sender::new(None));
        Spares { keep, ready: Mutex::default(), starting, wanted }
    }

    /// Notes that something is being started, until what is returned is dropped.
    pub(crate) fn starting(&self) -> Starting<'_> {
        self.starting.send_modify(|count| *count += 1);
        Starting(self)
    }

    /// Notes that the next start may well be one of this kind; or that none is to be expected.
    pub(crate) fn want(&self, pattern: Option<Pattern>) {
        self.wanted.send_replace(pattern.map(Arc::new));
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Spare>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The spare of machines that are like this, if it is ready.
    pub(crate) fn take(&self, pattern: &Pattern) -> Option<Spare> {
        self.slot().take_if(|spare| spare.pattern.fits(pattern))
    }

    /// What machines have in common with the one that is ready.
    pub(crate) fn ready(&self) -> Option<String> {
        self.slot().as_ref().map(|spare| spare.pattern.likeness.clone())
    }

    /// Whatever is ready.
    fn take_any(&self) -> Option<Spare> {
        self.slot().take()
    }

    /// Returns when nothing has been started for a while.
    async fn quiet(&self) {
        let mut starting = self.starting.subscribe();
        // The sender lives in `self`.
        while starting.wait_for(|count| *count == 0).await.is_ok() {
            if tokio::time::timeout(QUIET, starting.changed()).await.is_err() {
                return;
            }
        }
    }
}

/// Ends the spare because its memory is needed elsewhere.
pub(crate) async fn give_way(context: &Context) {
    if let Some(spare) = context.spares.take_any() {
        tracing::info!(id = spare.id, "the spare machine gives way: memory is short");
        spare.end(context).await;
    }
}

/// Keeps a spare of the kind that is wanted, until the daemon ends.
pub(crate) async fn keep(context: Arc<Context>) {
    let spares = &context.spares;
    if spares.keep.is_zero() {
        return;
    }
    let mut wanted = spares.wanted.subscribe();
    let mut hopeless: Option<Arc<Pattern>> = None;
    while let Some(pattern) = next_wanted(&context, &mut wanted).await {
        if hopeless.as_ref().is_some_and(|one| one.fits(&pattern))
            || !has_plenty(&pattern)
            || context.disk.refusal().is_some()
        {
            continue;
        }
        let id = format!("inst-spare{:x}", now_ms());
        // No files of its are strays.
        let _coming = context.announce(&id);
        match make(&context, &pattern, &id).await {
            Ok(None) => {}
            Ok(Some(machine)) => stand_by(&context, &mut wanted, &pattern, &id, machine).await,
            Err(error) => {
                tracing::warn!(id, error, "no spare machine was made");
                hopeless = Some(pattern);
            }
        }
    }
}

/// The kind that is wanted when it has been another one, or one has been started, and all is quiet; `None` at the
/// daemon's end.
async fn next_wanted(
    context: &Context,
    wanted: &mut watch::Receiver<Option<Arc<Pattern>>>,
) -> Option<Arc<Pattern>> {
    let next = async {
        loop {
            wanted.changed().await.ok()?;
            context.spares.quiet().await;
            if let Some(pattern) = wanted.borrow_and_update().clone() {
                return Some(pattern);
            }
        }
    };
    tokio::select! {
        next = next => next,
        () = context.upkeep_over.cancelled() => None,
    }
}

/// Whether the host has so much memory that a machine may wait in it.
fn has_plenty(pattern: &Pattern) -> bool {
    let plenty = boot::needed_mib(pattern.spec.memory_mib) + PLENTY_MIB;
    boot::available_memory_mib().is_none_or(|mib| mib >= plenty)
}

/// Keeps a machine ready until somebody takes it, nobody does in time, it ends, another kind is wanted, or the daemon ends.
async fn stand_by(
    context: &Context,
    wanted: &mut watch::Receiver<Option<Arc<Pattern>>>,
    pattern: &Arc<Pattern>,
    id: &str,
    machine: Arc<dyn Machine>,
) {
    let spares = &context.spares;
    let (kept, mut taken) = oneshot::channel();
    let watched = Arc::downgrade(&machine);
    let spare = Spare { id: id.to_owned(), pattern: Arc::clone(pattern), machine, _kept: kept };
    *spares.slot() = Some(spare);
    tracing::debug!(id, "a spare machine is ready");
    loop {
        let ended = async {
            match watched.upgrade() {
                Some(machine) => drop(machine.ended().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            _dropped = &mut taken => return,
            // The sender lives in the context.
            _changed = wanted.changed() => {
                if wanted.borrow_and_update().as_ref().is_some_and(|one| one.fits(pattern)) {
                    continue;
                }
                // To be looked at again.
                wanted.mark_changed();
            }
            () = tokio::time::sleep(spares.keep) => {}
            () = context.upkeep_over.cancelled() => {}
            () = ended => {}
        }
        if let Some(spare) = spares.take_any() {
            tracing::debug!(id, "the spare machine goes");
            spare.end(context).await;
        }
        return;
    }
}

/// Makes a spare; `None` if there is no template to make it from. If that fails nothing of it is left.
async fn make(context: &Context, pattern: &Pattern, id: &str) -> Result<Option<Arc<dyn Machine>>, String> {
    let Some(template) = context.templates.find(&pattern.likeness).await else { return Ok(None) };
    let made = clone(context, pattern, id, &template).await;
    if made.is_err() {
        templates::clear_up(context, id);
    }
    made.map(Some)
}

async fn clone(
    context: &Context,
    pattern: &Pattern,
    id: &str,
    template: &Saved,
) -> Result<Arc<dyn Machine>, String> {
    let spec = templates::another(context, &pattern.spec, id).map_err(|error| error.to_string())?;
    boot::make_disk(context, id, pattern.disk_mib).await.map_err(|reason| reason.message)?;
    let memory = Origin::Common(&template.memory);
    let machine = context.vmm.restore(&spec, &template.devices, memory).await;
    let machine = machine.map_err(|error| chain(&error))?;
    match templates::in_time(context, rehearse(context, &*machine)).await {
        Ok(()) => Ok(machine),
        Err(error) => {
            machine.stop().await;
            Err(error)
        }
    }
}

/// Has a guest do what a start does, and pauses its machine.
async fn rehearse(context: &Context, machine: &dyn Machine) -> Result<(), String> {
    let network = if context.vmm.capabilities().network {
        Some(network::surroundings(&NetworkSpec::default(), &context.resolvers.borrow())?)
    } else {
        None
    };
    // Whatever its card says meanwhile is for nobody.
    let _nobody = match &network {
        Some(_) => Some(machine.dial(Endpoint::Network).await.map_err(|error| chain(&error))?),
        None => None,
    };
    let process = Process {
        command: vec!["true".into()],
        env: BTreeMap::new(),
        workdir: "/".to_owned(),
        user: "root".to_owned(),
        tty: None,
        stdin: false,
    };
    let run = Run { hostname: "spare".to_owned(), shares: Vec::new(), network, process };
    templates::tell(machine, &Rehearse { run }).await?;
    machine.pause().await.map_err(|error| chain(&error))
}
