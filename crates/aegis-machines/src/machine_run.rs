//! One run of an instance's machine, from a boot to the teardown: the machine, the session with its guest, its helpers, and
//! the tasks that report on it.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use aegis_guest_link::{Events, GuestLink, LinkError, Resume};
use aegis_guest_protocol::messages::{Addresses, Freeze};
use aegis_vmm::Machine;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::disk_lock::DiskGuard;
use crate::network::gateway_process::{GatewayHandle, RunningGateway};
use crate::reporter::{MachineEvent, Reporter};
use crate::session::{Session, ShortSessions};
use crate::stop_reasons;
use aegis_lifecycle::event::Boot;
use aegis_lifecycle::stop_reason::StopReason;

/// Lines of the console that explain a failed boot, or a machine's death.
pub const CONSOLE_LINES: usize = 20;
/// How long a guest may take to let its processes stand still.
const FREEZE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(1);
/// How long the death of a machine may take to show after its guest has fallen silent.
pub const DEATH_REPORT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(1);

/// A machine and all that goes with it, from boot to teardown.
#[derive(Debug)]
pub struct MachineRun {
    /// The number of the boot.
    pub boot: Boot,
    /// Whether an earlier daemon booted it: then there is a guest to connect to, even if there is no session yet.
    adopted: bool,
    reporter: Reporter,
    cancel: CancellationToken,
    hurry: CancellationToken,
    machine: OnceLock<Arc<dyn Machine>>,
    session: watch::Sender<Option<Arc<Session>>>,
    boot_over: CancellationToken,
    guest_over: CancellationToken,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    /// Looks after the server of its files, and ends with the machine.
    files: Mutex<Option<JoinHandle<()>>>,
    /// Its gateway, and who looks after that, which ends with the machine.
    gateway: Mutex<Option<RunningGateway>>,
    /// Addresses that its guest has not been told of.
    unsent_addresses: Mutex<Option<Vec<(Ipv4Addr, u8)>>>,
    /// Held as long as there may be a machine.
    disk: Mutex<Option<DiskGuard>>,
    /// Whether the session with an earlier daemon's guest is being opened.
    adopting: AtomicBool,
    /// Held while its machine is on its way to disk, or is taken for others to go on from.
    exclusive: tokio::sync::Mutex<()>,
}

impl MachineRun {
    /// A run that has no machine yet; `adopted` if an earlier daemon booted it.
    #[must_use]
    pub fn new(adopted: bool, reporter: Reporter) -> Arc<MachineRun> {
        Arc::new(MachineRun {
            boot: reporter.boot(),
            adopted,
            reporter,
            cancel: CancellationToken::new(),
            hurry: CancellationToken::new(),
            machine: OnceLock::new(),
            session: watch::Sender::new(None),
            boot_over: CancellationToken::new(),
            guest_over: CancellationToken::new(),
            tasks: Mutex::default(),
            files: Mutex::default(),
            gateway: Mutex::default(),
            unsent_addresses: Mutex::default(),
            disk: Mutex::default(),
            adopting: AtomicBool::new(false),
            exclusive: tokio::sync::Mutex::default(),
        })
    }

    /// Begins the end. Returns whether this was the first time.
    pub fn cancel(&self) -> bool {
        let first = !self.cancel.is_cancelled();
        self.cancel.cancel();
        first
    }

    /// Makes a graceful end an abrupt one.
    pub fn hurry(&self) {
        self.hurry.cancel();
    }

    /// Notes that the boot is over, well or not.
    pub fn end_boot(&self) {
        self.boot_over.cancel();
    }

    /// Cancelled when the end begins.
    pub fn cancel_token(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Whether the end has begun.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Returns as soon as its machine is neither on its way to disk nor being taken, and keeps others from either.
    pub async fn exclusive(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.exclusive.lock().await
    }

    /// Completes when the end begins.
    pub async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }

    /// Completes when the end is to be abrupt.
    pub async fn hurried(&self) {
        self.hurry.cancelled().await;
    }

    /// Completes when the boot is over, well or not.
    pub async fn boot_ended(&self) {
        self.boot_over.cancelled().await;
    }

    /// Completes when no more comes from the guest.
    pub async fn guest_ended(&self) {
        if self.session.borrow().is_some() {
            self.guest_over.cancelled().await;
        }
    }

    /// The machine, as soon as there is one.
    pub fn machine(&self) -> Option<Arc<dyn Machine>> {
        self.machine.get().cloned()
    }

    /// The session for whatever comes last before the machine goes, or is taken; with the guest of an earlier daemon's machine it may have to be opened first.
    pub async fn last_session(self: &Arc<Self>) -> Option<Arc<Session>> {
        let session = self.session();
        if session.is_some() || !self.adopted {
            return session;
        }
        let mut opened = self.session.subscribe();
        if !self.adopting.swap(true, Ordering::Relaxed) {
            adopt_guest(self);
        }
        let opened =
            tokio::time::timeout(aegis_guest_link::CALL_TIMEOUT, opened.wait_for(Option::is_some)).await;
        opened.ok()?.ok()?.clone()
    }

