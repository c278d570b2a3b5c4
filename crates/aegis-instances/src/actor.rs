//! The owner of one instance.
//!
//! It takes messages one by one, lets [`Lifecycle::step`] decide, stores what changed, and then performs the
//! effects. Boot, guest session and teardown are tasks; they belong to a [`MachineRun`], which lasts from one boot to
//! its teardown, and report back by message.

pub(crate) mod disk_pressure;
mod effects;
mod machine_events;
mod messages;
mod network_update;
mod restore;

use std::collections::HashMap;
use std::sync::Arc;

use aegis_lifecycle::effect::Effect;
use aegis_lifecycle::event::{Boot, Event, Reply, Request, State, Waiter};
use aegis_lifecycle::restart_policy::RunEnd;
use aegis_lifecycle::stop_reason::StopReason;
use aegis_machines::checkpoint::capture::CheckpointSource;
use aegis_machines::clock::now_ms;
use aegis_machines::disk_lock::DiskLock;
use aegis_machines::machine_run::{MachineRun, adopt_guest};
use aegis_machines::network::interface;
use aegis_machines::output::{Ending, Output};
use aegis_machines::reporter::{MachineEvent, MachineEvents, Reporter};
use aegis_registry::{InstanceRow, NewEvent};
use aegis_vmm::Machine;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::deps::ActorDeps;
use crate::error::InstanceError;
use crate::events::{Detail, VisibleState, event};
use crate::message::{InstanceRef, Message, Replacement};
use crate::ports::{Mapping, PortRequest, Ports};
use crate::record::{Record, TransientState, ending, remaining_ms};
use crate::usage::Usage;
use crate::view::View;

/// How many messages may wait for an actor.
pub(crate) const MAILBOX: usize = 64;

/// The owner of one instance.
#[derive(Debug)]
pub(crate) struct Actor {
    deps: Arc<ActorDeps>,
    record: Record,
    ports: Ports,
    usage: Arc<Usage>,
    transient: TransientState,
    mailbox: mpsc::Receiver<Message>,
    /// For tasks to report back; while the actor lives the mailbox stays open.
    own_mailbox: mpsc::Sender<Message>,
    /// What its machines tell, each with the number of its boot.
    machine_events: mpsc::Receiver<(Boot, MachineEvent)>,
    own_machine_events: MachineEvents,
    waiters: HashMap<Waiter, oneshot::Sender<Reply>>,
    /// What those of them have brought who want its disk replaced.
    replacements: HashMap<Waiter, Replacement>,
    next_waiter: Waiter,
    run: watch::Sender<Option<Arc<MachineRun>>>,
    view: watch::Sender<Arc<View>>,
    output: Arc<Output>,
    timer: Option<JoinHandle<()>>,
    disk: DiskLock,
}

impl Actor {
    /// An actor for a stored instance, and what others hold of it.
    pub(crate) fn new(deps: Arc<ActorDeps>, record: Record, mappings: Vec<Mapping>) -> (Actor, InstanceRef) {
        let (own_mailbox, mailbox) = mpsc::channel(MAILBOX);
        let (own_machine_events, machine_events) = mpsc::channel(MAILBOX);
        let log = deps.machines.home().log_dir(&record.id);
        let output = Output::new(log, deps.log_limits, record.life.boot(), record.ending());
        let name = record.handle.as_deref().unwrap_or(&record.id);
        let ports = Ports::new(Arc::clone(&deps.ingress), &record.id, name, mappings);
        let usage = Arc::<Usage>::default();
        usage.set_awake(record.life.is_running());
        let no_hibernation = deps.machines.hibernation().refusal(&record.spec);
        let transient = TransientState { no_hibernation, ..TransientState::default() };
        let view = watch::Sender::new(Arc::new(record.view(&ports, &usage, &transient, &deps.idle_defaults)));
        let actor = Actor {
            record,
            ports,
            usage,
            transient,
            mailbox,
            own_mailbox: own_mailbox.clone(),
            machine_events,
            own_machine_events,
            waiters: HashMap::new(),
            replacements: HashMap::new(),
            next_waiter: 0,
            run: watch::Sender::new(None),
            view,
            output: Arc::new(output),
            timer: None,
            disk: DiskLock::default(),
            deps,
        };
        let reference = InstanceRef {
            mailbox: own_mailbox,
            view: actor.view.subscribe(),
            output: Arc::clone(&actor.output),
            usage: Arc::clone(&actor.usage),
            metrics: actor.deps.metrics.clone(),
            environment: actor.deps.machines.environment().clone(),
            run: actor.run.subscribe(),
            disk: actor.disk.clone(),
        };
        (actor, reference)
    }

