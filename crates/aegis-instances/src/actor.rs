//! The owner of one instance.
//!
//! It takes messages one by one, lets [`Lifecycle::step`] decide, stores what changed, and then performs the
//! effects. Boot, guest session and teardown are tasks; they belong to a [`Live`], which lasts from one boot to its
//! teardown, and report back by message.

pub(crate) mod host_disk;
mod perform;
mod reach;
pub(crate) mod replace;

use std::collections::HashMap;
use std::sync::Arc;

use aegis_store::registry::{InstanceRow, NewEvent};
use aegis_vmm::Machine;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::at_rest::hibernate;
use crate::at_rest::moment::Origin;
use crate::environment::Sources;
use crate::error::InstanceError;
use crate::events::{Detail, Outline, event};
use crate::lifecycle::{Boot, Effect, Event, Manner, Reply, Request, State, Waiter};
use crate::machine::files::FileServer;
use crate::machine::live::{Live, adopt_guest};
use crate::machine::session::News;
use crate::machine::timings::Timings;
use crate::machine::upkeep::DiskUse;
use crate::manager::Context;
use crate::measures::Measures;
use crate::network::NetworkChange;
use crate::network::gateway::GatewayProcess;
use crate::now_ms;
use crate::output::{Ending, Output};
use crate::ports::{Mapping, Ports, Wanted};
use crate::reason::StopReason;
use crate::record::{Passing, Record, ending, remaining_ms};
use crate::rest::Lease;
use crate::restart::{Attempts, Ended, RestartPolicy};
use crate::revision::Revision;
use crate::usage::Usage;
use crate::view::View;
use replace::{Replaced, Replacement};

/// How many messages may wait for an actor.
pub(crate) const MAILBOX: usize = 64;

/// What an actor is told.
#[derive(Debug)]
pub(crate) enum Message {
    /// Somebody wants something.
    Wanted(Request, oneshot::Sender<Reply>),
    /// The time of the command of this boot is up.
    TimeUp(Boot),
    /// Something happened.
    Happened(Event),
    /// The machine of this boot is there; to be stored, then confirmed.
    MachineUp(Boot, oneshot::Sender<()>),
    /// Where the time of this boot went.
    Took(Boot, Timings),
    /// News from the guest of this boot.
    Guest(Boot, News),
    /// The daemon is ready to serve ports. To be confirmed when they are open.
    Listen(oneshot::Sender<()>),
    /// Ports are to be exposed: all of them or none.
    Expose(Vec<Wanted>, oneshot::Sender<Result<(), InstanceError>>),
    /// A port of the guest is to be exposed no longer.
    Unexpose(u16, oneshot::Sender<Result<(), InstanceError>>),
    /// Its network is to change.
    Network(NetworkChange, oneshot::Sender<Result<(), InstanceError>>),
    /// Its specification is to change.
    Revise(Revision, oneshot::Sender<Result<(), InstanceError>>),
    /// Something happened to the network of this boot, with more about it.
    NetworkEvent(Boot, &'static str, Option<String>),
    /// Its disk is to be replaced.
    Replace(Box<Replacement>, oneshot::Sender<Reply>),
    /// Its disk has been replaced, or has not.
    Replaced(Replaced),
    /// The host's disk is full, how full, and this instance fills it; or, if absent, there is room again.
    HostDisk(Option<String>),
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
    pub(crate) measures: Measures,
    pub(crate) sources: Sources,
    /// The machine's surroundings while there is one.
    pub(crate) live: watch::Receiver<Option<Arc<Live>>>,
    pub(crate) disk: DiskUse,
}

/// The owner of one instance.
#[derive(Debug)]
pub(crate) struct Actor {
    context: Arc<Context>,
    record: Record,
    ports: Ports,
    usage: Arc<Usage>,
    passing: Passing,
    mailbox: mpsc::Receiver<Message>,
    /// For tasks to report back; while the actor lives the mailbox stays open.
    own_mailbox: mpsc::Sender<Message>,
    waiters: HashMap<Waiter, oneshot::Sender<Reply>>,
    /// What those of them have brought who want its disk replaced.
    replacements: HashMap<Waiter, Replacement>,
    next_waiter: Waiter,
    live: watch::Sender<Option<Arc<Live>>>,
    view: watch::Sender<Arc<View>>,
    output: Arc<Output>,
    timer: Option<JoinHandle<()>>,
    disk: DiskUse,
}

impl Actor {
    /// An actor for a stored instance, and what others hold of it.
    pub(crate) fn new(context: Arc<Context>, record: Record, mappings: Vec<Mapping>) -> (Actor, InstanceRef) {
        let (own_mailbox, mailbox) = mpsc::channel(MAILBOX);
        let log = context.home.log_dir(&record.id);
        let output = Output::new(log, context.config.log_limits, record.life.boot(), record.ending());
        let name = record.handle.as_deref().unwrap_or(&record.id);
        let ports = Ports::new(Arc::clone(&context.ingress), &record.id, name, mappings);
        let usage = Arc::<Usage>::default();
        usage.set_awake(record.life.is_running());
        let passing =
            Passing { no_hibernation: hibernate::refusal(&context, &record.spec), ..Passing::default() };
        let view = watch::Sender::new(Arc::new(record.view(&ports, &usage, &passing, &context.config.rest)));
        let actor = Actor {
            record,
            ports,
            usage,
            passing,
            mailbox,
            own_mailbox: own_mailbox.clone(),
            waiters: HashMap::new(),
            replacements: HashMap::new(),
            next_waiter: 0,
            live: watch::Sender::new(None),
            view,
            output: Arc::new(output),
            timer: None,
            disk: DiskUse::default(),
            context,
        };
        let reference = InstanceRef {
            mailbox: own_mailbox,
            view: actor.view.subscribe(),
            output: Arc::clone(&actor.output),
            usage: Arc::clone(&actor.usage),
            measures: actor.context.measures.clone(),
            sources: Sources::of(&actor.context),
            live: actor.live.subscribe(),
            disk: actor.disk.clone(),
        };
        (actor, reference)
    }

