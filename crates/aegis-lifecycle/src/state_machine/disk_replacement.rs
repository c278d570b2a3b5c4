//! Being put back to where it was: its disk is replaced by another one while it has no machine.
//!
//! Whoever comes meanwhile waits, and is served by what comes of it. One who asked and does not wait for it any more gets
//! nothing, unless it has begun: no wish outlives whoever had it.

use super::{AfterStop, Lifecycle, Phase, Replacement, reply};
use crate::effect::Effect;
use crate::event::{Reply, ShutdownMode, Waiter};
use crate::stop_reason::StopReason;

fn refused(why: &str) -> Reply {
    Reply::NotReplaced(format!("the snapshot is not restored: {why}"))
}

impl Lifecycle {
    /// Whether its disk is being replaced.
    #[must_use]
    pub fn is_replacing(&self) -> bool {
        matches!(self.phase, Phase::Replacing(_))
    }

    /// Those who have asked for something that begins later, which it does only if they still wait for it then.
    pub fn asked_for_later(&self) -> impl Iterator<Item = Waiter> {
        let replacement = self.replacement.as_ref().filter(|_| !self.is_replacing());
        let resting = self.for_pause.iter().chain(&self.for_hibernation).copied();
        resting.chain(replacement.map(|replacement| replacement.waiter))
    }

    /// Whether it runs when its disk has been replaced.
    pub(super) fn runs_when_replaced(&self) -> bool {
        match self.phase {
            Phase::Stopping(AfterStop::Replace) => self.replacement.as_ref().is_some_and(|one| one.runs),
            Phase::Replacing(next) => next == AfterStop::Boot,
            _ => false,
        }
    }

    pub(super) fn replace(&mut self, runs: bool, waiter: Waiter, out: &mut Vec<Effect>) {
        if self.replacement.is_some() {
            out.push(Effect::Reply(waiter, refused("another one is being restored")));
            return;
        }
        match self.phase {
            Phase::Stopped => {}
            Phase::Stopping(_) => self.phase = Phase::Stopping(AfterStop::Replace),
            _ => {
                let others = std::mem::take(&mut self.for_running);
                self.stop_with(StopReason::replaced(), ShutdownMode::Graceful, AfterStop::Replace, out);
                self.for_running = others;
            }
        }
        self.replacement = Some(Replacement { waiter, runs });
        if self.phase == Phase::Stopped {
            self.begin_replacement(out);
        }
    }

    /// It has no machine any more.
    pub(super) fn begin_replacement(&mut self, out: &mut Vec<Effect>) {
        let Some(Replacement { waiter, runs }) = self.replacement else { return };
        self.phase = Phase::Replacing(if runs { AfterStop::Boot } else { AfterStop::StayStopped });
        out.push(Effect::Replace(waiter));
    }

    /// Its disk is another one, or, if that failed, the one that it was.
    pub(super) fn replaced(&mut self, result: Result<(), String>, out: &mut Vec<Effect>) {
        let Phase::Replacing(next) = self.phase else { return };
        self.phase = Phase::Stopped;
        let runs = next == AfterStop::Boot && result.is_ok();
        if let Some(Replacement { waiter, .. }) = self.replacement.take() {
            match result {
                Ok(()) if runs => self.for_running.push(waiter),
                Ok(()) => out.push(Effect::Reply(waiter, Reply::Done)),
                Err(error) => out.push(Effect::Reply(waiter, refused(&error))),
            }
        }
        reply(&mut self.for_stop, &Reply::Done, out);
        match next {
            AfterStop::Remove => self.remove(out),
            _ if runs => {
                self.enabled = true;
                self.begin_boot(out);
            }
            _ => out.push(Effect::Continue),
        }
    }

    /// Changes what comes after, while its disk is being replaced: that is done whole.
    pub(super) fn rest_when_replaced(&mut self, next: AfterStop, why: &StopReason, out: &mut Vec<Effect>) {
        self.dismiss(&Reply::Failed(why.clone()), out);
        self.reason = Some(why.clone());
        self.phase = Phase::Replacing(next);
    }

    /// Its disk stays, as something else is to become of it.
    pub(super) fn give_up_replacement(&mut self, why: &StopReason) {
        if let Some(Replacement { waiter, .. }) = self.replacement.take() {
            self.failed.push((waiter, refused(&why.message)));
        }
    }

    /// One who had asked for something does not wait for it any more. What has not begun does not begin.
    pub(super) fn gave_up(&mut self, waiter: Waiter, out: &mut Vec<Effect>) {
        if !self.asked_for_later().any(|one| one == waiter) {
            return;
        }
        self.for_pause.retain(|one| *one != waiter);
        self.for_hibernation.retain(|one| *one != waiter);
        if self.replacement.as_ref().is_some_and(|one| one.waiter == waiter) {
            self.replacement = None;
            let next = if self.for_running.is_empty() { AfterStop::StayStopped } else { AfterStop::Boot };
            self.phase = Phase::Stopping(next);
            if next == AfterStop::StayStopped {
                // It was to run, and will not.
                let resting = self.for_pause.drain(..).chain(self.for_hibernation.drain(..));
                self.failed.extend(resting.map(|waiter| (waiter, Reply::Stopped)));
            }
        }
        out.push(Effect::Reply(waiter, refused("whoever asked has gone")));
    }
}