    /// A run of its machine that begins.
    fn new_run(&self, boot: Boot, adopted: bool) -> Arc<MachineRun> {
        let reporter = Reporter::new(boot, self.own_machine_events.clone(), Arc::clone(&self.output));
        MachineRun::new(adopted, reporter)
    }

    /// Its first machine is to go on from there.
    pub(crate) fn go_on_from(&mut self, origin: Option<CheckpointSource>) {
        self.transient.origin = origin;
    }

    /// Takes over a machine that an earlier daemon started. `paused` ones are spoken to when they go on.
    pub(crate) fn adopt(&mut self, machine: Arc<dyn Machine>, paused: bool) {
        let run = self.new_run(self.record.life.boot(), true);
        run.end_boot();
        self.deps.machines.adopt_helpers(&self.record.id, &self.record.spec, &run, &machine);
        run.set_machine(machine);
        if let Some(guard) = self.disk.try_acquire() {
            run.hold_disk(guard);
        }
        self.go_on();
        // The last daemon may have died before it told.
        let addresses = interface::group_addresses(&self.record.spec.network);
        if !addresses.is_empty() {
            run.note_addresses(addresses);
        }
        if !paused {
            adopt_guest(&run);
        }
        self.run.send_replace(Some(run));
    }

    /// Goes on with the log and the time of a run that an earlier daemon began.
    pub(crate) fn go_on(&mut self) {
        if let Err(error) = self.output.resume(self.record.life.boot()) {
            tracing::warn!(id = self.record.id, %error, "log not opened");
        }
        self.start_timer();
    }

    /// Owns the instance until it is gone.
    pub(crate) async fn serve(mut self) {
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
                // It holds a sender of its own, so there is always a next one.
                Some((boot, event)) = self.machine_events.recv() => self.take_machine_event(boot, event).await,
                () = fall_due(end_of_life) => {
                    // Nobody waits for that.
                    self.step(Event::Requested(Request::LifetimeOver, 0)).await;
                }
                () = fall_due(self.transient.attempts.next_ms) => {
                    self.transient.attempts.next_ms = None;
                    self.step(Event::RestartDue).await;
                }
                Ok(()) = users.changed() => {
                    self.record.active_ms = now_ms();
                    self.publish();
                }
                () = fall_due(due.map(|due| due.at_ms)) => {
                    // Somebody may have come while this was not looking.
                    let now = self.view.borrow().next_step();
                    if let Some(due) = now.filter(|due| due.at_ms <= now_ms()) {
                        self.step(Event::Idle(due.level)).await;
                    }
                }
            }
        }
        self.output.close();
    }

    /// Decides whether what has ended is executed again.
    pub(crate) fn plan_restart(&mut self) {
        let ended = RunEnd {
            reason: self.record.life.reason(),
            exit_code: self.record.exit_code,
            started_ms: self.record.started_ms,
            now_ms: now_ms(),
        };
        self.transient.attempts = self.transient.attempts.after(self.record.spec.restart, &ended);
    }

    /// Opens ports of an instance that is about to be stored.
    ///
    /// # Errors
    /// If they are taken or contradict each other; then none is open.
    pub(crate) fn open_ports(&mut self, wanted: &[PortRequest]) -> Result<(), InstanceError> {
        let reserved = self.deps.table.ports_of_others(&self.record.id);
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
        let before = VisibleState::of(&self.record.life);
        let enabled = self.record.life.enabled();
        let effects = self.record.life.step(event);
        self.usage.set_awake(self.record.life.is_running());
        let after = VisibleState::of(&self.record.life);
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
                Effect::Continue => next = Some(Event::Continue),
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
            self.transient.filled = None;
        }
        if state == State::Running && before != State::Running {
            self.transient.stays_in_memory = false;
            self.record.awake_ms = now;
        }
        if state == State::Starting && before != State::Starting {
            self.transient.attempts.next_ms = None;
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
        self.run.send_replace(None);
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
        if let Err(error) = self.deps.registry.update(self.row(), event).await {
            // What runs goes on; the next change tries again.
            tracing::error!(id = self.record.id, %error, "record not stored");
        }
    }

    pub(crate) fn publish(&mut self) {
        let view = self.record.view(&self.ports, &self.usage, &self.transient, &self.deps.idle_defaults);
        let enabled = view.enabled;
        if self.view.send_replace(Arc::new(view)).enabled != enabled {
            self.deps.table.enabled_changed();
        }
    }

    /// The instance as the registry stores it.
    pub(crate) fn row(&self) -> InstanceRow {
        let machine = self.run.borrow().as_ref().and_then(|run| run.machine());
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