    /// Its first machine is to go on from there.
    pub(crate) fn go_on_from(&mut self, origin: Option<Origin>) {
        self.passing.origin = origin;
    }

    /// Takes over a machine that an earlier daemon started. `paused` ones are spoken to when they go on.
    pub(crate) fn adopt(&mut self, machine: Arc<dyn Machine>, paused: bool) {
        let live =
            Live::new(self.record.life.boot(), true, self.own_mailbox.clone(), Arc::clone(&self.output));
        live.end_boot();
        if let Some(server) = FileServer::of(&self.context, &self.record.id, &self.record.spec, Some(&live)) {
            server.adopt(&live, &machine);
        }
        if let Some(gateway) =
            GatewayProcess::of(&self.context, &self.record.id, &self.record.spec.network, &live)
        {
            gateway.adopt(&machine);
        }
        live.set_machine(machine);
        if let Some(in_use) = self.disk.try_begin() {
            live.hold_disk(in_use);
        }
        self.go_on();
        // The last daemon may have died before it told.
        let addresses = self.record.spec.network.addresses();
        if !addresses.is_empty() {
            live.note_addresses(addresses);
        }
        if !paused {
            adopt_guest(&live);
        }
        self.live.send_replace(Some(live));
    }

    /// Goes on with the log and the time of a run that an earlier daemon began.
    pub(crate) fn go_on(&mut self) {
        if let Err(error) = self.output.resume(self.record.life.boot()) {
            tracing::warn!(id = self.record.id, %error, "log not opened");
        }
        self.start_timer();
    }

    /// Owns the instance until it is gone.
    pub(crate) async fn run(mut self) {
        let mut users = self.usage.subscribe();
        while !self.record.life.is_gone() {
            // What is under way comes to its end first, and is not looked at again and again meanwhile.
            let settled = self.record.life.is_settled();
            let due = if settled { self.view.borrow().next_step() } else { None };
            let end_of_life = self.record.end_of_life_ms().filter(|_| settled && self.record.life.enabled());
            tokio::select! {
                biased;
                // Whoever has come has been counted before his message was sent.
                message = self.mailbox.recv() => match message {
                    Some(message) => self.take(message).await,
                    None => break,
                },
                () = fall_due(end_of_life) => {
                    // Nobody waits for that.
                    self.step(Event::Wanted(Request::LifeOver, 0)).await;
                }
                () = fall_due(self.passing.attempts.next_ms) => {
                    self.passing.attempts.next_ms = None;
                    self.step(Event::Again).await;
                }
                Ok(()) = users.changed() => {
                    self.record.active_ms = now_ms();
                    self.publish();
                }
                () = fall_due(due.map(|due| due.at_ms)) => {
                    // Somebody may have come while this was not looking.
                    let now = self.view.borrow().next_step();
                    if let Some(due) = now.filter(|due| due.at_ms <= now_ms()) {
                        self.step(Event::Idle(due.rung)).await;
                    }
                }
            }
        }
        self.output.close();
    }

