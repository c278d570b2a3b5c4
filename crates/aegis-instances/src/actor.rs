//! The owner of one instance.
//!
//! It takes messages one by one, lets [`Lifecycle::step`] decide, stores what changed, and then performs the
//! effects. Boot, guest session and teardown are tasks; they belong to a [`Live`], which lasts from one boot to its
//! teardown, and report back by message.

use std::collections::HashMap;
use std::sync::Arc;

use aegis_store::registry::{InstanceRow, NewEvent};
use aegis_vmm::Machine;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::boot::{self, Order};
use crate::events::{Detail, Outline, event};
use crate::lifecycle::{Boot, Effect, Event, Lifecycle, Manner, Reply, Request, State, Waiter};
use crate::live::{Live, adopt_guest, resume};
use crate::manager::Context;
use crate::now_ms;
use crate::output::{Ending, Output};
use crate::reason::StopReason;
use crate::session::News;
use crate::spec::InstanceSpec;
use crate::teardown;
use crate::view::{View, word};

/// How many messages may wait for an actor.
pub(crate) const MAILBOX: usize = 64;

/// What an actor is told.
#[derive(Debug)]
pub(crate) enum Message {
    /// Somebody wants something.
    Wanted(Request, oneshot::Sender<Reply>),
    /// Something happened.
    Happened(Event),
    /// The machine of this boot is there; to be stored, then confirmed.
    MachineUp(Boot, oneshot::Sender<()>),
    /// News from the guest of this boot.
    Guest(Boot, News),
}

/// What others hold of an instance.
#[derive(Debug, Clone)]
pub(crate) struct InstanceRef {
    pub(crate) mailbox: mpsc::Sender<Message>,
    pub(crate) view: watch::Receiver<Arc<View>>,
    pub(crate) output: Arc<Output>,
    /// The machine's surroundings while there is one.
    pub(crate) live: watch::Receiver<Option<Arc<Live>>>,
}

/// The owner of one instance.
#[derive(Debug)]
pub(crate) struct Actor {
    context: Arc<Context>,
    id: String,
    handle: Option<String>,
    spec: Arc<InstanceSpec>,
    life: Lifecycle,
    exit_code: Option<i32>,
    created_ms: i64,
    active_ms: i64,
    stopped_ms: Option<i64>,
    started_ms: Option<i64>,
    mailbox: mpsc::Receiver<Message>,
    /// For tasks to report back; while the actor lives the mailbox stays open.
    own_mailbox: mpsc::Sender<Message>,
    waiters: HashMap<Waiter, oneshot::Sender<Reply>>,
    next_waiter: Waiter,
    live: watch::Sender<Option<Arc<Live>>>,
    view: watch::Sender<Arc<View>>,
    output: Arc<Output>,
    timer: Option<JoinHandle<()>>,
}

/// An instance as stored, ready to be owned by an actor.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) id: String,
    pub(crate) handle: Option<String>,
    pub(crate) spec: InstanceSpec,
    pub(crate) life: Lifecycle,
    pub(crate) exit_code: Option<i32>,
    pub(crate) created_ms: i64,
    pub(crate) active_ms: i64,
    pub(crate) stopped_ms: Option<i64>,
    pub(crate) started_ms: Option<i64>,
}

