//! The warm pool: a machine that is ready before anybody asks for it, of the kind that was started last.
//!
//! It is a clone of its template which has done once what a start does, on a disk that is thrown away, and is paused. Under
//! emulation most of a start is translating code that this machine executes for the first time; a warm machine has that
//! behind it. Whoever starts such an instance gets it with the disk and names of that instance. It holds nothing of any
//! instance, runs for one only, and goes when nothing was started for a while, or when memory is short.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aegis_guest_protocol::messages::{Prewarm, Process, Run};
use aegis_spec::network::NetworkSpec;
use aegis_vmm::{Endpoint, Machine, MachineSpec, Origin, Saved, VmmError};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::checkpoint::template_store::TemplateStore;
use crate::clock::now_ms;
use crate::disk_space::DiskSpace;
use crate::error_chain::chain;
use crate::host_memory;
use crate::ids::IdReservations;
use crate::machine_layout::MachineLayout;
use crate::network::interface;
use crate::network::resolvers::Resolvers;
use crate::scratch_machine;
use crate::template_key::TemplateKey;

/// How long a warm machine waits after the last start, unless set otherwise.
pub const DEFAULT_KEEP: Duration = Duration::from_secs(300);

/// For how long nothing may have been started when one is made: that takes a processor for a second.
const QUIET: Duration = Duration::from_millis(250);
/// After how many failures in a row no more machines of a kind are made: each costs a processor for a second.
const MOST_FAILURES: u32 = 3;
/// Memory that the host must have beside what a machine needs, MiB.
const PLENTY_MIB: u64 = 1024;

/// A machine that is ready.
#[derive(Debug)]
pub struct WarmMachine {
    id: String,
    template_key: Arc<TemplateKey>,
    machine: Arc<dyn Machine>,
    /// Dropped when somebody takes it.
    _kept: oneshot::Sender<()>,
}

/// What warm machines are made with.
#[derive(Debug)]
pub struct WarmPoolDeps {
    /// What machines are made from.
    pub layout: MachineLayout,
    /// Where templates are kept.
    pub templates: Arc<TemplateStore>,
    /// The host's disk.
    pub disk_space: Arc<DiskSpace>,
    /// How the host reaches the world.
    pub resolvers: watch::Receiver<Arc<Resolvers>>,
    /// Ids of machines that are no strays.
    pub ids: IdReservations,
    /// The daemon ends.
    pub shutdown: CancellationToken,
}

/// The pool: it has room for one machine.
#[derive(Debug)]
pub struct WarmPool {
    deps: WarmPoolDeps,
    keep: Duration,
    ready: Mutex<Option<WarmMachine>>,
    /// How many instances are being started.
    starting: watch::Sender<usize>,
    /// Of which kind one is wanted.
    wanted: watch::Sender<Option<Arc<TemplateKey>>>,
}

/// A start that is under way.
#[derive(Debug)]
pub struct StartGuard<'a>(&'a WarmPool);

