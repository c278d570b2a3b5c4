//! The promises of the lifecycle, over millions of orders of events.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// The world around a lifecycle: performs effects, in any order and with any outcome.
#[derive(Debug, Default)]
struct World {
    /// The boot that has a machine, and whether its end was ordered.
    machine: Option<Boot>,
    tearing_down: bool,
    booting: Option<Boot>,
    pausing: bool,
    resuming: bool,
    hibernating: bool,
    waking: bool,
    /// The boot whose machine is on disk.
    on_disk: Option<Boot>,
    removing: bool,
    removed: bool,
    /// Whether the machine stands still, as it is and not as anybody believes.
    frozen: bool,
    waiting: BTreeSet<Waiter>,
    /// Those of them who come to use the machine.
    users: BTreeSet<Waiter>,
    next_waiter: Waiter,
    delete_wanted: bool,
    daemon_ends: bool,
}

impl World {
    fn feed(&mut self, life: &mut Lifecycle, event: Event) {
        let mut pruned = false;
        if let Event::Wanted(request, waiter) = event {
            assert!(self.waiting.insert(waiter));
            if matches!(request, Request::Ensure | Request::Wake) {
                self.users.insert(waiter);
            }
            self.delete_wanted |= request == Request::Delete;
            self.daemon_ends |= request == Request::DaemonStop;
            pruned = request == Request::Prune && life.state() == State::Stopped;
        }
        let by_itself = !matches!(event, Event::Wanted(..));
        let effects = life.step(event);
        self.delete_wanted |= pruned && effects.contains(&Effect::Remove);
        for effect in effects {
            assert!(life.enabled() || !matches!(effect, Effect::Boot(_)), "a boot of a disabled instance");
            let goes_on = matches!(effect, Effect::Boot(_) | Effect::Resume(_) | Effect::Wake(_));
            assert!(!life.is_held() || !goes_on, "one that is held goes on");
            assert!(!self.daemon_ends || !matches!(effect, Effect::Boot(_)), "a boot by a daemon that ends");
            let running = life.state() == State::Running;
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

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Boot(boot) => {
                assert_eq!((self.machine, self.on_disk), (None, None), "a second machine beside the first");
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
                assert!(!self.tearing_down || manner == Manner::AtOnce, "a hurried end slowed down");
                let settling = self.pausing || self.hibernating;
                assert!(
                    manner == Manner::AtOnce || !settling,
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
                assert!(!self.removing);
                self.removing = true;
            }
            Effect::Reply(waiter, _) => assert!(self.waiting.remove(&waiter), "a second reply"),
        }
    }

    /// Whether nothing is under way with the machine of this boot.
    fn is_idle(&self, boot: Boot) -> bool {
        let busy = self.pausing || self.resuming || self.hibernating || self.waking || self.tearing_down;
        self.machine == Some(boot) && !busy
    }

    /// The news that may come now.
    fn news(&self, life: &Lifecycle, ok: bool) -> Vec<Event> {
        let mut all = Vec::new();
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
            for manner in [Manner::Graceful, Manner::AtOnce] {
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
        all.push(Event::Idle(if ok { Rung::Pause } else { Rung::Stop }));
        all.push(Event::Idle(Rung::Hibernate));
        all.push(if ok { Event::HostHasRoom } else { Event::HostFull });
        // Late news of an earlier boot.
        if life.boot() > 1 {
            all.push(Event::Died(life.boot() - 1, StopReason::stopped()));
            all.push(Event::TornDown(life.boot() - 1));
        }
        all
    }

    fn note(&mut self, event: &Event) {
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
            _ => {}
        }
    }

    /// The daemon dies and another finds what it left: a machine as it is, or a record. Whoever waited is gone.
    fn restart(&mut self, life: &Lifecycle, paused_in_time: bool) -> Lifecycle {
        self.waiting.clear();
        self.users.clear();
        self.daemon_ends = false;
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
    fn settle(&mut self, life: &mut Lifecycle) {
        for _ in 0..100 {
            let next = self.news(life, true).into_iter().find(|event| {
                !matches!(event, Event::Exited(..) | Event::Died(..) | Event::Idle(_) | Event::HostHasRoom)
                    && !is_late(event, life)
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

const REQUESTS: [Request; 14] = [
    Request::Hibernate,
    Request::LifeOver,
    Request::Start,
    Request::Ensure,
    Request::Wake,
    Request::Pause,
    Request::Resume,
    Request::Stop,
    Request::DaemonStop,
    Request::TimeUp,
    Request::Disable,
    Request::Restart,
    Request::Delete,
    Request::Prune,
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_events_answers_everyone_once_and_ends_as_asked(
        steps in proptest::collection::vec((0u8..40, 0usize..REQUESTS.len(), any::<bool>()), 0..60),
        deletes in any::<bool>(),
    ) {
        let mut life = Lifecycle::stopped(true, 0, None);
        let mut world = World::default();
        for (kind, pick, ok) in steps {
            if kind == 0 && !life.is_gone() {
                life = world.restart(&life, ok);
                if !life.enabled() && world.machine.or(world.on_disk).is_some() {
                    // As the next daemon does: somebody had disabled it, and it was about to stop.
                    world.next_waiter += 1;
                    let waiter = world.next_waiter;
                    world.feed(&mut life, Event::Wanted(Request::Disable, waiter));
                }
            } else if kind < 20 {
                let wanted = REQUESTS[pick];
                if matches!(wanted, Request::Delete | Request::Prune) && !deletes { continue }
                world.next_waiter += 1;
                let waiter = world.next_waiter;
                world.feed(&mut life, Event::Wanted(wanted, waiter));
            } else {
                let news = world.news(&life, ok);
                if news.is_empty() { continue }
                let event = news[pick % news.len()].clone();
                world.note(&event);
                world.feed(&mut life, event);
            }
        }
        world.settle(&mut life);
        prop_assert!(world.waiting.is_empty(), "left waiting: {:?} in {life:?}", world.waiting);
        prop_assert_eq!(life.is_gone(), world.delete_wanted, "deleted if and only if asked");
        let without = matches!(life.state(), State::Stopped | State::Hibernated);
        prop_assert_eq!(world.machine.is_none(), without, "the state tells of the machine");
        prop_assert_eq!(world.on_disk.is_some(), life.state() == State::Hibernated, "and of what is on disk");
        let stands = matches!(life.state(), State::Paused);
        prop_assert!(stands || !life.is_held(), "one that is held stands still: {life:?}");
        if !life.enabled() { prop_assert_eq!(life.state(), State::Stopped, "disabled means off"); }
    }
}

fn replies(effects: &[Effect]) -> Vec<&Reply> {
    effects
        .iter()
        .filter_map(|effect| if let Effect::Reply(_, reply) = effect { Some(reply) } else { None })
        .collect()
}

fn running() -> Lifecycle {
    Lifecycle::recovered(true, 1, false)
}

fn ask(life: &mut Lifecycle, request: Request) -> Vec<Effect> {
    life.step(Event::Wanted(request, 1))
}

#[test]
fn each_operation_does_what_the_table_says_in_each_state() {
    let stopped = || Lifecycle::stopped(true, 1, None);
    let paused = || Lifecycle::recovered(true, 1, true);
    assert_eq!(ask(&mut stopped(), Request::Start), [Effect::Boot(2)]);
    assert_eq!(ask(&mut paused(), Request::Start), [Effect::Resume(1)]);
    assert_eq!(replies(&ask(&mut running(), Request::Start)), [&Reply::AlreadyRunning]);
    assert_eq!(replies(&ask(&mut stopped(), Request::Stop)), [&Reply::Done]);
    assert_eq!(replies(&ask(&mut stopped(), Request::Pause)), [&Reply::Stopped]);
    assert_eq!(replies(&ask(&mut paused(), Request::Pause)), [&Reply::Done]);
    assert_eq!(replies(&ask(&mut stopped(), Request::Resume)), [&Reply::Stopped]);
    assert_eq!(replies(&ask(&mut running(), Request::Resume)), [&Reply::Done]);
    let on_disk = || Lifecycle::hibernated(true, 1);
    for request in [Request::Start, Request::Ensure, Request::Wake, Request::Resume] {
        assert_eq!(ask(&mut on_disk(), request), [Effect::Wake(1)]);
    }
    assert_eq!(ask(&mut paused(), Request::Hibernate), [Effect::Hibernate(1)]);
    assert_eq!(ask(&mut running(), Request::Hibernate), [Effect::Pause(1)]);
    assert_eq!(replies(&ask(&mut stopped(), Request::Hibernate)), [&Reply::Stopped]);
    assert_eq!(replies(&ask(&mut on_disk(), Request::Hibernate)), [&Reply::Done]);
    assert_eq!(replies(&ask(&mut on_disk(), Request::Pause)), [&Reply::Done]);
    assert_eq!(ask(&mut on_disk(), Request::Stop), [Effect::TearDown(1, Manner::Graceful)]);
    assert_eq!(ask(&mut on_disk(), Request::Delete), [Effect::TearDown(1, Manner::AtOnce)]);
    assert_eq!(replies(&ask(&mut on_disk(), Request::DaemonStop)), [&Reply::Done]);
    assert_eq!(replies(&ask(&mut stopped(), Request::Ensure)), [&Reply::Stopped]);
    assert_eq!(ask(&mut paused(), Request::Ensure), [Effect::Resume(1)]);
    assert_eq!(ask(&mut stopped(), Request::Wake), [Effect::Boot(2)]);
    assert_eq!(ask(&mut paused(), Request::Wake), [Effect::Resume(1)]);
    assert_eq!(replies(&ask(&mut running(), Request::Wake)), [&Reply::Done]);
    assert_eq!(replies(&ask(&mut Lifecycle::stopped(false, 1, None), Request::Wake)), [&Reply::Disabled]);
    assert_eq!(replies(&ask(&mut stopped(), Request::Disable)), [&Reply::Done]);
    assert_eq!(ask(&mut stopped(), Request::Delete), [Effect::Remove]);
    assert_eq!(ask(&mut stopped(), Request::Prune), [Effect::Remove]);
    assert_eq!(replies(&ask(&mut running(), Request::Prune)), [&Reply::AlreadyRunning]);
    assert_eq!(replies(&ask(&mut paused(), Request::Prune)), [&Reply::AlreadyRunning]);
    assert_eq!(ask(&mut running(), Request::Delete), [Effect::TearDown(1, Manner::AtOnce)]);
}

#[test]
fn a_start_revives_a_disabled_instance_and_nothing_else_does() {
    let mut life = Lifecycle::stopped(false, 3, None);
    for request in [Request::Ensure, Request::Wake, Request::Resume, Request::Pause, Request::Stop] {
        ask(&mut life, request);
        assert!(!life.enabled());
        assert_eq!(life.state(), State::Stopped);
    }
    ask(&mut life, Request::Start);
    assert!(life.enabled());
    assert_eq!(life.state(), State::Starting);
}

#[test]
fn a_pause_that_races_with_an_exec_ends_running() {
    let mut life = running();
    life.step(Event::Wanted(Request::Pause, 1));
    life.step(Event::Wanted(Request::Ensure, 2));
    let effects = life.step(Event::PauseEnded(1, Ok(())));
    assert_eq!(effects, [Effect::Reply(1, Reply::Done), Effect::Resume(1)]);
    assert_eq!(life.step(Event::ResumeEnded(1, Ok(()))), [Effect::Reply(2, Reply::Done)]);
}

#[test]
fn whoever_comes_while_a_machine_goes_to_disk_has_it_woken_as_soon_as_it_is_there() {
    let mut life = Lifecycle::recovered(true, 1, true);
    assert_eq!(life.step(Event::Idle(Rung::Hibernate)), [Effect::Hibernate(1)]);
    assert_eq!(life.step(Event::Wanted(Request::Wake, 1)), []);
    assert_eq!(life.step(Event::HibernateEnded(1, Ok(()))), [Effect::Wake(1)]);
    assert_eq!(life.step(Event::WakeEnded(1, Ok(()))), [Effect::Reply(1, Reply::Done)]);
}

#[test]
fn what_cannot_go_to_disk_stays_paused_and_what_does_not_come_back_boots() {
    let mut life = Lifecycle::recovered(true, 1, true);
    assert_eq!(ask(&mut life, Request::Hibernate), [Effect::Hibernate(1)]);
    let refused = Effect::Reply(1, Reply::Refused("full".to_owned()));
    assert_eq!(life.step(Event::HibernateEnded(1, Err("full".to_owned()))), [refused]);
    assert_eq!(life.state(), State::Paused);
    let mut life = Lifecycle::hibernated(true, 1);
    assert_eq!(ask(&mut life, Request::Wake), [Effect::Wake(1)]);
    assert_eq!(life.step(Event::Died(1, StopReason::stopped())), []);
    assert_eq!(life.step(Event::WakeEnded(1, Err("damaged".to_owned()))), [Effect::Boot(2)]);
    assert_eq!(life.step(Event::Booted(2)), [Effect::Reply(1, Reply::Done)]);
}

#[test]
fn one_that_fills_the_host_stands_still_until_there_is_room_and_then_goes_on() {
    let mut life = running();
    assert_eq!(life.step(Event::HostFull), [Effect::Pause(1)]);
    assert_eq!(life.step(Event::Wanted(Request::Wake, 1)), []);
    let refused = life.step(Event::PauseEnded(1, Ok(())));
    assert!(matches!(replies(&refused)[..], [Reply::NoRoom(_)]), "{refused:?}");
    for request in [Request::Ensure, Request::Wake, Request::Resume, Request::Start] {
        let refused = ask(&mut life, request);
        assert!(matches!(replies(&refused)[..], [Reply::NoRoom(_)]), "{refused:?}");
    }
    // Nothing that would write is done to it by itself; what somebody asks for is.
    assert_eq!(life.step(Event::Idle(Rung::Hibernate)), []);
    assert_eq!(life.step(Event::Idle(Rung::Stop)), []);
    assert_eq!(life.step(Event::HostHasRoom), []);
    assert_eq!(life.state(), State::Paused);
    assert_eq!(ask(&mut life, Request::Resume), [Effect::Resume(1)]);
    let mut held = running();
    held.step(Event::HostFull);
    held.step(Event::PauseEnded(1, Ok(())));
    assert_eq!(ask(&mut held, Request::Delete), [Effect::TearDown(1, Manner::AtOnce)]);
}

#[test]
fn an_exit_that_overtakes_the_boot_still_counts_as_started() {
    let mut life = Lifecycle::stopped(true, 0, None);
    ask(&mut life, Request::Start);
    let effects = life.step(Event::Exited(1, StopReason::stopped(), Manner::Graceful));
    assert_eq!(replies(&effects), [&Reply::Done]);
    assert_eq!(life.step(Event::Booted(1)), []);
}

#[test]
fn an_exec_boots_what_idleness_stopped_and_nothing_else() {
    let stopped_by = |reason| Lifecycle::stopped(true, 1, Some(reason));
    assert_eq!(ask(&mut stopped_by(StopReason::idle()), Request::Ensure), [Effect::Boot(2)]);
    assert_eq!(replies(&ask(&mut stopped_by(StopReason::stopped()), Request::Ensure)), [&Reply::Stopped]);
    let mut disabled = Lifecycle::stopped(false, 1, Some(StopReason::idle()));
    assert_eq!(replies(&ask(&mut disabled, Request::Ensure)), [&Reply::Stopped]);
}

#[test]
fn many_who_wake_an_instance_share_one_boot_or_one_resume() {
    for (mut life, effect) in [
        (Lifecycle::stopped(true, 1, None), Effect::Boot(2)),
        (Lifecycle::recovered(true, 1, true), Effect::Resume(1)),
    ] {
        let wake = |life: &mut Lifecycle, waiter| life.step(Event::Wanted(Request::Wake, waiter));
        assert_eq!(wake(&mut life, 1), std::slice::from_ref(&effect));
        assert!((2..1000).all(|waiter| wake(&mut life, waiter).is_empty()));
        let done = if effect == Effect::Boot(2) { Event::Booted(2) } else { Event::ResumeEnded(1, Ok(())) };
        assert_eq!(life.step(done).len(), 999);
    }
}

#[test]
fn whoever_comes_while_idleness_ends_the_machine_has_it_booted_again() {
    let mut life = running();
    assert_eq!(life.step(Event::Idle(Rung::Stop)), [Effect::TearDown(1, Manner::Graceful)]);
    assert_eq!(life.step(Event::Wanted(Request::Wake, 1)), []);
    assert_eq!(life.step(Event::TornDown(1)), [Effect::Boot(2)]);
    assert_eq!(life.step(Event::Booted(2)), [Effect::Reply(1, Reply::Done)]);
}

#[test]
fn a_daemon_that_ends_boots_nothing_for_whoever_comes_then() {
    let mut life = running();
    assert_eq!(ask(&mut life, Request::DaemonStop), [Effect::TearDown(1, Manner::Graceful)]);
    for request in [Request::Wake, Request::Ensure, Request::Start, Request::Restart] {
        assert_eq!(replies(&ask(&mut life, request)), [&Reply::DaemonEnds]);
    }
    assert_eq!(life.step(Event::TornDown(1)), [Effect::Reply(1, Reply::Done)]);
    assert_eq!(life.step(Event::Again), []);
    assert_eq!(replies(&ask(&mut life, Request::Wake)), [&Reply::DaemonEnds]);
}

#[test]
fn idleness_disturbs_nothing_that_is_under_way() {
    for request in [Request::Start, Request::Wake] {
        let mut life = Lifecycle::stopped(true, 1, None);
        ask(&mut life, request);
        assert_eq!(life.step(Event::Idle(Rung::Stop)), []);
        assert_eq!(life.step(Event::Idle(Rung::Pause)), []);
    }
    let mut resuming = Lifecycle::recovered(true, 1, true);
    ask(&mut resuming, Request::Wake);
    assert_eq!(resuming.step(Event::Idle(Rung::Stop)), []);
}

#[test]
fn whoever_waits_for_a_clone_that_does_not_come_up_gets_one_that_boots() {
    let mut life = Lifecycle::stopped(true, 0, None);
    assert_eq!(life.step(Event::Wanted(Request::Start, 1)), [Effect::Boot(1)]);
    assert_eq!(life.step(Event::CloneFailed(1)), [Effect::TearDown(1, Manner::AtOnce)]);
    assert_eq!(life.state(), State::Starting);
    assert_eq!(life.step(Event::TornDown(1)), [Effect::Boot(2)]);
    assert_eq!(life.step(Event::Booted(2)), [Effect::Reply(1, Reply::Done)]);
}