impl Actor {
    /// An actor for a stored instance, and what others hold of it.
    pub(crate) fn new(context: Arc<Context>, stored: Stored) -> (Actor, InstanceRef) {
        let Stored { id, handle, spec, life, exit_code, created_ms, active_ms, stopped_ms, started_ms } =
            stored;
        let (own_mailbox, mailbox) = mpsc::channel(MAILBOX);
        let ending =
            (life.state() == State::Stopped && life.boot() > 0).then(|| ending(exit_code, life.reason()));
        let output = Output::new(context.home.log_dir(&id), context.config.log_limits, life.boot(), ending);
        let spec = Arc::new(spec);
        let view = watch::Sender::new(Arc::new(View {
            id: id.clone(),
            handle: handle.clone(),
            spec: Arc::clone(&spec),
            state: life.state(),
            enabled: life.enabled(),
            exit_code,
            reason: life.reason().cloned(),
            boot: life.boot(),
            created_ms,
            updated_ms: active_ms,
            active_ms,
            stopped_ms,
            started_ms,
        }));
        let actor = Actor {
            id,
            handle,
            spec,
            life,
            exit_code,
            created_ms,
            active_ms,
            stopped_ms,
            started_ms,
            mailbox,
            own_mailbox: own_mailbox.clone(),
            waiters: HashMap::new(),
            next_waiter: 0,
            live: watch::Sender::new(None),
            view,
            output: Arc::new(output),
            timer: None,
            context,
        };
        let reference = InstanceRef {
            mailbox: own_mailbox,
            view: actor.view.subscribe(),
            output: Arc::clone(&actor.output),
            live: actor.live.subscribe(),
        };
        (actor, reference)
    }

    /// Takes over a machine that an earlier daemon started. `paused` ones are spoken to when they go on.
    pub(crate) fn adopt(&mut self, machine: Arc<dyn Machine>, paused: bool) {
        let live = Live::new(self.life.boot(), true, self.own_mailbox.clone(), Arc::clone(&self.output));
        live.end_boot();
        live.set_machine(machine);
        if let Err(error) = self.output.resume(self.life.boot()) {
            tracing::warn!(id = self.id, %error, "log not opened");
        }
        if !paused {
            adopt_guest(&live);
        }
        self.live.send_replace(Some(live));
        self.start_timer();
    }

    /// Owns the instance until it is gone.
    pub(crate) async fn run(mut self) {
        while let Some(message) = self.mailbox.recv().await {
            self.take(message).await;
            if self.life.is_gone() {
                break;
            }
        }
        self.output.close();
    }

    async fn take(&mut self, message: Message) {
        match message {
            Message::Wanted(request, reply) => {
                self.next_waiter += 1;
                self.waiters.insert(self.next_waiter, reply);
                self.step(Event::Wanted(request, self.next_waiter)).await;
            }
            Message::Happened(event) => {
                if event == Event::TornDown(self.life.boot()) {
                    self.after_teardown();
                }
                self.step(event).await;
            }
            Message::MachineUp(boot, done) => {
                if boot == self.life.boot() {
                    self.store(Some("machine_started")).await;
                }
                let _gone = done.send(());
            }
            Message::Guest(boot, News::Exited { status, out_of_memory, stored }) => {
                if boot == self.life.boot() {
                    self.exit_code = Some(status.code());
                    self.step(Event::Exited(boot, StopReason::exited(status, out_of_memory))).await;
                }
                let _gone = stored.send(());
            }
            Message::Guest(boot, News::Active) => {
                if boot == self.life.boot() {
                    self.active_ms = now_ms();
                    self.publish();
                }
            }
        }
    }

    async fn step(&mut self, event: Event) {
        let before = Outline::of(&self.life);
        let effects = self.life.step(event);
        let after = Outline::of(&self.life);
        let removed = effects.contains(&Effect::Remove) || self.life.is_gone();
        if before != after && !removed {
            self.changed(before.state, &effects);
            self.store(before.became(&after)).await;
        }
        for effect in effects {
            self.perform(effect).await;
        }
    }

    fn changed(&mut self, before: State, effects: &[Effect]) {
        let now = now_ms();
        let state = self.life.state();
        self.active_ms = now;
        self.stopped_ms =
            (state == State::Stopped).then(|| self.stopped_ms.filter(|_| before == state).unwrap_or(now));
        if state == State::Starting && before != State::Starting {
            self.exit_code = None;
            self.started_ms = None;
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
            (State::Starting, State::Running) => {
                self.started_ms = Some(now);
                self.start_timer();
            }
            _ => {}
        }
    }