    async fn take(&mut self, message: Message) {
        match message {
            Message::Wanted(request, reply) => {
                let over = self.record.end_of_life_ms().is_some_and(|end| end <= now_ms());
                if over && matches!(request, Request::Start | Request::Restart) {
                    let _gave_up = reply.send(Reply::LifeOver);
                    return;
                }
                if let Some(reason) = self.passing.no_hibernation.filter(|_| request == Request::Hibernate) {
                    let _gave_up = reply.send(Reply::Refused(reason.to_owned()));
                    return;
                }
                if let Some(text) = self.no_room_for(request) {
                    let _gave_up = reply.send(Reply::NoRoom(text));
                    return;
                }
                if matches!(request, Request::Stop | Request::Disable) {
                    self.stay_stopped().await;
                }
                self.next_waiter += 1;
                self.waiters.insert(self.next_waiter, reply);
                self.step(Event::Wanted(request, self.next_waiter)).await;
            }
            // One that was on its way when its boot ended is no concern of the next.
            Message::TimeUp(boot) => {
                if boot == self.record.life.boot() {
                    self.next_waiter += 1;
                    self.step(Event::Wanted(Request::TimeUp, self.next_waiter)).await;
                }
            }
            Message::Happened(event) => {
                self.note(&event);
                self.step(event).await;
                // What comes next may be another thing now, also where nothing is to be stored: without that a way to
                // disk that fails would be tried again at once, and again.
                self.publish();
            }
            Message::MachineUp(boot, done) => {
                if boot == self.record.life.boot() {
                    self.store(Some("machine_started")).await;
                }
                let _gone = done.send(());
            }
            Message::Took(boot, timings) => {
                if boot == self.record.life.boot() {
                    self.passing.timings = Some(timings);
                    self.publish();
                }
            }
            Message::Guest(boot, News::Exited { status, out_of_memory, stored }) => {
                if boot == self.record.life.boot() {
                    self.record.exit_code = Some(status.code());
                    let spec = &self.record.spec;
                    // Nothing of it stays: there is nobody for whom its disk would have to be in order.
                    let manner = if spec.ephemeral && spec.mounts.is_empty() {
                        Manner::AtOnce
                    } else {
                        Manner::Graceful
                    };
                    self.step(Event::Exited(boot, StopReason::exited(status, out_of_memory), manner)).await;
                }
                let _gone = stored.send(());
            }
            Message::Guest(boot, News::Active) => {
                if boot == self.record.life.boot() {
                    self.record.active_ms = now_ms();
                    self.publish();
                }
            }
            Message::Guest(boot, News::Lease(lease)) => {
                if boot == self.record.life.boot() {
                    self.lease(lease);
                }
            }
            // Whoever told it to end hears this, too; after a crash of the daemon nobody else does.
            Message::Guest(boot, News::Goodbye) => self.step(Event::Died(boot, StopReason::stopped())).await,
            Message::Lease(lease) => self.lease(lease),
            Message::HostDisk(full) => self.host_disk(full).await,
            Message::Replace(replacement, reply) => self.replace(*replacement, reply).await,
            Message::Replaced(replaced) => self.after_replacement(replaced).await,
            Message::Network(change, reply) => {
                let _gave_up = reply.send(self.change_network(change).await);
            }
            Message::Revise(revision, reply) => {
                let _gave_up = reply.send(self.revise(&revision).await);
            }
            Message::NetworkEvent(boot, kind, note) => self.network_event(boot, kind, note).await,
            Message::Listen(done) => {
                if self.record.life.enabled() {
                    self.ports.open();
                } else {
                    self.ports.close();
                }
                self.publish();
                let _gone = done.send(());
            }
            Message::Expose(wanted, reply) => {
                let exposed = self.expose(&wanted).await;
                let _gave_up = reply.send(exposed);
            }
            Message::Unexpose(guest_port, reply) => {
                let removed = self.ports.unexpose(guest_port);
                let stored = if removed.is_some() { self.store_ports().await } else { Ok(()) };
                let _gave_up = reply.send(stored);
            }
        }
    }

