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
//! Whoever comes while it stops waits for that boot, which begins when it has been stopped, and seen to be. Its disk may
//! be replaced before (`Replacing`).
//!
//! The caller owns the state, is its only writer, performs the effects in order, and feeds their results back as
//! events. It never loses a waiter: each one that goes in with an event comes out with exactly one reply.

mod held;
mod replacing;
mod standing;
mod words;

pub use words::{Boot, Effect, Event, Manner, Reply, Request, Rung, State, Waiter};

use crate::reason::StopReason;
use replacing::Replacement;

/// What comes after `Stopping`, and `Replacing`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Rest,
    Boot,
    /// Its disk is replaced by another one.
    Replace,
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
    /// Without a machine, while its disk is replaced.
    Replacing(Next),
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
    /// Whether somebody has asked for its end since it was last booted: who was there before does not undo that.
    ended_on_request: bool,
    /// Whether it is not to go on before the host's disk has room.
    held: bool,
    /// Whether the daemon ends: what it boots now, nobody would look after.
    daemon_ends: bool,
    boot: Boot,
    reason: Option<StopReason>,
    /// What its disk is to be replaced by, or is being.
    replacement: Option<Replacement>,
    /// Wait until it runs, and want it to.
    for_running: Vec<Waiter>,
    /// Wait until it goes on, which they do not ask for: what they carry came while somebody had it paused.
    for_going_on: Vec<Waiter>,
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
            ended_on_request: false,
            held: false,
            daemon_ends: false,
            boot,
            reason,
            replacement: None,
            for_running: vec![],
            for_going_on: vec![],
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
            Phase::Stopped | Phase::Replacing(_) | Phase::Removing | Phase::Gone => State::Stopped,
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

    /// Notes that somebody wants one that is stopped, or is just stopping, to stay so, where its end alone does not say
    /// that.
    pub(crate) fn stay_stopped(&mut self) {
        if matches!(self.phase, Phase::Stopped | Phase::Stopping(_)) {
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
                reply(&mut self.for_going_on, &Reply::Done, &mut out);
                self.stop_with(reason, manner, Next::Rest, &mut out);
            }
            Event::Died(boot, reason) if boot == self.boot && self.is_live() => {
                self.stop_with(reason, Manner::AtOnce, Next::Rest, &mut out);
            }
            Event::TornDown(boot) if boot == self.boot => self.torn_down(&mut out),
            Event::Replaced(result) => self.replaced(result, &mut out),
            Event::GaveUp(waiter) => self.gave_up(waiter, &mut out),
            Event::Next if self.phase == Phase::Stopped => self.serve_whoever_came(&mut out),
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
            | Event::Next
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
        ) || self.runs_when_replaced()
    }

    fn is_doomed(&self) -> bool {
        matches!(
            self.phase,
            Phase::Stopping(Next::Remove) | Phase::Replacing(Next::Remove) | Phase::Removing | Phase::Gone
        )
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
            Request::Start
            | Request::Restart
            | Request::Ensure
            | Request::Wake
            | Request::WakeAgain
            | Request::Replace { .. }
                if self.daemon_ends =>
            {
                out.push(Effect::Reply(waiter, Reply::DaemonEnds));
            }
            Request::Resume if self.daemon_ends && self.phase == Phase::Hibernated => {
                out.push(Effect::Reply(waiter, Reply::DaemonEnds));
            }
            Request::Start => self.start(waiter, out),
            Request::Ensure if self.stopped_by_idleness() => self.wake(waiter, out),
            Request::Ensure | Request::Resume => self.ensure(waiter, out),
            Request::Wake => self.wake(waiter, out),
            Request::WakeAgain if self.is_stopped_on_request() => {
                out.push(Effect::Reply(waiter, Reply::Stopped));
            }
            Request::WakeAgain => self.wake(waiter, out),
            Request::GoOn => self.go_on(waiter, out),
            Request::Replace { runs } => self.replace(runs, waiter, out),
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
                    // It is stopped for that already.
                    Phase::Stopping(Next::Replace) | Phase::Replacing(_) => {}
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
                    Phase::Replacing(_) => self.rest_when_replaced(Next::Remove, &StopReason::deleted(), out),
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
            Phase::Stopping(Next::Replace) | Phase::Replacing(_) => {
                self.enabled = true;
                self.for_running.push(waiter);
            }
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
        self.enabled && !self.ended_on_request && self.reason.as_ref().is_some_and(StopReason::is_idle)
    }

    /// Whether somebody asked for its end, which whoever was there before does not undo.
    fn is_stopped_on_request(&self) -> bool {
        matches!(
            self.phase,
            Phase::Stopped | Phase::Stopping(Next::Rest | Next::Replace) | Phase::Replacing(_)
        ) && !self.runs_when_replaced()
            && (self.ended_on_request || self.reason.as_ref().is_some_and(StopReason::is_requested))
    }

    fn wake(&mut self, waiter: Waiter, out: &mut Vec<Effect>) {
        match self.phase {
            Phase::Stopped | Phase::Stopping(Next::Rest | Next::Replace) | Phase::Replacing(_)
                if !self.enabled =>
            {
                out.push(Effect::Reply(waiter, Reply::Disabled));
            }
            Phase::Stopped | Phase::Stopping(Next::Rest | Next::Replace) | Phase::Replacing(_) => {
                self.start(waiter, out);
            }
            _ => self.ensure(waiter, out),
        }
    }

    fn stop(&mut self, waiter: Waiter, reason: StopReason, out: &mut Vec<Effect>) {
        self.ended_on_request = true;
        match self.phase {
            Phase::Stopped => {
                self.dismiss(&Reply::Failed(reason), out);
                out.push(Effect::Reply(waiter, Reply::Done));
            }
            Phase::Replacing(_) => {
                self.for_stop.push(waiter);
                self.rest_when_replaced(Next::Rest, &reason, out);
            }
            _ => {
                self.for_stop.push(waiter);
                self.stop_with(reason, Manner::Graceful, Next::Rest, out);
            }
        }
    }

    /// Ends the machine, or, if that is under way, changes what comes after. Removal is never taken back.
    fn stop_with(&mut self, reason: StopReason, manner: Manner, next: Next, out: &mut Vec<Effect>) {
        let resting = self.for_pause.drain(..).chain(self.for_hibernation.drain(..));
        let waiting = self.for_running.drain(..).chain(self.for_going_on.drain(..)).chain(resting);
        self.failed.extend(waiting.map(|waiter| (waiter, Reply::Failed(reason.clone()))));
        if next != Next::Replace {
            self.give_up_replacement(&reason);
        }
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
        self.ended_on_request = false;
        self.phase = Phase::Starting;
        out.push(Effect::Boot(self.boot));
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
        reply(&mut self.for_going_on, &Reply::Done, out);
        if !self.for_pause.is_empty() || !self.for_hibernation.is_empty() {
            self.begin_pause(out);
        }
    }

    fn torn_down(&mut self, out: &mut Vec<Effect>) {
        let Phase::Stopping(next) = self.phase else { return };
        self.phase = Phase::Stopped;
        self.before_stop = State::Stopped;
        let waited_for = !self.for_stop.is_empty();
        reply(&mut self.for_stop, &Reply::Done, out);
        out.extend(self.failed.drain(..).map(|(waiter, reply)| Effect::Reply(waiter, reply)));
        match next {
            Next::Rest => {}
            Next::Boot if !waited_for && self.reason.as_ref().is_some_and(StopReason::is_restart) => {
                self.begin_boot(out);
            }
            // That it is stopped is seen before it is anything else: somebody may have waited for just that.
            Next::Boot => out.push(Effect::Next),
            Next::Replace => self.begin_replacement(out),
            Next::Remove => self.remove(out),
        }
    }

    /// It is stopped, and whoever came meanwhile wants it.
    fn serve_whoever_came(&mut self, out: &mut Vec<Effect>) {
        if !self.for_running.is_empty() && self.enabled && !self.daemon_ends {
            self.begin_boot(out);
        } else {
            self.dismiss(&Reply::Stopped, out);
        }
    }

    /// Tells all who wait for something of its machine that nothing comes of it.
    fn dismiss(&mut self, with: &Reply, out: &mut Vec<Effect>) {
        reply(&mut self.for_running, with, out);
        reply(&mut self.for_going_on, with, out);
        reply(&mut self.for_pause, with, out);
        reply(&mut self.for_hibernation, with, out);
    }

    fn remove(&mut self, out: &mut Vec<Effect>) {
        self.dismiss(&Reply::Removed, out);
        self.phase = Phase::Removing;
        out.push(Effect::Remove);
    }
}

fn reply(waiters: &mut Vec<Waiter>, with: &Reply, out: &mut Vec<Effect>) {
    out.extend(waiters.drain(..).map(|waiter| Effect::Reply(waiter, with.clone())));
}

#[cfg(test)]
mod tests;
