//! The life of an instance as a pure function: `step(event) -> effects`.
//!
//! ```text
//!           Start, Wake                 Booted            Pause, idle
//!   Stopped ───────────► Starting ─────────────► Running ◄──────────► Paused
//!      ▲                    │                       │     Resume        │
//!      │    TornDown        ▼   Stop, exit, death, Delete, idle, …      │
//!      └──────────────── Stopping ◄─────────────────────────────────────┘
//!                           │
//!                           └──► Removing ──► Gone
//! ```
//!
//! `Pausing` and `Resuming` stand between `Running` and `Paused` while the machine is asked; whoever arrives then
//! waits for the outcome. From `Paused` a machine may go on disk (`Hibernating`, `Hibernated`) and come back from there
//! to `Running` (`Waking`); if it cannot, it boots. `Stopping` remembers what comes after it: rest, another boot, or removal.
//!
//! The caller owns the state, is its only writer, performs the effects in order, and feeds their results back as
//! events. It never loses a waiter: each one that goes in with an event comes out with exactly one reply.

mod held;
mod words;

pub use words::{Boot, Effect, Event, Manner, Reply, Request, Rung, State, Waiter};

use crate::reason::StopReason;

/// What comes after `Stopping`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Rest,
    Boot,
    Remove,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Stopped,
    Starting,
    Running,
    Pausing,
    Paused,
    Resuming,
    Hibernating,
    Hibernated,
    Waking,
    Stopping(Next),
    Removing,
    Gone,
}

/// The life of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lifecycle {
    phase: Phase,
    /// What users saw before `Stopping`, which they do not see.
    before_stop: State,
    /// Whether the machine is on its way to rest, and is ended in good order only when it is there.
    settling: bool,
    enabled: bool,
    /// Whether it is not to go on before the host's disk has room.
    held: bool,
    /// Whether the daemon ends: what it boots now, nobody would look after.
    daemon_ends: bool,
    boot: Boot,
    reason: Option<StopReason>,
    /// Wait until it runs.
    for_running: Vec<Waiter>,
    /// Wait until it is paused.
    for_pause: Vec<Waiter>,
    /// Wait until it is on disk.
    for_hibernation: Vec<Waiter>,
    /// Wait until it is stopped.
    for_stop: Vec<Waiter>,
    /// Wait until it is gone.
    for_removal: Vec<Waiter>,
    /// Will not get what they waited for; told why as soon as it is stopped, so that it is when they look.
    failed: Vec<(Waiter, Reply)>,
}

impl Lifecycle {
    /// An instance without a machine, as stored.
    #[must_use]
    pub fn stopped(enabled: bool, boot: Boot, reason: Option<StopReason>) -> Lifecycle {
        Lifecycle {
            phase: Phase::Stopped,
            before_stop: State::Stopped,
            settling: false,
            enabled,
            held: false,
            daemon_ends: false,
            boot,
            reason,
            for_running: vec![],
            for_pause: vec![],
            for_hibernation: vec![],
            for_stop: vec![],
            for_removal: vec![],
            failed: vec![],
        }
    }

    /// An instance whose machine was found alive.
    #[must_use]
    pub fn recovered(enabled: bool, boot: Boot, paused: bool) -> Lifecycle {
        let phase = if paused { Phase::Paused } else { Phase::Running };
        Lifecycle { phase, ..Lifecycle::stopped(enabled, boot, None) }
    }

    /// An instance whose machine is on disk.
    #[must_use]
    pub fn hibernated(enabled: bool, boot: Boot) -> Lifecycle {
        Lifecycle { phase: Phase::Hibernated, ..Lifecycle::stopped(enabled, boot, None) }
    }

    /// What users see.
    #[must_use]
    pub fn state(&self) -> State {
        match self.phase {
            Phase::Stopped | Phase::Removing | Phase::Gone => State::Stopped,
            Phase::Starting => State::Starting,
            Phase::Running | Phase::Pausing => State::Running,
            Phase::Paused | Phase::Resuming | Phase::Hibernating => State::Paused,
            Phase::Hibernated | Phase::Waking => State::Hibernated,
            Phase::Stopping(_) => self.before_stop,
        }
    }