impl Drop for StartGuard<'_> {
    fn drop(&mut self) {
        self.0.starting.send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl WarmPool {
    /// An empty pool; each machine is kept for so long after the last start. With no time at all there are none.
    #[must_use]
    pub fn new(deps: WarmPoolDeps, keep: Duration) -> WarmPool {
        let (starting, wanted) = (watch::Sender::new(0), watch::Sender::new(None));
        WarmPool { deps, keep, ready: Mutex::default(), starting, wanted }
    }

    /// Notes that something is being started, until what is returned is dropped.
    #[must_use]
    pub fn starting(&self) -> StartGuard<'_> {
        self.starting.send_modify(|count| *count += 1);
        StartGuard(self)
    }

    /// Notes that the next start may well be one of this kind; or that none is to be expected.
    pub fn want(&self, template_key: Option<TemplateKey>) {
        self.wanted.send_replace(template_key.map(Arc::new));
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<WarmMachine>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The warm machine of this kind, if it is ready.
    #[must_use]
    pub fn take(&self, template_key: &TemplateKey) -> Option<WarmMachine> {
        self.slot().take_if(|warm| warm.template_key.fits(template_key))
    }

    /// The compatibility key of the one that is ready.
    #[must_use]
    pub fn ready(&self) -> Option<String> {
        self.slot().as_ref().map(|warm| warm.template_key.compatibility_key.clone())
    }

    /// Makes a warm machine that of an instance, whose guest goes on.
    ///
    /// # Errors
    /// Why that cannot be; then nothing of it is left.
    pub async fn assign(&self, warm: WarmMachine, spec: &MachineSpec) -> Result<Arc<dyn Machine>, String> {
        let assigned = async {
            let machine = warm.machine.assign(spec).await?;
            machine.resume().await?;
            Ok::<_, VmmError>(machine)
        };
        let assigned = assigned.await;
        if assigned.is_err() {
            warm.machine.stop().await;
        }
        scratch_machine::remove_files(&self.deps.layout.home, &warm.id);
        assigned.map_err(|error| chain(&error))
    }

    async fn end(&self, warm: WarmMachine) {
        warm.machine.stop().await;
        scratch_machine::remove_files(&self.deps.layout.home, &warm.id);
    }

    /// Ends the warm machine because its memory is needed elsewhere.
    pub async fn yield_memory(&self) {
        let warm = self.slot().take();
        if let Some(warm) = warm {
            tracing::info!(id = warm.id, "the warm machine goes: memory is short");
            self.end(warm).await;
        }
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

    /// Keeps a machine of the kind that is wanted ready, until the daemon ends.
    pub async fn fill(self: Arc<Self>) {
        if self.keep.is_zero() || !self.deps.layout.vmm.capabilities().swaps_disks {
            return;
        }
        let mut wanted = self.wanted.subscribe();
        let mut failures: Option<(Arc<TemplateKey>, u32)> = None;
        while let Some(template_key) = self.next_wanted(&mut wanted).await {
            let failed =
                failures.as_ref().filter(|(one, _)| one.fits(&template_key)).map_or(0, |(_, times)| *times);
            if failed >= MOST_FAILURES
                || !has_plenty(&template_key)
                || self.deps.disk_space.refusal().is_some()
            {
                continue;
            }
            let id = format!("inst-spare{:x}", now_ms());
            let _reserved = self.deps.ids.reserve(&id);
            match self.make(&template_key, &id).await {
                Ok(None) => {}
                Ok(Some(machine)) => {
                    failures = None;
                    self.stand_by(&mut wanted, &template_key, &id, machine).await;
                }
                Err(error) => {
                    tracing::warn!(id, error, "no warm machine was made");
                    failures = Some((template_key, failed + 1));
                }
            }
        }
    }

    /// The kind that is wanted when it has been another one, or one has been started, and all is quiet; `None` at the
    /// daemon's end.
    async fn next_wanted(
        &self,
        wanted: &mut watch::Receiver<Option<Arc<TemplateKey>>>,
    ) -> Option<Arc<TemplateKey>> {
        let next = async {
            loop {
                wanted.changed().await.ok()?;
                self.quiet().await;
                if let Some(template_key) = wanted.borrow_and_update().clone() {
                    return Some(template_key);
                }
            }
        };
        tokio::select! {
            next = next => next,
            () = self.deps.shutdown.cancelled() => None,
        }
    }

    /// Keeps a machine ready until somebody takes it, nobody does in time, it ends, another kind is wanted, or the daemon
    /// ends.
    async fn stand_by(
        &self,
        wanted: &mut watch::Receiver<Option<Arc<TemplateKey>>>,
        template_key: &Arc<TemplateKey>,
        id: &str,
        machine: Arc<dyn Machine>,
    ) {
        let (kept, mut taken) = oneshot::channel();
        let watched = Arc::downgrade(&machine);
        let warm =
            WarmMachine { id: id.to_owned(), template_key: Arc::clone(template_key), machine, _kept: kept };
        *self.slot() = Some(warm);
        tracing::debug!(id, "a warm machine is ready");
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
                // The sender lives in the pool.
                _changed = wanted.changed() => {
                    if wanted.borrow_and_update().as_ref().is_some_and(|one| one.fits(template_key)) {
                        continue;
                    }
                    // To be looked at again.
                    wanted.mark_changed();
                }
                () = tokio::time::sleep(self.keep) => {}
                () = self.deps.shutdown.cancelled() => {}
                () = ended => {}
            }
            let warm = self.slot().take();
            if let Some(warm) = warm {
                tracing::debug!(id, "the warm machine goes");
                self.end(warm).await;
            }
            return;
        }
    }

    /// Makes a warm machine; `None` if there is no template to make it from. If that fails nothing of it is left.
    async fn make(&self, template_key: &TemplateKey, id: &str) -> Result<Option<Arc<dyn Machine>>, String> {
        let Some(template) = self.deps.templates.find(&template_key.compatibility_key).await else {
            return Ok(None);
        };
        let made = self.clone_and_prewarm(template_key, id, &template).await;
        if made.is_err() {
            scratch_machine::remove_files(&self.deps.layout.home, id);
        }
        made.map(Some)
    }

    async fn clone_and_prewarm(
        &self,
        template_key: &TemplateKey,
        id: &str,
        template: &Saved,
    ) -> Result<Arc<dyn Machine>, String> {
        let layout = &self.deps.layout;
        let spec = scratch_machine::spec_like(&layout.home, &template_key.spec, id);
        let spec = spec.map_err(|error| error.to_string())?;
        layout.make_disk(id, template_key.disk_mib).await.map_err(|reason| reason.message)?;
        let memory = Origin::Common(&template.memory);
        let machine = layout.vmm.restore(&spec, &template.devices, memory).await;
        let machine = machine.map_err(|error| chain(&error))?;
        match scratch_machine::in_time(&self.deps.shutdown, self.prewarm(&*machine)).await {
            Ok(()) => Ok(machine),
            Err(error) => {
                machine.stop().await;
                Err(error)
            }
        }
    }

    /// Has a guest do what a start does, and pauses its machine.
    async fn prewarm(&self, machine: &dyn Machine) -> Result<(), String> {
        let network = if self.deps.layout.vmm.capabilities().network {
            Some(interface::guest_network(&NetworkSpec::default(), &self.deps.resolvers.borrow())?)
        } else {
            None
        };
        // Whatever its network interface sends meanwhile is for nobody.
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
        scratch_machine::call_once(machine, &Prewarm { run }).await?;
        machine.pause().await.map_err(|error| chain(&error))
    }
}

/// Whether the host has so much memory that a machine may wait in it.
fn has_plenty(template_key: &TemplateKey) -> bool {
    let plenty = host_memory::needed_mib(template_key.spec.memory_mib) + PLENTY_MIB;
    host_memory::available_memory_mib().is_none_or(|mib| mib >= plenty)
}
