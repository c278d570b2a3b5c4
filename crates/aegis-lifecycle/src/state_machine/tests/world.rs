//! What is around a lifecycle, and what it promises whatever happens there.

use std::collections::BTreeSet;

use super::*;

/// The world around a lifecycle: performs effects, in any order and with any outcome.
#[derive(Debug, Default)]
pub(super) struct World {
    /// The boot that has a machine, and whether its end was ordered.
    pub(super) machine: Option<Boot>,
    pub(super) tearing_down: bool,
    pub(super) booting: Option<Boot>,
    pub(super) pausing: bool,
    pub(super) resuming: bool,
    pub(super) hibernating: bool,
    pub(super) waking: bool,
    /// The boot whose machine is on disk.
    pub(super) on_disk: Option<Boot>,
    /// Who has its disk replaced.
    pub(super) replacing: Option<Waiter>,
    /// Those who do not wait any more for what has not begun.
    pub(super) gone: BTreeSet<Waiter>,
    pub(super) removing: bool,
    pub(super) removed: bool,
    /// Whether the machine stands still, as it is and not as anybody believes.
    pub(super) frozen: bool,
    pub(super) waiting: BTreeSet<Waiter>,
    /// Those of them who come to use the machine.
    pub(super) users: BTreeSet<Waiter>,
    pub(super) next_waiter: Waiter,
    pub(super) delete_wanted: bool,
    pub(super) daemon_ends: bool,
    /// Whether somebody has asked for its end, and nobody for anything that boots it since.
    pub(super) rest_wanted: bool,
    /// Those who asked for its end.
    pub(super) stoppers: BTreeSet<Waiter>,
    /// Whether it is to hear at once that it may go on.
    pub(super) next_is_due: bool,
    /// Connections that lead to the machine that it has.
    pub(super) clients: BTreeSet<Waiter>,
}

impl World {
    pub(super) fn feed(&mut self, life: &mut Lifecycle, event: Event) {
        let mut pruned = false;
        if let Event::WaiterGone(waiter) = event {
            self.gone.insert(waiter);
        }
        if let Event::Requested(request, waiter) = event {
            assert!(self.waiting.insert(waiter));
            if matches!(request, Request::Ensure | Request::Wake | Request::WakeUnlessStopped) {
                self.users.insert(waiter);
            }
            self.ask(request, waiter, life);
            self.delete_wanted |= request == Request::Delete;
            self.daemon_ends |= request == Request::DaemonShutdown;
            pruned = request == Request::Prune && life.state() == State::Stopped;
        }
        let by_itself = !matches!(event, Event::Requested(..));
        let old_client = matches!(event, Event::Requested(Request::ResumeForTraffic, _));
        let effects = life.step(event);
        self.delete_wanted |= pruned && effects.contains(&Effect::Remove);
        for effect in effects {
            assert!(life.enabled() || !matches!(effect, Effect::Boot(_)), "a boot of a disabled instance");
            let goes_on = matches!(effect, Effect::Boot(_) | Effect::Resume(_) | Effect::Wake(_));
            assert!(!life.is_held() || !goes_on, "one that is held goes on");
            assert!(!self.daemon_ends || !matches!(effect, Effect::Boot(_)), "a boot by a daemon that ends");
            assert!(
                !self.rest_wanted || !matches!(effect, Effect::Boot(_)),
                "a stop that was undone: {life:?}"
            );
            let other = matches!(effect, Effect::Boot(_) | Effect::Wake(_));
            assert!(!old_client || !other, "another machine for a client of this one");
            if effect == Effect::Continue {
                self.next_is_due = true;
            }
            let running = life.state() == State::Running;
            if let Effect::Reply(waiter, Reply::Done) = &effect {
                let stopped = life.state() == State::Stopped || self.on_disk.is_some();
                assert!(!self.stoppers.remove(waiter) || stopped, "told that it is stopped: {life:?}");
                let carries = running && !self.frozen || life.reason().is_some();
                assert!(!self.clients.remove(waiter) || carries, "bytes for one that stands still: {life:?}");
            }
            if let Effect::Reply(waiter, Reply::Done) = &effect
                && self.users.remove(waiter)
            {
                // A command that ends at once may be gone when its caller hears that it ran.
                let ended = by_itself && life.reason().is_some();
                assert!((running && !self.frozen) || ended, "let into a machine that stands still: {life:?}");
            }
            self.perform(effect);
        }
    }