    /// The session with its guest, if there is one now.
    pub fn session(&self) -> Option<Arc<Session>> {
        self.session.borrow().clone()
    }

    /// The session, as soon as there is one; `None` if the machine ends before.
    pub async fn wait_for_session(&self) -> Option<Arc<Session>> {
        let mut session = self.session.subscribe();
        tokio::select! {
            // The sender lives in `self`.
            found = session.wait_for(Option::is_some) => found.ok().and_then(|session| session.clone()),
            () = self.cancelled() => None,
        }
    }

    /// Returns when another session, or none, is in the place of this one.
    pub async fn session_replaced(&self, old: &Arc<Session>) {
        let mut session = self.session.subscribe();
        let is_other =
            |current: &Option<Arc<Session>>| current.as_ref().is_none_or(|one| !Arc::ptr_eq(one, old));
        // The sender lives in `self`.
        let _other = session.wait_for(is_other).await;
    }

    /// Ends the tasks that report on it: from here on its death is no news.
    pub fn abort_tasks(&self) {
        for task in self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
        self.session.send_replace(None);
    }

    /// Owns a task, until the run is over.
    pub fn keep(&self, task: JoinHandle<()>) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task);
    }

    /// Keeps the task that looks after the server of its files.
    pub fn keep_files(&self, task: JoinHandle<()>) {
        *self.files.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
    }

    /// Notes something in the instance's log.
    pub fn log(&self, text: &str) {
        self.reporter.log(text);
    }

    /// Gives its guest these addresses in its groups; one that cannot be told now is told when it goes on.
    pub async fn set_addresses(&self, groups: Vec<(Ipv4Addr, u8)>) {
        self.note_addresses(groups);
        self.tell_addresses().await;
    }

    /// Notes that its guest may not know of these addresses.
    pub fn note_addresses(&self, groups: Vec<(Ipv4Addr, u8)>) {
        *self.unsent_addresses.lock().unwrap_or_else(PoisonError::into_inner) = Some(groups);
    }

    /// Tells its guest of addresses that it does not know.
    async fn tell_addresses(&self) {
        // Mostly there are none, and whoever is woken waits for nothing.
        if self.unsent_addresses.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
            return;
        }
        let Some(machine) = self.machine() else { return };
        let Some(session) = self.session() else { return };
        if machine.is_paused().await.unwrap_or(true) {
            return;
        }
        let unsent_addresses = self.unsent_addresses.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(groups) = unsent_addresses else { return };
        if let Err(error) = session.link().call(&Addresses { groups }).await {
            tracing::warn!(%error, "a guest was not told of its addresses in groups");
            self.log("the guest does not take its addresses in groups; it has them after its next start");
        }
    }

    /// Holds the lock on the instance's disk, as long as there may be a machine.
    pub fn hold_disk(&self, in_use: DiskGuard) {
        *self.disk.lock().unwrap_or_else(PoisonError::into_inner) = Some(in_use);
    }

    /// The machine is gone: others may use its disk.
    pub fn release_disk(&self) {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Keeps its gateway, and the task that looks after that.
    pub fn keep_gateway(&self, gateway: RunningGateway) {
        *self.gateway.lock().unwrap_or_else(PoisonError::into_inner) = Some(gateway);
    }

    /// Its gateway, if its machine has a network interface.
    pub fn gateway(&self) -> Option<Arc<GatewayHandle>> {
        let gateway = self.gateway.lock().unwrap_or_else(PoisonError::into_inner);
        gateway.as_ref().map(|(gateway, _)| Arc::clone(gateway))
    }

    /// Waits until the processes that helped its machine are gone; that is already.
    pub async fn helpers_ended(&self) {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner).take();
        let network = self.gateway.lock().unwrap_or_else(PoisonError::into_inner).take();
        for task in files.into_iter().chain(network.map(|(_, task)| task)) {
            // A task that panicked has ended too.
            let _ended = task.await;
        }
    }

    /// Whom it reports to.
    #[must_use]
    pub fn reporter(&self) -> &Reporter {
        &self.reporter
    }

    /// Notes the machine, and reports its death when it comes.
    pub fn set_machine(self: &Arc<Self>, machine: Arc<dyn Machine>) {
        if self.machine.set(Arc::clone(&machine)).is_err() {
            return;
        }
        let live = Arc::clone(self);
        self.keep(tokio::spawn(async move {
            let end = machine.ended().await;
            let lines = aegis_vmm::console_tail(&machine.handle().console_log, CONSOLE_LINES);
            let reason = stop_reasons::died(&end).with_console(lines);
            live.reporter.tell(MachineEvent::Died(reason)).await;
        }));
    }

    /// Takes up the conversation with the guest, and takes it up again whenever it breaks off.
    pub fn begin_session(self: &Arc<Self>, session: &Arc<Session>, events: Events) {
        self.session.send_replace(Some(Arc::clone(session)));
        let (live, session) = (Arc::clone(self), Arc::clone(session));
        self.keep(tokio::spawn(async move {
            live.converse(session, events).await;
            live.guest_over.cancel();
        }));
    }

    async fn converse(&self, session: Arc<Session>, events: Events) {
        let mut short_sessions = ShortSessions::default();
        short_sessions.note(session.converse(events, &self.reporter)).await;
        drop(session);
        loop {
            if self.cancel.is_cancelled() {
                return;
            }
            let Some(machine) = self.machine() else { return };
            let [stdout_held, stderr_held] = self.reporter.output().offsets();
            let resume = Resume { returning: true, events_seen: 0, stdout_held, stderr_held, another: false };
            let opened = if short_sessions.is_hopeless() {
                Err(LinkError::Protocol("it breaks off each session at once".to_owned()))
            } else {
                tokio::select! {
                    opened = Session::reopen(&*machine, resume) => opened,
                    _ = machine.ended() => return,
                    () = self.cancel.cancelled() => return,
                }
            };
            match opened {
                Ok((session, events, _)) => {
                    self.session.send_replace(Some(Arc::clone(&session)));
                    short_sessions.note(session.converse(events, &self.reporter)).await;
                }
                Err(error) => {
                    // A machine that has just died reports that itself, and better.
                    if tokio::time::timeout(DEATH_REPORT_TIMEOUT, machine.ended()).await.is_ok() {
                        return;
                    }
                    let reason = StopReason::unreachable(&error);
                    return self.reporter.tell(MachineEvent::Died(reason)).await;
                }
            }
        }
    }
}