    /// Takes from an event what is not the lifecycle's.
    fn note(&mut self, event: &Event) {
        let current = self.record.life.boot();
        match event {
            Event::TornDown(boot) if *boot == current => self.after_teardown(),
            Event::HibernateEnded(boot, Ok(())) if *boot == current => drop(self.live.send_replace(None)),
            Event::HibernateEnded(_, Err(error)) => {
                tracing::warn!(id = self.record.id, error, "a machine was not put on disk");
                self.passing.stays_in_memory = true;
            }
            Event::PauseEnded(_, Err(_)) => {
                self.passing.filled = None;
                // Tried again when it has been idle for as long once more.
                self.record.active_ms = now_ms();
                self.publish();
            }
            _ => {}
        }
    }

    /// A restart, or a wake by an exec, is not to undo what somebody has just asked for.
    async fn stay_stopped(&mut self) {
        self.passing.attempts = Attempts::default();
        let rests = self.record.life.reason().is_some_and(StopReason::is_idle);
        if rests || self.record.spec.restart != RestartPolicy::No {
            self.record.life.stay_stopped();
            self.store(None).await;
        }
    }

    /// Decides whether what has ended is executed again.
    pub(crate) fn plan_restart(&mut self) {
        let ended = Ended {
            reason: self.record.life.reason(),
            exit_code: self.record.exit_code,
            started_ms: self.record.started_ms,
            now_ms: now_ms(),
        };
        self.passing.attempts = self.passing.attempts.after(self.record.spec.restart, &ended);
    }

    fn lease(&mut self, lease: Option<Lease>) {
        self.record.active_ms = now_ms();
        self.passing.lease = lease;
        self.publish();
    }

    /// Opens ports, and keeps them only if that could be stored.
    async fn expose(&mut self, wanted: &[Wanted]) -> Result<(), InstanceError> {
        let before = self.ports.endpoints().len();
        self.open_ports(wanted)?;
        self.store_ports().await.inspect_err(|_| {
            self.ports.withdraw_from(before);
            self.publish();
        })
    }

    /// Opens ports of an instance that is about to be stored.
    ///
    /// # Errors
    /// If they are taken or contradict each other; then none is open.
    pub(crate) fn open_ports(&mut self, wanted: &[Wanted]) -> Result<(), InstanceError> {
        let reserved = self.context.ports_of_others(&self.record.id);
        self.ports.expose(wanted, self.record.life.enabled(), &reserved)
    }

    /// Notes that the daemon ends: nothing boots the instance from now on.
    pub(crate) fn daemon_ends(&mut self) {
        self.record.life.daemon_ends();
    }

    /// Closes them again.
    pub(crate) fn close_ports(&mut self) {
        self.ports.withdraw_from(0);
    }

    async fn store_ports(&mut self) -> Result<(), InstanceError> {
        self.publish();
        let event = self.event("ports");
        Ok(self.context.registry.update(self.row(), Some(event)).await?)
    }

    async fn step(&mut self, event: Event) {
        // What comes may be what they have waited for.
        while let Some(gone) = self.gave_up() {
            let _nothing = self.step_once(gone).await;
        }
        let mut next = Some(event);
        while let Some(event) = next {
            next = self.step_once(event).await;
        }
    }

    /// Returns what happens right after it.
    async fn step_once(&mut self, event: Event) -> Option<Event> {
        let before = Outline::of(&self.record.life);
        let enabled = self.record.life.enabled();
        let effects = self.record.life.step(event);
        self.usage.set_awake(self.record.life.is_running());
        let after = Outline::of(&self.record.life);
        match (enabled, self.record.life.enabled()) {
            (false, true) => self.ports.open(),
            (true, false) => self.ports.close(),
            _ => {}
        }
        let removed = effects.contains(&Effect::Remove) || self.record.life.is_gone();
        if before != after && !removed {
            self.changed(before.state, &effects);
            self.store(before.became(&after)).await;
        }
        let mut next = None;
        for effect in effects {
            match effect {
                Effect::Next => next = Some(Event::Next),
                effect => self.perform(effect).await,
            }
        }
        next
    }

