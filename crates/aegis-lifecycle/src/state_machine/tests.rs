//! The promises of the lifecycle, over millions of orders of events.

use proptest::prelude::*;

use self::world::World;
use super::*;
use crate::effect::Effect;
use crate::event::{Event, Reply, Request, ShutdownMode, SleepLevel, State, Waiter};

mod world;

const REQUESTS: [Request; 21] = [
    Request::Replace { runs: true },
    Request::Replace { runs: false },
    // Clients come and write at any moment.
    Request::ResumeForTraffic,
    Request::ResumeForTraffic,
    Request::ResumeForTraffic,
    Request::WakeUnlessStopped,
    Request::WakeUnlessStopped,
    Request::Hibernate,
    Request::LifetimeOver,
    Request::Start,
    Request::Ensure,
    Request::Wake,
    Request::Pause,
    Request::Resume,
    Request::Stop,
    Request::DaemonShutdown,
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
                    world.feed(&mut life, Event::Requested(Request::Disable, waiter));
                }
            } else if kind < 20 {
                let wanted = REQUESTS[pick];
                if matches!(wanted, Request::Delete | Request::Prune) && !deletes { continue }
                world.next_waiter += 1;
                let waiter = world.next_waiter;
                world.feed(&mut life, Event::Requested(wanted, waiter));
            } else {
                let news = world.news(&life, ok);
                if news.is_empty() { continue }
                let event = news[pick % news.len()].clone();
                world.note(&event);
                world.feed(&mut life, event);
            }
        }
        world.settle(&mut life);
        if life.state() == State::Paused && !world.waiting.is_empty() {
            prop_assert!(world.waiting.is_subset(&world.clients), "only clients wait for one that is paused");
            world.next_waiter += 1;
            let waiter = world.next_waiter;
            world.feed(&mut life, Event::Requested(Request::Resume, waiter));
            world.settle(&mut life);
        }
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
    life.step(Event::Requested(request, 1))
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
    assert_eq!(ask(&mut on_disk(), Request::Stop), [Effect::TearDown(1, ShutdownMode::Graceful)]);
    assert_eq!(ask(&mut on_disk(), Request::Delete), [Effect::TearDown(1, ShutdownMode::Immediate)]);
    assert_eq!(replies(&ask(&mut on_disk(), Request::DaemonShutdown)), [&Reply::Done]);
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
    assert_eq!(ask(&mut running(), Request::Delete), [Effect::TearDown(1, ShutdownMode::Immediate)]);
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
    life.step(Event::Requested(Request::Pause, 1));
    life.step(Event::Requested(Request::Ensure, 2));
    let effects = life.step(Event::PauseEnded(1, Ok(())));
    assert_eq!(effects, [Effect::Reply(1, Reply::Done), Effect::Resume(1)]);
    assert_eq!(life.step(Event::ResumeEnded(1, Ok(()))), [Effect::Reply(2, Reply::Done)]);
}

#[test]
fn whoever_comes_while_a_machine_goes_to_disk_has_it_woken_as_soon_as_it_is_there() {
    let mut life = Lifecycle::recovered(true, 1, true);
    assert_eq!(life.step(Event::Idle(SleepLevel::Hibernate)), [Effect::Hibernate(1)]);
    assert_eq!(life.step(Event::Requested(Request::Wake, 1)), []);
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
    assert_eq!(life.step(Event::HostDiskFull), [Effect::Pause(1)]);
    assert_eq!(life.step(Event::Requested(Request::Wake, 1)), []);
    let refused = life.step(Event::PauseEnded(1, Ok(())));
    assert!(matches!(replies(&refused)[..], [Reply::NoRoom(_)]), "{refused:?}");
    for request in [Request::Ensure, Request::Wake, Request::Resume, Request::Start] {
        let refused = ask(&mut life, request);
        assert!(matches!(replies(&refused)[..], [Reply::NoRoom(_)]), "{refused:?}");
    }
    // Nothing that would write is done to it by itself; what somebody asks for is.
    assert_eq!(life.step(Event::Idle(SleepLevel::Hibernate)), []);
    assert_eq!(life.step(Event::Idle(SleepLevel::Stop)), []);
    assert_eq!(life.step(Event::HostDiskHasRoom), []);
    assert_eq!(life.state(), State::Paused);
    assert_eq!(ask(&mut life, Request::Resume), [Effect::Resume(1)]);
    let mut held = running();
    held.step(Event::HostDiskFull);
    held.step(Event::PauseEnded(1, Ok(())));
    assert_eq!(ask(&mut held, Request::Delete), [Effect::TearDown(1, ShutdownMode::Immediate)]);
}