/// Opens a session with the guest of a machine that was found alive.
pub fn adopt_guest(live: &Arc<MachineRun>) {
    live.adopting.store(true, Ordering::Relaxed);
    let owner = Arc::clone(live);
    live.keep(tokio::spawn(async move {
        let Some(machine) = owner.machine() else { return };
        let [stdout_held, stderr_held] = owner.reporter.output().offsets();
        let resume = Resume { returning: true, events_seen: 0, stdout_held, stderr_held, another: false };
        let failure = match Session::reopen(&*machine, resume).await {
            Ok((session, events, true)) => {
                owner.begin_session(&session, events);
                return owner.tell_addresses().await;
            }
            Ok((_, _, false)) => {
                StopReason::new("boot_failed", "the daemon died before the command was executed")
            }
            Err(error) => StopReason::unreachable(&error),
        };
        owner.reporter.tell(MachineEvent::Died(failure)).await;
    }));
}

/// Lets the machine stand still, after its processes: when it goes on they do not see a clock that has stood still.
pub async fn pause(live: &MachineRun, machine: &dyn Machine) -> Result<(), String> {
    let session = live.session();
    if let Some(session) = &session {
        // A guest that does not answer is paused all the same.
        let _unfrozen =
            tokio::time::timeout(FREEZE_TIMEOUT, session.link().call(&Freeze { sync: false })).await;
    }
    let paused = machine.pause().await.map_err(|error| error.to_string());
    if let (Err(_), Some(session)) = (&paused, session) {
        // If it cannot be told to go on, the next thing that is asked of it fails, and says why.
        let _unreachable = session.link().call(&GuestLink::health_call()).await;
    }
    paused
}

/// The session in the place of one that is closed.
async fn next_session(live: &MachineRun, closed: &Arc<Session>) -> Result<Arc<Session>, String> {
    let next = async {
        live.session_replaced(closed).await;
        live.wait_for_session().await
    };
    let next = tokio::time::timeout(aegis_guest_link::CALL_TIMEOUT, next).await;
    next.ok().flatten().ok_or_else(|| "the guest does not answer".to_owned())
}

/// Lets the machine go on, with the clock set before anybody is told that it runs.
pub async fn resume(live: &Arc<MachineRun>) -> Result<(), String> {
    let machine = live.machine().ok_or("there is no machine")?;
    machine.resume().await.map_err(|error| error.to_string())?;
    match live.session() {
        // Sets the clock before anybody is told that it runs.
        Some(session) => {
            let health = session.link().call(&GuestLink::health_call()).await;
            let health = match health {
                // It may have been closed because the machine was saved; then another one takes its place.
                Err(LinkError::Closed | LinkError::Io(_)) => {
                    next_session(live, &session).await?.link().call(&GuestLink::health_call()).await
                }
                health => health,
            };
            live.tell_addresses().await;
            health.map(drop).map_err(|error| error.to_string())
        }
        None => {
            adopt_guest(live);
            let mut session = live.session.subscribe();
            let opened =
                tokio::time::timeout(aegis_guest_link::CALL_TIMEOUT, session.wait_for(Option::is_some)).await;
            opened.map(drop).map_err(|_| "the guest does not answer".to_owned())
        }
    }
}