    fn changed(&mut self, before: State, effects: &[Effect]) {
        let now = now_ms();
        let state = self.record.life.state();
        if state != State::Hibernated {
            // The time to the stop counts from the pause.
            self.record.active_ms = now;
        }
        self.record.stopped_ms = (state == State::Stopped)
            .then(|| self.record.stopped_ms.filter(|_| before == state).unwrap_or(now));
        if state != before {
            self.record.since_ms = now;
        }
        if state != State::Paused && state != before {
            self.passing.filled = None;
        }
        if state == State::Running && before != State::Running {
            self.passing.stays_in_memory = false;
            self.record.awake_ms = now;
        }
        if state == State::Starting && before != State::Starting {
            self.passing.attempts.next_ms = None;
            self.record.exit_code = None;
            self.record.started_ms = None;
        }
        for effect in effects {
            if let Effect::Boot(boot) = effect {
                self.output.begin(*boot);
                self.output.log_system(&format!("boot {boot}"));
            }
        }
        match (before, state) {
            (State::Paused, State::Running) => self.output.log_system("resumed"),
            (State::Running, State::Paused) => self.output.log_system("paused"),
            (State::Paused, State::Hibernated) => self.output.log_system("hibernated"),
            (State::Hibernated, State::Running) => self.output.log_system("woken from disk"),
            (State::Starting, State::Running) => {
                self.record.started_ms = Some(now);
                self.record.last_started_ms = Some(now);
                self.start_timer();
            }
            _ => {}
        }
    }

    /// Ends the command when its time is up, which counts from its execution, also over daemons.
    fn start_timer(&mut self) {
        let Some(timeout) = self.record.spec.timeout_ms else { return };
        let after = remaining_ms(timeout, self.record.started_ms, now_ms());
        let (mailbox, boot) = (self.own_mailbox.clone(), self.record.life.boot());
        self.stop_timer();
        self.timer = Some(tokio::spawn(async move {
            tokio::time::sleep(std::time::Duration::from_millis(after)).await;
            // An instance that has gone needs no stop.
            let _gone = mailbox.send(Message::TimeUp(boot)).await;
        }));
    }

    fn stop_timer(&mut self) {
        if let Some(timer) = self.timer.take() {
            timer.abort();
        }
    }

    fn after_teardown(&mut self) {
        self.stop_timer();
        self.live.send_replace(None);
        self.plan_restart();
        let ending = ending(self.record.exit_code, self.record.life.reason());
        let reason = match &ending {
            Ending::Exit(code, reason) => format!("stopped: {} (exit code {code})", reason.message),
            Ending::Failed(reason) => format!("stopped: {}", reason.message),
        };
        self.output.log_system(&reason);
        // One that rests goes on when somebody comes; whoever is attached waits for that.
        if !self.record.life.reason().is_some_and(StopReason::is_idle) {
            self.output.finish(ending);
        }
    }

    /// An event that tells how the instance is now.
    pub(crate) fn event(&self, kind: &str) -> NewEvent {
        event(&self.record.id, kind, &Detail::of(&self.record))
    }

    async fn store(&mut self, kind: Option<&str>) {
        self.publish();
        let event = kind.map(|kind| self.event(kind));
        if let Err(error) = self.context.registry.update(self.row(), event).await {
            // What runs goes on; the next change tries again.
            tracing::error!(id = self.record.id, %error, "record not stored");
        }
    }

    pub(crate) fn publish(&mut self) {
        let view = self.record.view(&self.ports, &self.usage, &self.passing, &self.context.config.rest);
        let enabled = view.enabled;
        if self.view.send_replace(Arc::new(view)).enabled != enabled {
            self.context.enabled.send_replace(());
        }
    }

    /// The instance as the registry stores it.
    pub(crate) fn row(&self) -> InstanceRow {
        let machine = self.live.borrow().as_ref().and_then(|live| live.machine());
        let mut row =
            self.record.row(machine.map(|machine| machine.handle()).as_ref(), &self.ports.mappings());
        self.note_filled(&mut row);
        row
    }
}

/// Returns at that time, milliseconds since 1970; never, if there is none.
async fn fall_due(at_ms: Option<i64>) {
    let Some(at_ms) = at_ms else { return std::future::pending().await };
    let after = u64::try_from(at_ms.saturating_sub(now_ms())).unwrap_or(0);
    tokio::time::sleep(std::time::Duration::from_millis(after)).await;
}
