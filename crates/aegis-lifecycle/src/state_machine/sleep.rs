//! Standing still, in memory and on disk, and going on.

use super::{AfterStop, Lifecycle, Phase, reply};
use crate::effect::Effect;
use crate::event::{Reply, ShutdownMode, SleepLevel, Waiter};
use crate::stop_reason::StopReason;

impl Lifecycle {
    /// Whoever waits for something is served first; what is under way is not disturbed.
    pub(super) fn idle(&mut self, level: SleepLevel, out: &mut Vec<Effect>) {
        match (level, self.phase) {
            // A guest that is ended in good order writes what it has not written yet.
            _ if self.held => {}
            (SleepLevel::Pause, Phase::Running) => self.begin_pause(out),
            (SleepLevel::Hibernate, Phase::Paused) => self.begin_hibernation(out),
            (SleepLevel::Stop, Phase::Running | Phase::Paused | Phase::Hibernated) => {
                self.stop_with(StopReason::idle(), ShutdownMode::Graceful, AfterStop::StayStopped, out);
            }
            _ => {}
        }
    }

    pub(super) fn pause(&mut self, waiter: Waiter, out: &mut Vec<Effect>) {
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

    pub(super) fn hibernate(&mut self, waiter: Waiter, out: &mut Vec<Effect>) {
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

    /// A connection that leads to this very machine has carried something. That it had been paused for idleness it
    /// does not notice; one that somebody paused goes on for what comes after that, not for what was on its way.
    pub(super) fn go_on(&mut self, waiter: Waiter, out: &mut Vec<Effect>) {
        let pause_is_wanted = !self.for_pause.is_empty() || !self.for_hibernation.is_empty();
        match self.phase {
            Phase::Pausing if pause_is_wanted => self.for_going_on.push(waiter),
            Phase::Running | Phase::Pausing | Phase::Paused | Phase::Resuming => self.ensure(waiter, out),
            // It may still hear what comes, until its end ends the connection, too.
            Phase::Stopping(_) => out.push(Effect::Reply(waiter, Reply::Done)),
            // The connection led to a machine that is no more.
            _ => out.push(Effect::Reply(waiter, Reply::Stopped)),
        }
    }

    pub(super) fn begin_pause(&mut self, out: &mut Vec<Effect>) {
        self.phase = Phase::Pausing;
        out.push(Effect::Pause(self.boot));
    }

    pub(super) fn begin_hibernation(&mut self, out: &mut Vec<Effect>) {
        self.phase = Phase::Hibernating;
        out.push(Effect::Hibernate(self.boot));
    }

    pub(super) fn begin_wake(&mut self, out: &mut Vec<Effect>) {
        self.phase = Phase::Waking;
        out.push(Effect::Wake(self.boot));
    }

    pub(super) fn pause_ended(&mut self, result: Result<(), String>, out: &mut Vec<Effect>) {
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
    pub(super) fn after_pause(&mut self, out: &mut Vec<Effect>) {
        self.refuse_all_while_held(out);
        if !self.for_running.is_empty() {
            self.phase = Phase::Resuming;
            out.push(Effect::Resume(self.boot));
        } else if !self.for_hibernation.is_empty() {
            self.begin_hibernation(out);
        }
    }

    pub(super) fn hibernate_ended(&mut self, result: Result<(), String>, out: &mut Vec<Effect>) {
        match result {
            Ok(()) => {
                self.phase = Phase::Hibernated;
                self.held = false;
                reply(&mut self.for_hibernation, &Reply::Done, out);
                // Their connections have ended.
                reply(&mut self.for_going_on, &Reply::Stopped, out);
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
    pub(super) fn wake_ended(&mut self, result: &Result<(), String>, out: &mut Vec<Effect>) {
        match result {
            Ok(()) => self.running(out),
            Err(_) => self.begin_boot(out),
        }
    }

    pub(super) fn resume_ended(&mut self, result: Result<(), String>, out: &mut Vec<Effect>) {
        match result {
            Ok(()) => self.running(out),
            Err(error) => self.stop_with(
                StopReason::resume_failed(&error),
                ShutdownMode::Immediate,
                AfterStop::StayStopped,
                out,
            ),
        }
    }
}
