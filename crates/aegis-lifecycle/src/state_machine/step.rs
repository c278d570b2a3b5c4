//! `step`: one event in, the effects of it out.

use super::{AfterStop, Lifecycle, Phase, reply};
use crate::effect::Effect;
use crate::event::{Event, Reply, Request, ShutdownMode, State, Waiter};
use crate::stop_reason::StopReason;

impl Lifecycle {
    /// Takes one event and returns what is to be done about it, in order.
    pub fn step(&mut self, event: Event) -> Vec<Effect> {
        let mut out = Vec::new();
        match event {
            Event::Requested(request, waiter) => self.wanted(request, waiter, &mut out),
            Event::Booted(boot) if boot == self.boot => self.booted(&mut out),
            Event::BootFailed(boot, reason) if boot == self.boot && self.phase == Phase::Starting => {
                self.stop_with(reason, ShutdownMode::Immediate, AfterStop::StayStopped, &mut out);
            }
            Event::CloneFailed(boot) if boot == self.boot && self.phase == Phase::Starting => {
                let waiting = std::mem::take(&mut self.for_running);
                self.stop_with(StopReason::restarted(), ShutdownMode::Immediate, AfterStop::Boot, &mut out);
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
                out.push(Effect::TearDown(self.boot, ShutdownMode::Graceful));
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
                self.stop_with(reason, manner, AfterStop::StayStopped, &mut out);
            }
            Event::Died(boot, reason) if boot == self.boot && self.is_live() => {
                self.stop_with(reason, ShutdownMode::Immediate, AfterStop::StayStopped, &mut out);
            }
            Event::TornDown(boot) if boot == self.boot => self.torn_down(&mut out),
            Event::Replaced(result) => self.replaced(result, &mut out),
            Event::WaiterGone(waiter) => self.gave_up(waiter, &mut out),
            Event::Continue if self.phase == Phase::Stopped => self.serve_whoever_came(&mut out),
            Event::Removed if self.phase == Phase::Removing => {
                self.phase = Phase::Gone;
                reply(&mut self.for_removal, &Reply::Done, &mut out);
            }
            Event::Idle(level) => self.idle(level, &mut out),
            Event::HostDiskFull => self.host_full(&mut out),
            Event::HostDiskHasRoom => self.held = false,
            Event::RestartDue if self.phase == Phase::Stopped && self.enabled && !self.daemon_ends => {
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
            | Event::Continue
            | Event::RestartDue
            | Event::Removed => {}
        }
        out
    }

    pub(super) fn is_live(&self) -> bool {
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
    pub(super) fn is_moving(&self) -> bool {
        matches!(
            self.phase,
            Phase::Starting
                | Phase::Pausing
                | Phase::Resuming
                | Phase::Hibernating
                | Phase::Waking
                | Phase::Stopping(AfterStop::Boot)
        ) || self.runs_when_replaced()
    }

    pub(super) fn is_doomed(&self) -> bool {
        matches!(
            self.phase,
            Phase::Stopping(AfterStop::Remove)
                | Phase::Replacing(AfterStop::Remove)
                | Phase::Removing
                | Phase::Gone
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
            | Request::WakeUnlessStopped
            | Request::Replace { .. }
                if self.daemon_ends =>
            {
                out.push(Effect::Reply(waiter, Reply::DaemonShutdown));
            }
            Request::Resume if self.daemon_ends && self.phase == Phase::Hibernated => {
                out.push(Effect::Reply(waiter, Reply::DaemonShutdown));
            }
            Request::Start => self.start(waiter, out),
            Request::Ensure if self.stopped_by_idleness() => self.wake(waiter, out),
            Request::Ensure | Request::Resume => self.ensure(waiter, out),
            Request::Wake => self.wake(waiter, out),
            Request::WakeUnlessStopped if self.is_stopped_on_request() => {
                out.push(Effect::Reply(waiter, Reply::Stopped));
            }
            Request::WakeUnlessStopped => self.wake(waiter, out),
            Request::ResumeForTraffic => self.go_on(waiter, out),
            Request::Replace { runs } => self.replace(runs, waiter, out),
            Request::Pause => self.pause(waiter, out),
            Request::Hibernate => self.hibernate(waiter, out),
            Request::Stop => self.stop(waiter, StopReason::stopped(), out),
            // It costs nothing there, and the next daemon finds it.
            Request::DaemonShutdown if self.phase == Phase::Hibernated => {
                self.daemon_ends = true;
                out.push(Effect::Reply(waiter, Reply::Done));
            }
            Request::DaemonShutdown => {
                self.daemon_ends = true;
                self.stop(waiter, StopReason::daemon_stopped(), out);
            }
            Request::TimeUp => self.stop(waiter, StopReason::timeout(), out),
            Request::Disable => {
                self.enabled = false;
                self.stop(waiter, StopReason::disabled(), out);
            }
            Request::LifetimeOver => {
                self.enabled = false;
                self.stop(waiter, StopReason::lifetime(), out);
            }
            Request::Restart => {
                self.enabled = true;
                self.for_running.push(waiter);
                match self.phase {
                    Phase::Stopped => self.begin_boot(out),
                    // It is stopped for that already.
                    Phase::Stopping(AfterStop::Replace) | Phase::Replacing(_) => {}
                    Phase::Stopping(_) => self.phase = Phase::Stopping(AfterStop::Boot),
                    _ => {
                        let others = std::mem::take(&mut self.for_running);
                        self.stop_with(StopReason::restarted(), ShutdownMode::Graceful, AfterStop::Boot, out);
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
                    Phase::Replacing(_) => {
                        self.rest_when_replaced(AfterStop::Remove, &StopReason::deleted(), out)
                    }
                    _ => {
                        self.stop_with(StopReason::deleted(), ShutdownMode::Immediate, AfterStop::Remove, out)
                    }
                }
            }
        }
    }

    pub(super) fn start(&mut self, waiter: Waiter, out: &mut Vec<Effect>) {
        match self.phase {
            Phase::Stopped => {
                self.enabled = true;
                self.for_running.push(waiter);
                self.begin_boot(out);
            }
            Phase::Stopping(AfterStop::StayStopped) => {
                self.enabled = true;
                self.for_running.push(waiter);
                self.phase = Phase::Stopping(AfterStop::Boot);
            }
            Phase::Stopping(AfterStop::Boot) => self.for_running.push(waiter),
            Phase::Stopping(AfterStop::Replace) | Phase::Replacing(_) => {
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

    pub(super) fn ensure(&mut self, waiter: Waiter, out: &mut Vec<Effect>) {
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
            Phase::Stopped
                | Phase::Stopping(AfterStop::StayStopped | AfterStop::Replace)
                | Phase::Replacing(_)
        ) && !self.runs_when_replaced()
            && (self.ended_on_request || self.reason.as_ref().is_some_and(StopReason::is_requested))
    }

    pub(super) fn wake(&mut self, waiter: Waiter, out: &mut Vec<Effect>) {
        match self.phase {
            Phase::Stopped
            | Phase::Stopping(AfterStop::StayStopped | AfterStop::Replace)
            | Phase::Replacing(_)
                if !self.enabled =>
            {
                out.push(Effect::Reply(waiter, Reply::Disabled));
            }
            Phase::Stopped
            | Phase::Stopping(AfterStop::StayStopped | AfterStop::Replace)
            | Phase::Replacing(_) => {
                self.start(waiter, out);
            }
            _ => self.ensure(waiter, out),
        }
    }

    pub(super) fn stop(&mut self, waiter: Waiter, reason: StopReason, out: &mut Vec<Effect>) {
        self.ended_on_request = true;
        match self.phase {
            Phase::Stopped => {
                self.dismiss(&Reply::Failed(reason), out);
                out.push(Effect::Reply(waiter, Reply::Done));
            }
            Phase::Replacing(_) => {
                self.for_stop.push(waiter);
                self.rest_when_replaced(AfterStop::StayStopped, &reason, out);
            }
            _ => {
                self.for_stop.push(waiter);
                self.stop_with(reason, ShutdownMode::Graceful, AfterStop::StayStopped, out);
            }
        }
    }

    /// Ends the machine, or, if that is under way, changes what comes after. Removal is never taken back.
    pub(super) fn stop_with(
        &mut self,
        reason: StopReason,
        manner: ShutdownMode,
        next: AfterStop,
        out: &mut Vec<Effect>,
    ) {
        let resting = self.for_pause.drain(..).chain(self.for_hibernation.drain(..));
        let waiting = self.for_running.drain(..).chain(self.for_going_on.drain(..)).chain(resting);
        self.failed.extend(waiting.map(|waiter| (waiter, Reply::Failed(reason.clone()))));
        if next != AfterStop::Replace {
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
        if manner == ShutdownMode::Immediate || (first && !self.settling) {
            self.settling = false;
            out.push(Effect::TearDown(self.boot, manner));
        }
        self.phase = Phase::Stopping(next);
    }

    pub(super) fn begin_boot(&mut self, out: &mut Vec<Effect>) {
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
    pub(super) fn running(&mut self, out: &mut Vec<Effect>) {
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
            AfterStop::StayStopped => {}
            AfterStop::Boot if !waited_for && self.reason.as_ref().is_some_and(StopReason::is_restart) => {
                self.begin_boot(out);
            }
            // That it is stopped is seen before it is anything else: somebody may have waited for just that.
            AfterStop::Boot => out.push(Effect::Continue),
            AfterStop::Replace => self.begin_replacement(out),
            AfterStop::Remove => self.remove(out),
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
    pub(super) fn dismiss(&mut self, with: &Reply, out: &mut Vec<Effect>) {
        reply(&mut self.for_running, with, out);
        reply(&mut self.for_going_on, with, out);
        reply(&mut self.for_pause, with, out);
        reply(&mut self.for_hibernation, with, out);
    }

    pub(super) fn remove(&mut self, out: &mut Vec<Effect>) {
        self.dismiss(&Reply::Removed, out);
        self.phase = Phase::Removing;
        out.push(Effect::Remove);
    }
}