    /// Whether it may be booted without an explicit start.
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// Whether it runs, and nothing is under way that would change that.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    /// Whether nothing is under way: it runs, stands still, or is stopped.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Paused | Phase::Hibernated | Phase::Stopped)
    }

    /// Number of the current or last boot; 0 before the first.
    #[must_use]
    pub fn boot(&self) -> Boot {
        self.boot
    }

    /// Why it is stopped, or is being stopped.
    #[must_use]
    pub fn reason(&self) -> Option<&StopReason> {
        self.reason.as_ref()
    }

    /// Notes that somebody wants one that is stopped to stay so, where its end alone does not say that.
    pub(crate) fn stay_stopped(&mut self) {
        if self.phase == Phase::Stopped {
            self.reason = Some(StopReason::stopped());
        }
    }

    /// Notes that the daemon ends: nothing boots it from now on.
    pub(crate) fn daemon_ends(&mut self) {
        self.daemon_ends = true;
    }

    /// Whether it has ceased to exist.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.phase == Phase::Gone
    }

    /// Takes one event and returns what is to be done about it, in order.
    pub fn step(&mut self, event: Event) -> Vec<Effect> {
        let mut out = Vec::new();
        match event {
            Event::Wanted(request, waiter) => self.wanted(request, waiter, &mut out),
            Event::Booted(boot) if boot == self.boot => self.booted(&mut out),
            Event::BootFailed(boot, reason) if boot == self.boot && self.phase == Phase::Starting => {
                self.stop_with(reason, Manner::AtOnce, Next::Rest, &mut out);
            }
            Event::CloneFailed(boot) if boot == self.boot && self.phase == Phase::Starting => {
                let waiting = std::mem::take(&mut self.for_running);
                self.stop_with(StopReason::restarted(), Manner::AtOnce, Next::Boot, &mut out);
                self.for_running = waiting;
            }
            Event::PauseEnded(boot, result) if boot == self.boot && self.phase == Phase::Pausing => {
                self.pause_ended(result, &mut out)
            }
            Event::ResumeEnded(boot, result) if boot == self.boot && self.phase == Phase::Resuming => {
                self.resume_ended(result, &mut out)
            }
            Event::HibernateEnded(boot, result) if boot == self.boot && self.phase == Phase::Hibernating => {
                self.hibernate_ended(result, &mut out)
            }
            Event::PauseEnded(boot, _) | Event::HibernateEnded(boot, _)
                if boot == self.boot && self.settling =>
            {
                self.settling = false;
                out.push(Effect::TearDown(self.boot, Manner::Graceful));
            }
            Event::WakeEnded(boot, result) if boot == self.boot && self.phase == Phase::Waking => {
                self.wake_ended(&result, &mut out)
            }
            // One that does not come back from disk boots.
            Event::Died(boot, _) if boot == self.boot && self.phase == Phase::Waking => {}
            Event::Exited(boot, reason, manner) if boot == self.boot && self.is_live() => {
                // The news of the exit may overtake that of the boot.
                reply(&mut self.for_running, &Reply::Done, &mut out);
                self.stop_with(reason, manner, Next::Rest, &mut out);
            }
            Event::Died(boot, reason) if boot == self.boot && self.is_live() => {
                self.stop_with(reason, Manner::AtOnce, Next::Rest, &mut out);
            }
            Event::TornDown(boot) if boot == self.boot => self.torn_down(&mut out),
            Event::Removed if self.phase == Phase::Removing => {
                self.phase = Phase::Gone;
                reply(&mut self.for_removal, &Reply::Done, &mut out);
            }
            Event::Idle(rung) => self.idle(rung, &mut out),
            Event::HostFull => self.host_full(&mut out),
            Event::HostHasRoom => self.held = false,
            Event::Again if self.phase == Phase::Stopped && self.enabled && !self.daemon_ends => {
                self.begin_boot(&mut out);
            }
            // News of an earlier boot, or of a machine that is being ended anyway.
            Event::Booted(_)
            | Event::BootFailed(..)
            | Event::CloneFailed(_)
            | Event::PauseEnded(..)
            | Event::ResumeEnded(..)
            | Event::HibernateEnded(..)
            | Event::WakeEnded(..)
            | Event::Exited(..)
            | Event::Died(..)
            | Event::TornDown(_)
            | Event::Again
            | Event::Removed => {}
        }
        out
    }

    fn is_live(&self) -> bool {
        matches!(
            self.phase,
            Phase::Starting
                | Phase::Running
                | Phase::Pausing
                | Phase::Paused
                | Phase::Resuming
                | Phase::Hibernating
                | Phase::Waking
        )
    }

    /// Whether something is under way at whose end the machine runs or rests, so that whoever wants that waits.
    fn is_moving(&self) -> bool {
        matches!(
            self.phase,
            Phase::Starting
                | Phase::Pausing
                | Phase::Resuming
                | Phase::Hibernating
                | Phase::Waking
                | Phase::Stopping(Next::Boot)
        )
    }

    fn is_doomed(&self) -> bool {
        matches!(self.phase, Phase::Stopping(Next::Remove) | Phase::Removing | Phase::Gone)
    }

    fn wanted(&mut self, request: Request, waiter: Waiter, out: &mut Vec<Effect>) {
        if self.is_doomed() {
            match (request, self.phase) {
                (Request::Delete, Phase::Gone) => out.push(Effect::Reply(waiter, Reply::Done)),
                (Request::Delete, _) => self.for_removal.push(waiter),
                _ => out.push(Effect::Reply(waiter, Reply::Removed)),
            }
            return;
        }
        match request {
            Request::Start | Request::Restart | Request::Ensure | Request::Wake if self.daemon_ends => {
                out.push(Effect::Reply(waiter, Reply::DaemonEnds));
            }
            Request::Resume if self.daemon_ends && self.phase == Phase::Hibernated => {
                out.push(Effect::Reply(waiter, Reply::DaemonEnds));
            }
            Request::Start => self.start(waiter, out),
            Request::Ensure if self.stopped_by_idleness() => self.wake(waiter, out),
            Request::Ensure | Request::Resume => self.ensure(waiter, out),
            Request::Wake => self.wake(waiter, out),
            Request::Pause => self.pause(waiter, out),
            Request::Hibernate => self.hibernate(waiter, out),
            Request::Stop => self.stop(waiter, StopReason::stopped(), out),
            // It costs nothing there, and the next daemon finds it.
            Request::DaemonStop if self.phase == Phase::Hibernated => {
                self.daemon_ends = true;
                out.push(Effect::Reply(waiter, Reply::Done));
            }
            Request::DaemonStop => {
                self.daemon_ends = true;
                self.stop(waiter, StopReason::daemon_stopped(), out);
            }
            Request::TimeUp => self.stop(waiter, StopReason::timeout(), out),
            Request::Disable => {
                self.enabled = false;
                self.stop(waiter, StopReason::disabled(), out);
            }
            Request::LifeOver => {
                self.enabled = false;
                self.stop(waiter, StopReason::lifetime(), out);
            }
            Request::Restart => {
                self.enabled = true;
                self.for_running.push(waiter);
                match self.phase {
                    Phase::Stopped => self.begin_boot(out),
                    Phase::Stopping(_) => self.phase = Phase::Stopping(Next::Boot),
                    _ => {
                        let others = std::mem::take(&mut self.for_running);
                        self.stop_with(StopReason::restarted(), Manner::Graceful, Next::Boot, out);
                        self.for_running = others;
                    }
                }
            }
            Request::Prune if self.phase != Phase::Stopped => {
                out.push(Effect::Reply(waiter, Reply::AlreadyRunning));
            }
            Request::Delete | Request::Prune => {
                self.for_removal.push(waiter);
                match self.phase {
                    Phase::Stopped => self.remove(out),
                    _ => self.stop_with(StopReason::deleted(), Manner::AtOnce, Next::Remove, out),
                }
            }
        }
    }

    fn start(&mut self, waiter: Waiter, out: &mut Vec<Effect>) {
        match self.phase {
            Phase::Stopped => {
                self.enabled = true;
                self.for_running.push(waiter);
                self.begin_boot(out);
            }
            Phase::Stopping(Next::Rest) => {
                self.enabled = true;
                self.for_running.push(waiter);
                self.phase = Phase::Stopping(Next::Boot);
            }
            Phase::Stopping(Next::Boot) => self.for_running.push(waiter),
            Phase::Paused
            | Phase::Pausing
            | Phase::Resuming
            | Phase::Hibernating
            | Phase::Hibernated
            | Phase::Waking => self.ensure(waiter, out),
            _ => out.push(Effect::Reply(waiter, Reply::AlreadyRunning)),
        }
    }

    fn ensure(&mut self, waiter: Waiter, out: &mut Vec<Effect>) {
        match self.phase {
            Phase::Running => out.push(Effect::Reply(waiter, Reply::Done)),
            Phase::Paused if self.refused_while_held(waiter, out) => {}
            Phase::Paused => {
                self.for_running.push(waiter);
                self.phase = Phase::Resuming;
                out.push(Effect::Resume(self.boot));
            }
            Phase::Hibernated => {
                self.for_running.push(waiter);
                self.begin_wake(out);
            }
            // While pausing, whoever needs it running has it resumed as soon as it is paused.
            _ if self.is_moving() => self.for_running.push(waiter),
            _ => out.push(Effect::Reply(waiter, Reply::Stopped)),
        }
    }

    fn stopped_by_idleness(&self) -> bool {
        self.enabled && self.reason.as_ref().is_some_and(StopReason::is_idle)
    }

    fn wake(&mut self, waiter: Waiter, out: &mut Vec<Effect>) {
        match self.phase {
            Phase::Stopped | Phase::Stopping(Next::Rest) if !self.enabled => {
                out.push(Effect::Reply(waiter, Reply::Disabled));
            }
            Phase::Stopped | Phase::Stopping(Next::Rest) => self.start(waiter, out),
            _ => self.ensure(waiter, out),
        }
    }

    /// Whoever waits for something is served first; what is under way is not disturbed.
    fn idle(&mut self, rung: Rung, out: &mut Vec<Effect>) {
        match (rung, self.phase) {
            // A guest that is ended in good order writes what it has not written yet.
            _ if self.held => {}
            (Rung::Pause, Phase::Running) => self.begin_pause(out),
            (Rung::Hibernate, Phase::Paused) => self.begin_hibernation(out),
            (Rung::Stop, Phase::Running | Phase::Paused | Phase::Hibernated) => {
                self.stop_with(StopReason::idle(), Manner::Graceful, Next::Rest, out);
            }
            _ => {}
        }
    }

    fn pause(&mut self, waiter: Waiter, out: &mut Vec<Effect>) {
        match self.phase {
            Phase::Paused | Phase::Hibernating | Phase::Hibernated => {
                out.push(Effect::Reply(waiter, Reply::Done))
            }
            Phase::Running => {
                self.for_pause.push(waiter);
                self.begin_pause(out);
            }
            _ if self.is_moving() => self.for_pause.push(waiter),
            _ => out.push(Effect::Reply(waiter, Reply::Stopped)),
        }
    }

    fn hibernate(&mut self, waiter: Waiter, out: &mut Vec<Effect>) {
        match self.phase {
            Phase::Hibernated => out.push(Effect::Reply(waiter, Reply::Done)),
            Phase::Running => {
                self.for_hibernation.push(waiter);
                self.begin_pause(out);
            }
            Phase::Paused => {
                self.for_hibernation.push(waiter);
                self.begin_hibernation(out);
            }
            _ if self.is_moving() => self.for_hibernation.push(waiter),
            _ => out.push(Effect::Reply(waiter, Reply::Stopped)),
        }
    }

    fn stop(&mut self, waiter: Waiter, reason: StopReason, out: &mut Vec<Effect>) {
        match self.phase {
            Phase::Stopped => out.push(Effect::Reply(waiter, Reply::Done)),
            _ => {
                self.for_stop.push(waiter);
                self.stop_with(reason, Manner::Graceful, Next::Rest, out);
            }
        }
    }

    /// Ends the machine, or, if that is under way, changes what comes after. Removal is never taken back.
    fn stop_with(&mut self, reason: StopReason, manner: Manner, next: Next, out: &mut Vec<Effect>) {
        let resting = self.for_pause.drain(..).chain(self.for_hibernation.drain(..));
        let waiting = self.for_running.drain(..).chain(resting);
        self.failed.extend(waiting.map(|waiter| (waiter, Reply::Failed(reason.clone()))));
        let first = !matches!(self.phase, Phase::Stopping(_));
        self.held = false;
        if first {
            self.before_stop = self.state();
            self.reason = Some(reason);
            // A guest that is just being stopped would hear of its end when it goes on, and not before.
            self.settling = matches!(self.phase, Phase::Pausing | Phase::Hibernating);
        }
        if manner == Manner::AtOnce || (first && !self.settling) {
            self.settling = false;
            out.push(Effect::TearDown(self.boot, manner));
        }
        self.phase = Phase::Stopping(next);
    }

    fn begin_boot(&mut self, out: &mut Vec<Effect>) {
        self.boot += 1;
        self.reason = None;
        self.phase = Phase::Starting;
        out.push(Effect::Boot(self.boot));
    }

    fn begin_pause(&mut self, out: &mut Vec<Effect>) {
        self.phase = Phase::Pausing;
        out.push(Effect::Pause(self.boot));
    }

    fn begin_hibernation(&mut self, out: &mut Vec<Effect>) {
        self.phase = Phase::Hibernating;
        out.push(Effect::Hibernate(self.boot));
    }

    fn begin_wake(&mut self, out: &mut Vec<Effect>) {
        self.phase = Phase::Waking;
        out.push(Effect::Wake(self.boot));
    }

    fn booted(&mut self, out: &mut Vec<Effect>) {
        if self.phase == Phase::Starting {
            self.running(out);
        }
    }

    /// It runs now. Those who wanted that are served before those who want it paused.
    fn running(&mut self, out: &mut Vec<Effect>) {
        self.phase = Phase::Running;
        reply(&mut self.for_running, &Reply::Done, out);
        if !self.for_pause.is_empty() || !self.for_hibernation.is_empty() {
            self.begin_pause(out);
        }
    }

    fn pause_ended(&mut self, result: Result<(), String>, out: &mut Vec<Effect>) {
        match result {
            Ok(()) => {
                self.phase = Phase::Paused;
                reply(&mut self.for_pause, &Reply::Done, out);
                self.after_pause(out);
            }
            Err(error) => {
                self.held = false;
                reply(&mut self.for_hibernation, &Reply::Refused(error.clone()), out);
                reply(&mut self.for_pause, &Reply::Refused(error), out);
                self.running(out);
            }
        }
    }

    /// It is paused: whoever wants it running goes before those who want it to rest deeper.
    fn after_pause(&mut self, out: &mut Vec<Effect>) {
        self.refuse_all_while_held(out);
        if !self.for_running.is_empty() {
            self.phase = Phase::Resuming;
            out.push(Effect::Resume(self.boot));
        } else if !self.for_hibernation.is_empty() {
            self.begin_hibernation(out);
        }
    }

    fn hibernate_ended(&mut self, result: Result<(), String>, out: &mut Vec<Effect>) {
        match result {
            Ok(()) => {
                self.phase = Phase::Hibernated;
                self.held = false;
                reply(&mut self.for_hibernation, &Reply::Done, out);
                if !self.for_running.is_empty() {
                    self.begin_wake(out);
                }
            }
            Err(error) => {
                self.phase = Phase::Paused;
                reply(&mut self.for_hibernation, &Reply::Refused(error), out);
                self.after_pause(out);
            }
        }
    }

    /// One that cannot come back from disk is as one that idleness stopped, and that somebody wants.
    fn wake_ended(&mut self, result: &Result<(), String>, out: &mut Vec<Effect>) {
        match result {
            Ok(()) => self.running(out),
            Err(_) => self.begin_boot(out),
        }
    }

    fn resume_ended(&mut self, result: Result<(), String>, out: &mut Vec<Effect>) {
        match result {
            Ok(()) => self.running(out),
            Err(error) => self.stop_with(StopReason::resume_failed(&error), Manner::AtOnce, Next::Rest, out),
        }
    }

    fn torn_down(&mut self, out: &mut Vec<Effect>) {
        let Phase::Stopping(next) = self.phase else { return };
        self.phase = Phase::Stopped;
        self.before_stop = State::Stopped;
        reply(&mut self.for_stop, &Reply::Done, out);
        out.extend(self.failed.drain(..).map(|(waiter, reply)| Effect::Reply(waiter, reply)));
        match next {
            Next::Rest => {}
            Next::Boot => self.begin_boot(out),
            Next::Remove => self.remove(out),
        }
    }

    fn remove(&mut self, out: &mut Vec<Effect>) {
        self.phase = Phase::Removing;
        out.push(Effect::Remove);
    }
}

fn reply(waiters: &mut Vec<Waiter>, with: &Reply, out: &mut Vec<Effect>) {
    out.extend(waiters.drain(..).map(|waiter| Effect::Reply(waiter, with.clone())));
}

#[cfg(test)]
#[path = "lifecycle_tests.rs"]
mod tests;