    /// Notes who asks for what.
    pub(super) fn ask(&mut self, request: Request, waiter: Waiter, life: &Lifecycle) {
        match request {
            Request::Start | Request::Restart | Request::Wake | Request::Replace { runs: true } => {
                self.rest_wanted = false;
            }
            // It costs nothing there.
            Request::DaemonShutdown if life.state() == State::Hibernated => {}
            Request::Stop
            | Request::DaemonShutdown
            | Request::TimeUp
            | Request::Disable
            | Request::LifetimeOver => {
                self.rest_wanted = true;
                self.stoppers.insert(waiter);
            }
            Request::ResumeForTraffic => drop(self.clients.insert(waiter)),
            _ => {}
        }
    }

    pub(super) fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Boot(boot) => {
                assert_eq!((self.machine, self.on_disk), (None, None), "a second machine beside the first");
                assert_eq!(self.replacing, None, "a machine whose disk is being replaced");
                assert!(!self.removed && !self.removing, "a boot after removal");
                self.machine = Some(boot);
                self.booting = Some(boot);
            }
            Effect::TearDown(boot, manner) => {
                assert_eq!(
                    self.machine.or(self.on_disk),
                    Some(boot),
                    "the end of a machine that is not there"
                );
                assert!(!self.tearing_down || manner == ShutdownMode::Immediate, "a hurried end slowed down");
                let settling = self.pausing || self.hibernating;
                assert!(
                    manner == ShutdownMode::Immediate || !settling,
                    "a farewell to a guest that is just being stopped"
                );
                self.tearing_down = true;
            }
            Effect::Pause(boot) => {
                assert!(self.is_idle(boot));
                self.pausing = true;
            }
            Effect::Resume(boot) => {
                assert!(self.is_idle(boot));
                self.resuming = true;
            }
            Effect::Hibernate(boot) => {
                assert!(self.is_idle(boot) && self.frozen, "only what stands still goes to disk");
                self.hibernating = true;
            }
            Effect::Wake(boot) => {
                assert!(self.machine.is_none() && self.on_disk == Some(boot), "there is nothing to wake");
                assert!(!self.waking && !self.tearing_down && !self.daemon_ends);
                self.waking = true;
            }
            Effect::Remove => {
                assert_eq!((self.machine, self.on_disk), (None, None), "removal under a machine");
                assert_eq!(self.replacing, None, "removal of a disk that is being replaced");
                assert!(!self.removing);
                self.removing = true;
            }
            Effect::Reply(waiter, _) => assert!(self.waiting.remove(&waiter), "a second reply"),
            Effect::Replace(waiter) => {
                assert_eq!((self.machine, self.on_disk), (None, None), "another disk under a machine");
                assert!(self.replacing.is_none() && !self.removing && !self.removed);
                assert!(!self.gone.contains(&waiter), "what somebody gave up strikes");
                self.replacing = Some(waiter);
            }
            Effect::Continue => {}
        }
    }

    /// Whether nothing is under way with the machine of this boot.
    pub(super) fn is_idle(&self, boot: Boot) -> bool {
        let busy = self.pausing || self.resuming || self.hibernating || self.waking || self.tearing_down;
        self.machine == Some(boot) && !busy
    }

    /// The news that may come now.
    pub(super) fn news(&self, life: &Lifecycle, ok: bool) -> Vec<Event> {
        let mut all = Vec::new();
        if self.next_is_due {
            all.push(Event::Continue);
        }
        if self.replacing.is_some() {
            all.push(Event::Replaced(if ok { Ok(()) } else { Err("no".to_owned()) }));
        }
        all.extend(life.asked_for_later().map(Event::WaiterGone));
        let result = || if ok { Ok(()) } else { Err("no".to_owned()) };
        if let Some(boot) = self.machine {
            if self.booting.is_some() {
                all.push(if ok {
                    Event::Booted(boot)
                } else {
                    Event::BootFailed(boot, StopReason::timeout())
                });
                if !ok {
                    all.push(Event::CloneFailed(boot));
                }
            }
            if self.pausing {
                all.push(Event::PauseEnded(boot, result()));
            }
            if self.resuming {
                all.push(Event::ResumeEnded(boot, result()));
            }
            if self.hibernating {
                all.push(Event::HibernateEnded(boot, result()));
            }
            if self.tearing_down {
                all.push(Event::TornDown(boot));
            }
            for manner in [ShutdownMode::Graceful, ShutdownMode::Immediate] {
                all.push(Event::Exited(boot, StopReason::stopped(), manner));
            }
            all.push(Event::Died(boot, StopReason::stopped()));
        }
        if let Some(boot) = self.on_disk {
            if self.waking {
                all.push(Event::WakeEnded(boot, result()));
                // It may be refused by the monitor, which then ends.
                all.push(Event::Died(boot, StopReason::stopped()));
            }
            if self.tearing_down {
                all.push(Event::TornDown(boot));
            }
        }
        if self.removing && !self.removed {
            all.push(Event::Removed);
        }
        all.push(Event::Idle(if ok { SleepLevel::Pause } else { SleepLevel::Stop }));
        all.push(Event::Idle(SleepLevel::Hibernate));
        all.push(if ok { Event::HostDiskHasRoom } else { Event::HostDiskFull });
        // Late news of an earlier boot.
        if life.boot() > 1 {
            all.push(Event::Died(life.boot() - 1, StopReason::stopped()));
            all.push(Event::TornDown(life.boot() - 1));
        }
        all
    }

    pub(super) fn note(&mut self, event: &Event) {
        let current = self.machine.or(self.on_disk);
        match event {
            Event::Booted(_) | Event::BootFailed(..) | Event::CloneFailed(_) => self.booting = None,
            Event::PauseEnded(_, result) => {
                self.pausing = false;
                self.frozen = result.is_ok();
            }
            Event::ResumeEnded(_, result) => {
                self.resuming = false;
                self.frozen &= result.is_err();
            }
            Event::HibernateEnded(boot, result) => {
                self.hibernating = false;
                if result.is_ok() {
                    (self.machine, self.on_disk, self.frozen) = (None, Some(*boot), false);
                }
            }
            Event::WakeEnded(boot, result) => {
                self.waking = false;
                // Whoever ends it meanwhile reports that, whatever became of it.
                if !self.tearing_down {
                    (self.machine, self.on_disk) = (result.is_ok().then_some(*boot), None);
                }
                self.frozen = false;
            }
            Event::TornDown(boot) if Some(*boot) == current && self.tearing_down => {
                (self.machine, self.on_disk, self.hibernating, self.waking) = (None, None, false, false);
                self.tearing_down = false;
                self.booting = None;
                self.pausing = false;
                self.resuming = false;
                self.frozen = false;
            }
            Event::Removed => self.removed = true,
            Event::Continue => self.next_is_due = false,
            Event::Replaced(_) => self.replacing = None,
            _ => {}
        }
    }

    /// The daemon dies and another finds what it left: a machine as it is, or a record. Whoever waited is gone.
    pub(super) fn restart(&mut self, life: &Lifecycle, paused_in_time: bool) -> Lifecycle {
        self.waiting.clear();
        self.users.clear();
        self.stoppers.clear();
        self.clients.clear();
        (self.daemon_ends, self.rest_wanted, self.next_is_due) = (false, false, false);
        self.replacing = None;
        self.frozen |= self.pausing && paused_in_time;
        self.frozen &= !(self.resuming && paused_in_time);
        if self.hibernating && paused_in_time {
            (self.machine, self.on_disk, self.frozen) = (None, self.machine, false);
        }
        if self.waking && paused_in_time {
            // Made and stored, and still standing.
            (self.machine, self.on_disk, self.frozen) = (self.on_disk, None, true);
        }
        (self.booting, self.pausing, self.resuming) = (None, false, false);
        (self.hibernating, self.waking) = (false, false);
        (self.tearing_down, self.removing, self.delete_wanted) = (false, false, false);
        match (self.machine, self.on_disk) {
            (Some(boot), _) if life.is_held() => {
                Lifecycle::recovered(life.enabled(), boot, self.frozen).held()
            }
            (Some(boot), _) => Lifecycle::recovered(life.enabled(), boot, self.frozen),
            (None, Some(boot)) => Lifecycle::hibernated(life.enabled(), boot),
            (None, None) => Lifecycle::stopped(life.enabled(), life.boot(), life.reason().cloned()),
        }
    }

    /// Lets everything that is under way come to its end, well.
    pub(super) fn settle(&mut self, life: &mut Lifecycle) {
        for _ in 0..100 {
            let next = self.news(life, true).into_iter().find(|event| {
                !matches!(
                    event,
                    Event::Exited(..)
                        | Event::Died(..)
                        | Event::Idle(_)
                        | Event::HostDiskHasRoom
                        | Event::WaiterGone(_)
                ) && !is_late(event, life)
            });
            let Some(event) = next else { return };
            self.note(&event);
            self.feed(life, event);
        }
        panic!("it never settles: {life:?}");
    }
}

fn is_late(event: &Event, life: &Lifecycle) -> bool {
    matches!(event, Event::TornDown(boot) | Event::Died(boot, _) if *boot != life.boot())
}
