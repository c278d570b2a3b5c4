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

mod disk_pressure;
mod disk_replacement;
mod sleep;
mod step;

use crate::effect::Effect;
use crate::event::{Boot, Reply, State, Waiter};
use crate::stop_reason::StopReason;

/// What comes after `Stopping`, and `Replacing`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AfterStop {
    StayStopped,
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
    Stopping(AfterStop),
    /// Without a machine, while its disk is replaced.
    Replacing(AfterStop),
    Removing,
    Gone,
}

/// What somebody wants its disk to be replaced by.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Replacement {
    waiter: Waiter,
    /// Whether it runs afterwards.
    runs: bool,
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
    pub fn stay_stopped(&mut self) {
        if matches!(self.phase, Phase::Stopped | Phase::Stopping(_)) {
            self.reason = Some(StopReason::stopped());
        }
    }

    /// Notes that the daemon ends: nothing boots it from now on.
    pub fn daemon_ends(&mut self) {
        self.daemon_ends = true;
    }

    /// Whether it has ceased to exist.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.phase == Phase::Gone
    }
}

fn reply(waiters: &mut Vec<Waiter>, with: &Reply, out: &mut Vec<Effect>) {
    out.extend(waiters.drain(..).map(|waiter| Effect::Reply(waiter, with.clone())));
}

#[cfg(test)]
mod tests;