    /// Ends the command when its time is up, which counts from its execution, also over daemons.
    fn start_timer(&mut self) {
        let Some(timeout) = self.spec.timeout_ms else { return };
        let after = remaining_ms(timeout, self.started_ms, now_ms());
        let mailbox = self.own_mailbox.clone();
        self.stop_timer();
        self.timer = Some(tokio::spawn(async move {
            tokio::time::sleep(std::time::Duration::from_millis(after)).await;
            let (reply, _nobody) = oneshot::channel();
            // An instance that has gone needs no stop.
            let _gone = mailbox.send(Message::Wanted(Request::TimeUp, reply)).await;
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
        let ending = ending(self.exit_code, self.life.reason());
        let reason = match &ending {
            Ending::Exit(code, reason) => format!("stopped: {} (exit code {code})", reason.message),
            Ending::Failed(reason) => format!("stopped: {}", reason.message),
        };
        self.output.log_system(&reason);
        self.output.finish(ending);
    }

    async fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Boot(boot) => self.boot(boot),
            Effect::TearDown(boot, manner) => self.tear_down(boot, manner),
            Effect::Pause(boot) => self.with_machine(boot, |live| async move {
                let Some(machine) = live.machine() else { return };
                let result = machine.pause().await.map_err(|error| error.to_string());
                live.tell(Message::Happened(Event::PauseEnded(live.boot, result))).await;
            }),
            Effect::Resume(boot) => self.with_machine(boot, |live| async move {
                let result = resume(&live).await;
                live.tell(Message::Happened(Event::ResumeEnded(live.boot, result))).await;
            }),
            Effect::Remove => self.remove().await,
            Effect::Reply(waiter, reply) => self.answer(waiter, reply),
        }
    }

    fn answer(&mut self, waiter: Waiter, reply: Reply) {
        if let Some(waiting) = self.waiters.remove(&waiter) {
            let _gave_up = waiting.send(reply);
        }
    }

    fn boot(&mut self, boot: Boot) {
        let live = Live::new(boot, false, self.own_mailbox.clone(), Arc::clone(&self.output));
        self.live.send_replace(Some(Arc::clone(&live)));
        let order = Order {
            id: self.id.clone(),
            hostname: self.handle.clone().unwrap_or_else(|| self.id.clone()),
            spec: Arc::clone(&self.spec),
            live,
        };
        let context = Arc::clone(&self.context);
        // Never aborted: it may just be making a machine. Ends early when cancelled; the teardown waits for it.
        tokio::spawn(async move {
            let result = boot::boot(&context, &order).await;
            order.live.end_boot();
            let event = match result {
                Ok(()) => Event::Booted(boot),
                Err(reason) => Event::BootFailed(boot, reason),
            };
            order.live.tell(Message::Happened(event)).await;
        });
    }

    fn tear_down(&mut self, boot: Boot, manner: Manner) {
        let live = self.live.borrow().clone();
        let Some(live) = live.filter(|live| live.boot == boot) else { return };
        if manner == Manner::AtOnce {
            live.hurry();
        }
        if !live.cancel() {
            return;
        }
        let (context, id) = (Arc::clone(&self.context), self.id.clone());
        // What an ephemeral instance leaves on its disk nobody will read.
        let manner = if self.spec.ephemeral && self.exit_code.is_some() { Manner::AtOnce } else { manner };
        // Reports back to this actor, which waits for it.
        tokio::spawn(async move {
            teardown::tear_down(&context, &id, &live, manner).await;
            live.tell(Message::Happened(Event::TornDown(boot))).await;
        });
    }

    fn with_machine<F: Future<Output = ()> + Send + 'static>(
        &self,
        boot: Boot,
        work: impl FnOnce(Arc<Live>) -> F,
    ) {
        let live = self.live.borrow().clone();
        if let Some(live) = live.filter(|live| live.boot == boot) {
            live.keep(tokio::spawn(work(Arc::clone(&live))));
        }
    }