#[test]
fn an_exit_that_overtakes_the_boot_still_counts_as_started() {
    let mut life = Lifecycle::stopped(true, 0, None);
    ask(&mut life, Request::Start);
    let effects = life.step(Event::Exited(1, StopReason::stopped(), ShutdownMode::Graceful));
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
        let wake = |life: &mut Lifecycle, waiter| life.step(Event::Requested(Request::Wake, waiter));
        assert_eq!(wake(&mut life, 1), std::slice::from_ref(&effect));
        assert!((2..1000).all(|waiter| wake(&mut life, waiter).is_empty()));
        let done = if effect == Effect::Boot(2) { Event::Booted(2) } else { Event::ResumeEnded(1, Ok(())) };
        assert_eq!(life.step(done).len(), 999);
    }
}

#[test]
fn whoever_comes_while_idleness_ends_the_machine_has_it_booted_again() {
    let mut life = running();
    assert_eq!(life.step(Event::Idle(SleepLevel::Stop)), [Effect::TearDown(1, ShutdownMode::Graceful)]);
    assert_eq!(life.step(Event::Requested(Request::Wake, 1)), []);
    assert_eq!(life.step(Event::TornDown(1)), [Effect::Continue]);
    assert_eq!(life.state(), State::Stopped);
    assert_eq!(life.step(Event::Continue), [Effect::Boot(2)]);
    assert_eq!(life.step(Event::Booted(2)), [Effect::Reply(1, Reply::Done)]);
}

#[test]
fn a_daemon_that_ends_boots_nothing_for_whoever_comes_then() {
    let mut life = running();
    assert_eq!(ask(&mut life, Request::DaemonShutdown), [Effect::TearDown(1, ShutdownMode::Graceful)]);
    for request in [Request::Wake, Request::Ensure, Request::Start, Request::Restart] {
        assert_eq!(replies(&ask(&mut life, request)), [&Reply::DaemonShutdown]);
    }
    assert_eq!(life.step(Event::TornDown(1)), [Effect::Reply(1, Reply::Done)]);
    assert_eq!(life.step(Event::RestartDue), []);
    assert_eq!(replies(&ask(&mut life, Request::Wake)), [&Reply::DaemonShutdown]);
}

#[test]
fn idleness_disturbs_nothing_that_is_under_way() {
    for request in [Request::Start, Request::Wake] {
        let mut life = Lifecycle::stopped(true, 1, None);
        ask(&mut life, request);
        assert_eq!(life.step(Event::Idle(SleepLevel::Stop)), []);
        assert_eq!(life.step(Event::Idle(SleepLevel::Pause)), []);
    }
    let mut resuming = Lifecycle::recovered(true, 1, true);
    ask(&mut resuming, Request::Wake);
    assert_eq!(resuming.step(Event::Idle(SleepLevel::Stop)), []);
}

#[test]
fn whoever_waits_for_a_clone_that_does_not_come_up_gets_one_that_boots() {
    let mut life = Lifecycle::stopped(true, 0, None);
    assert_eq!(life.step(Event::Requested(Request::Start, 1)), [Effect::Boot(1)]);
    assert_eq!(life.step(Event::CloneFailed(1)), [Effect::TearDown(1, ShutdownMode::Immediate)]);
    assert_eq!(life.state(), State::Starting);
    assert_eq!(life.step(Event::TornDown(1)), [Effect::Boot(2)]);
    assert_eq!(life.step(Event::Booted(2)), [Effect::Reply(1, Reply::Done)]);
}

#[test]
fn no_client_of_a_machine_that_somebody_stops_has_another_one_booted() {
    let mut life = running();
    assert_eq!(life.step(Event::Requested(Request::Stop, 1)), [Effect::TearDown(1, ShutdownMode::Graceful)]);
    // What is said to it while it ends it may still hear.
    assert_eq!(life.step(Event::Requested(Request::ResumeForTraffic, 2)), [Effect::Reply(2, Reply::Done)]);
    assert_eq!(
        life.step(Event::Requested(Request::WakeUnlessStopped, 3)),
        [Effect::Reply(3, Reply::Stopped)]
    );
    assert_eq!(life.step(Event::TornDown(1)), [Effect::Reply(1, Reply::Done)]);
    for request in [Request::ResumeForTraffic, Request::WakeUnlessStopped, Request::Ensure] {
        assert_eq!(replies(&ask(&mut life, request)), [&Reply::Stopped]);
    }
    // One that ended by itself serves those who were just about to be connected.
    let mut died = running();
    died.step(Event::Died(1, StopReason::unreachable(&"no")));
    assert_eq!(died.step(Event::Requested(Request::WakeUnlessStopped, 1)), []);
    assert_eq!(died.step(Event::TornDown(1)), [Effect::Continue]);
    assert_eq!(died.step(Event::Continue), [Effect::Boot(2)]);
}

#[test]
fn whoever_comes_while_somebody_stops_it_is_served_when_it_has_been_stopped() {
    let mut life = running();
    life.step(Event::Requested(Request::Stop, 1));
    assert_eq!(life.step(Event::Requested(Request::Wake, 2)), []);
    assert_eq!(life.step(Event::TornDown(1)), [Effect::Reply(1, Reply::Done), Effect::Continue]);
    assert_eq!(life.state(), State::Stopped);
    assert_eq!(life.step(Event::Continue), [Effect::Boot(2)]);
    // A restart is no stop.
    let mut life = running();
    life.step(Event::Requested(Request::Restart, 1));
    assert_eq!(life.step(Event::TornDown(1)), [Effect::Boot(2)]);
}

#[test]
fn what_was_on_its_way_does_not_undo_a_pause_and_what_comes_after_it_does() {
    let mut life = running();
    life.step(Event::Requested(Request::Pause, 1));
    assert_eq!(life.step(Event::Requested(Request::ResumeForTraffic, 2)), []);
    assert_eq!(life.step(Event::PauseEnded(1, Ok(()))), [Effect::Reply(1, Reply::Done)]);
    assert_eq!(life.state(), State::Paused);
    assert_eq!(life.step(Event::Requested(Request::ResumeForTraffic, 3)), [Effect::Resume(1)]);
    let effects = life.step(Event::ResumeEnded(1, Ok(())));
    assert_eq!(effects, [Effect::Reply(3, Reply::Done), Effect::Reply(2, Reply::Done)]);
    // That idleness paused it a client does not notice.
    life.step(Event::Idle(SleepLevel::Pause));
    assert_eq!(life.step(Event::Requested(Request::ResumeForTraffic, 4)), []);
    assert_eq!(life.step(Event::PauseEnded(1, Ok(()))), [Effect::Resume(1)]);
}

#[test]
fn whoever_comes_while_it_is_put_back_is_served_by_what_comes_of_that() {
    let mut life = running();
    let replace = Event::Requested(Request::Replace { runs: true }, 1);
    assert_eq!(life.step(replace), [Effect::TearDown(1, ShutdownMode::Graceful)]);
    for (waiter, request) in [(2, Request::Wake), (3, Request::Ensure), (4, Request::WakeUnlessStopped)] {
        assert_eq!(life.step(Event::Requested(request, waiter)), []);
    }
    assert_eq!(life.step(Event::TornDown(1)), [Effect::Replace(1)]);
    assert_eq!(life.step(Event::Requested(Request::Wake, 5)), []);
    // A second one is refused, and at once.
    let second = life.step(Event::Requested(Request::Replace { runs: true }, 6));
    assert!(matches!(replies(&second)[..], [Reply::NotReplaced(_)]), "{second:?}");
    assert_eq!(life.step(Event::Replaced(Ok(()))), [Effect::Boot(2)]);
    assert_eq!(replies(&life.step(Event::Booted(2))), [&Reply::Done; 5]);
}

#[test]
fn one_who_does_not_wait_any_more_has_nothing_replaced_later() {
    let mut life = running();
    life.step(Event::Requested(Request::Replace { runs: true }, 1));
    assert_eq!(life.asked_for_later().collect::<Vec<_>>(), [1]);
    life.step(Event::WaiterGone(1));
    assert_eq!(life.step(Event::TornDown(1)), []);
    assert_eq!(life.state(), State::Stopped);
    // The same for what was to be when it runs.
    let mut life = Lifecycle::stopped(true, 1, None);
    life.step(Event::Requested(Request::Start, 1));
    life.step(Event::Requested(Request::Hibernate, 2));
    life.step(Event::Requested(Request::Pause, 3));
    life.step(Event::WaiterGone(2));
    life.step(Event::WaiterGone(3));
    assert_eq!(life.step(Event::Booted(2)), [Effect::Reply(1, Reply::Done)]);
    assert_eq!(life.state(), State::Running);
}

#[test]
fn a_stop_while_its_disk_is_replaced_leaves_it_stopped_and_replaced() {
    let mut life = Lifecycle::stopped(true, 1, None);
    assert_eq!(ask(&mut life, Request::Replace { runs: true }), [Effect::Replace(1)]);
    assert_eq!(life.step(Event::Requested(Request::Stop, 2)), []);
    let effects = life.step(Event::Replaced(Ok(())));
    assert_eq!(replies(&effects), [&Reply::Done, &Reply::Done]);
    assert_eq!(life.step(Event::Continue), []);
    assert_eq!(life.state(), State::Stopped);
    // Before it has begun the stop goes before it.
    let mut life = running();
    ask(&mut life, Request::Replace { runs: true });
    life.step(Event::Requested(Request::Stop, 2));
    let effects = life.step(Event::TornDown(1));
    assert!(matches!(replies(&effects)[..], [Reply::Done, Reply::NotReplaced(_)]), "{effects:?}");
}