    async fn remove(&mut self) {
        let event = self.event("deleted");
        if let Err(error) = self.context.registry.remove(self.id.clone(), Some(event)).await {
            tracing::error!(id = self.id, %error, "record not removed");
        }
        self.context.forget(&self.id, self.handle.as_deref());
        self.output.close();
        let (home, id) = (self.context.home.clone(), self.id.clone());
        let removal = tokio::task::spawn_blocking(move || {
            let disk = match std::fs::remove_file(home.disk(&id)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.to_string()),
                _ => Ok(()),
            };
            let logs = aegis_store::logs::remove_all(&home.log_dir(&id)).map_err(|error| error.to_string());
            let sockets = home.remove_run_dir(&id).map_err(|error| error.to_string());
            disk.and(logs).and(sockets)
        });
        if let Ok(Err(error)) = removal.await {
            // The hourly sweep tries again.
            tracing::warn!(id = self.id, error, "files not removed");
        }
        // No task would report this.
        for effect in self.life.step(Event::Removed) {
            if let Effect::Reply(waiter, reply) = effect {
                self.answer(waiter, reply);
            }
        }
    }

    /// An event that tells how the instance is now.
    pub(crate) fn event(&self, kind: &str) -> NewEvent {
        let detail = Detail {
            handle: self.handle.clone(),
            boot: self.life.boot(),
            reason: self.life.reason().cloned(),
            exit_code: self.exit_code,
        };
        event(&self.id, kind, &detail)
    }

    async fn store(&mut self, kind: Option<&str>) {
        self.publish();
        let event = kind.map(|kind| self.event(kind));
        if let Err(error) = self.context.registry.update(self.row(), event).await {
            // What runs goes on; the next change tries again.
            tracing::error!(id = self.id, %error, "record not stored");
        }
    }

    fn publish(&mut self) {
        self.view.send_replace(Arc::new(View {
            id: self.id.clone(),
            handle: self.handle.clone(),
            spec: Arc::clone(&self.spec),
            state: self.life.state(),
            enabled: self.life.enabled(),
            exit_code: self.exit_code,
            reason: self.life.reason().cloned(),
            boot: self.life.boot(),
            created_ms: self.created_ms,
            updated_ms: now_ms(),
            active_ms: self.active_ms,
            stopped_ms: self.stopped_ms,
            started_ms: self.started_ms,
        }));
    }

    /// The instance as the registry stores it.
    pub(crate) fn row(&self) -> InstanceRow {
        let json = |value: Option<String>| value.unwrap_or_default();
        let machine = self.live.borrow().as_ref().and_then(|live| live.machine());
        InstanceRow {
            id: self.id.clone(),
            handle: self.handle.clone(),
            spec: json(serde_json::to_string(&*self.spec).ok()),
            enabled: self.life.enabled(),
            state: word(self.life.state()).to_owned(),
            exit_code: self.exit_code,
            stop_reason: self.life.reason().and_then(|reason| serde_json::to_string(reason).ok()),
            vm: machine.and_then(|machine| serde_json::to_string(&machine.handle()).ok()),
            boot: self.life.boot(),
            created_at_ms: self.created_ms,
            updated_at_ms: now_ms(),
            last_active_at_ms: self.active_ms,
            stopped_at_ms: self.stopped_ms,
            started_at_ms: self.started_ms,
        }
    }
}

/// What is left of a timeout. A clock that was set back adds nothing to it.
fn remaining_ms(timeout: u64, started: Option<i64>, now: i64) -> u64 {
    let used = started.map_or(0, |started| now.saturating_sub(started));
    timeout.saturating_sub(u64::try_from(used).unwrap_or(0))
}

/// How the last run of a stopped instance ended.
fn ending(exit_code: Option<i32>, reason: Option<&StopReason>) -> Ending {
    let reason = reason.cloned().unwrap_or_else(StopReason::stopped);
    match exit_code {
        Some(code) => Ending::Exit(code, reason),
        None => Ending::Failed(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_counts_from_the_commands_execution() {
        assert_eq!(remaining_ms(1000, None, 5000), 1000);
        assert_eq!(remaining_ms(1000, Some(4700), 5000), 700);
        assert_eq!(remaining_ms(1000, Some(1000), 5000), 0);
        assert_eq!(remaining_ms(1000, Some(6000), 5000), 1000);
    }
}
