//! When an instance that nobody uses rests: a pure function of its use and its settings.
//!
//! ```text
//!   RUNNING ── pause ──► PAUSED ── hibernate ──► HIBERNATED ──► STOPPED
//!                          └───────────────── stop ───────────────┘
//! ```

use serde::{Deserialize, Serialize};

use crate::event::{SleepLevel, State};

/// Idle time before a pause, unless set otherwise, milliseconds.
pub const DEFAULT_PAUSE_MS: u64 = 60_000;
/// Time from the pause until the machine goes to disk, unless set otherwise, milliseconds.
pub const DEFAULT_HIBERNATE_MS: u64 = 10 * 60_000;
/// Time from the pause to the stop, unless set otherwise, milliseconds.
pub const DEFAULT_STOP_MS: u64 = 20 * 60_000;

/// A time, or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum After {
    /// After so many milliseconds.
    Ms(u64),
    /// Not at all.
    Never,
}

impl After {
    /// Milliseconds; `None` for never.
    #[must_use]
    pub fn ms(self) -> Option<u64> {
        match self {
            After::Ms(ms) => Some(ms),
            After::Never => None,
        }
    }
}

/// What an instance is told about resting. What is absent is as the daemon's defaults say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IdleSpec {
    /// From the last use to the pause.
    pub pause: Option<After>,
    /// From the pause until the machine goes to disk.
    pub hibernate: Option<After>,
    /// From the pause to the stop.
    pub stop: Option<After>,
    /// From a connection's last byte until it keeps the instance awake no more.
    pub connections: Option<After>,
}

/// The daemon's defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdleDefaults {
    /// See [`IdleSpec::pause`].
    pub pause: After,
    /// See [`IdleSpec::hibernate`].
    pub hibernate: After,
    /// See [`IdleSpec::stop`].
    pub stop: After,
    /// See [`IdleSpec::connections`].
    pub connections: After,
}

impl Default for IdleDefaults {
    fn default() -> Self {
        IdleDefaults {
            pause: After::Ms(DEFAULT_PAUSE_MS),
            hibernate: After::Ms(DEFAULT_HIBERNATE_MS),
            stop: After::Ms(DEFAULT_STOP_MS),
            connections: After::Never,
        }
    }
}

/// When an instance rests. An absent time means never.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IdlePolicy {
    /// From the last use to the pause, milliseconds.
    pub pause_ms: Option<u64>,
    /// From the pause until the machine goes to disk, milliseconds.
    pub hibernate_ms: Option<u64>,
    /// From the pause to the stop, or, if it is never paused, from the last use; milliseconds.
    pub stop_ms: Option<u64>,
    /// From a connection's last byte until it keeps the instance awake no more, milliseconds.
    pub silent_ms: Option<u64>,
}

impl IdlePolicy {
    /// What holds for an instance: without ports it runs to its end, unless it was told otherwise, and only one that can
    /// be put on disk hibernates.
    #[must_use]
    pub fn of(spec: &IdleSpec, has_ports: bool, hibernates: bool, defaults: &IdleDefaults) -> IdlePolicy {
        if !has_ports && spec.pause.is_none() && spec.hibernate.is_none() && spec.stop.is_none() {
            return IdlePolicy::default();
        }
        IdlePolicy {
            pause_ms: spec.pause.unwrap_or(defaults.pause).ms(),
            hibernate_ms: spec.hibernate.unwrap_or(defaults.hibernate).ms().filter(|_| hibernates),
            stop_ms: spec.stop.unwrap_or(defaults.stop).ms(),
            silent_ms: spec.connections.unwrap_or(defaults.connections).ms(),
        }
    }
}

/// Somebody's wish that an instance stay awake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Until when, milliseconds since 1970.
    pub until_ms: i64,
    /// Why, in his words; may be empty.
    pub reason: String,
}

/// Longest lease that a guest may give itself, milliseconds. It may renew it.
pub const MOST_GUEST_LEASE_MS: u64 = 60 * 60_000;
/// Longest reason, characters.
pub const MOST_REASON: usize = 200;

impl Lease {
    /// A lease that a guest asks for; whatever it says is cut to what is allowed.
    #[must_use]
    pub fn of_guest(ttl_ms: u64, reason: &str, now_ms: i64) -> Lease {
        let reason = reason.chars().filter(|c| !c.is_control()).take(MOST_REASON).collect();
        Lease::lasting(ttl_ms.min(MOST_GUEST_LEASE_MS), reason, now_ms)
    }

    /// A lease from now on.
    #[must_use]
    pub fn lasting(ttl_ms: u64, reason: String, now_ms: i64) -> Lease {
        Lease { until_ms: later(now_ms, ttl_ms), reason }
    }
}

/// Who uses an instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections to its ports, and requests by its name.
    pub connections: u32,
    /// Processes of `exec`.
    pub execs: u32,
    /// Terminals attached to its command.
    pub terminals: u32,
}

impl Counts {
    /// Whether nobody does.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Counts::default()
    }

    /// How many there are of a kind.
    pub fn of(&mut self, user: User) -> &mut u32 {
        match user {
            User::Connection => &mut self.connections,
            User::Exec => &mut self.execs,
            User::Terminal => &mut self.terminals,
        }
    }
}

/// What kind of user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// See [`Counts::connections`].
    Connection,
    /// See [`Counts::execs`].
    Exec,
    /// See [`Counts::terminals`].
    Terminal,
}

/// How an instance is used. Times are milliseconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Activity {
    /// Who uses it now.
    pub counts: Counts,
    /// When a connection last carried a byte.
    pub last_byte_ms: i64,
    /// Until when somebody asked for it to stay awake.
    pub lease_until_ms: Option<i64>,
    /// When it last changed its state, was left by its last user, or worked.
    pub active_ms: i64,
}

/// The next step of the ladder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueSleep {
    /// Which.
    pub level: SleepLevel,
    /// When, if nobody uses it until then.
    pub at_ms: i64,
}

/// The next step, and when; `None` while somebody uses it, or if it never rests. Connections that are open, though they are
/// silent, outlive a pause and nothing else: with them it rests no deeper.
#[must_use]
pub fn next(rest: &IdlePolicy, state: State, usage: &Activity) -> Option<DueSleep> {
    if usage.counts.execs > 0 || usage.counts.terminals > 0 {
        return None;
    }
    let silent = match (usage.counts.connections, rest.silent_ms) {
        (0, _) => i64::MIN,
        (_, None) => return None,
        (_, Some(after)) => later(usage.last_byte_ms, after),
    };
    let idle_since = usage.active_ms.max(silent).max(usage.lease_until_ms.unwrap_or(i64::MIN));
    let (level, after) = match (state, rest.pause_ms) {
        (State::Running, Some(after)) => (SleepLevel::Pause, after),
        (State::Paused, _) => match (rest.hibernate_ms, rest.stop_ms) {
            (Some(hibernate), stop) if stop.is_none_or(|stop| hibernate < stop) => {
                (SleepLevel::Hibernate, hibernate)
            }
            (_, stop) => (SleepLevel::Stop, stop?),
        },
        (State::Running, None) | (State::Hibernated, _) => (SleepLevel::Stop, rest.stop_ms?),
        (State::Stopped | State::Starting, _) => return None,
    };
    if level != SleepLevel::Pause && usage.counts.connections > 0 {
        return None;
    }
    Some(DueSleep { level, at_ms: later(idle_since, after) })
}

fn later(from: i64, by: u64) -> i64 {
    from.saturating_add(i64::try_from(by).unwrap_or(i64::MAX))
}

/// What keeps it awake at this moment, for people; nothing, if it is not.
#[must_use]
pub fn reasons(
    rest: &IdlePolicy,
    state: State,
    usage: &Activity,
    lease_reason: &str,
    now_ms: i64,
) -> Vec<String> {
    let Counts { connections, execs, terminals } = usage.counts;
    let several =
        |count: u32, one: &str| if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") };
    let mut found = Vec::new();
    if !matches!(state, State::Running | State::Starting) {
        return found;
    }
    // One that is never paused is kept by silent ones, too.
    let silent = rest.silent_ms.filter(|_| rest.pause_ms.is_some());
    let silent = silent.is_some_and(|after| later(usage.last_byte_ms, after) <= now_ms);
    if connections > 0 && !silent {
        found.push(several(connections, "connection"));
    }
    if execs > 0 {
        found.push(several(execs, "exec"));
    }
    if terminals > 0 {
        found.push(several(terminals, "terminal"));
    }
    if usage.lease_until_ms.is_some_and(|until| until > now_ms) {
        found.push(if lease_reason.is_empty() {
            "a lease".to_owned()
        } else {
            format!("a lease: {lease_reason}")
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LADDER: IdlePolicy =
        IdlePolicy { pause_ms: Some(60), hibernate_ms: Some(600), stop_ms: Some(1200), silent_ms: None };

    fn idle(active_ms: i64) -> Activity {
        Activity { active_ms, ..Activity::default() }
    }

    #[test]
    fn the_ladder_has_three_rungs_and_each_may_be_missing() {
        assert_eq!(
            next(&LADDER, State::Running, &idle(1000)),
            Some(DueSleep { level: SleepLevel::Pause, at_ms: 1060 })
        );
        let due = |level, at_ms| Some(DueSleep { level, at_ms });
        assert_eq!(next(&LADDER, State::Paused, &idle(2000)), due(SleepLevel::Hibernate, 2600));
        // The stop counts from the pause.
        assert_eq!(next(&LADDER, State::Hibernated, &idle(2000)), due(SleepLevel::Stop, 3200));
        let to_disk_for_good = IdlePolicy { stop_ms: None, ..LADDER };
        assert_eq!(next(&to_disk_for_good, State::Paused, &idle(0)), due(SleepLevel::Hibernate, 600));
        assert_eq!(next(&to_disk_for_good, State::Hibernated, &idle(0)), None);
        for hibernate_ms in [None, Some(1200), Some(1300)] {
            let without = IdlePolicy { hibernate_ms, ..LADDER };
            assert_eq!(next(&without, State::Paused, &idle(2000)), due(SleepLevel::Stop, 3200));
        }
        assert_eq!(next(&LADDER, State::Stopped, &idle(0)), None);
        assert_eq!(next(&LADDER, State::Starting, &idle(0)), None);
        let unpaused = IdlePolicy { pause_ms: None, ..LADDER };
        assert_eq!(
            next(&unpaused, State::Running, &idle(0)),
            Some(DueSleep { level: SleepLevel::Stop, at_ms: 1200 })
        );
        assert_eq!(next(&IdlePolicy::default(), State::Running, &idle(0)), None);
    }

    #[test]
    fn it_applies_to_instances_with_ports_or_with_settings_of_their_own() {
        let defaults = IdleDefaults::default();
        assert_eq!(IdlePolicy::of(&IdleSpec::default(), false, true, &defaults), IdlePolicy::default());
        let usual = IdlePolicy {
            pause_ms: Some(60_000),
            hibernate_ms: Some(600_000),
            stop_ms: Some(1_200_000),
            silent_ms: None,
        };
        assert_eq!(IdlePolicy::of(&IdleSpec::default(), true, true, &defaults), usual);
        let without = IdlePolicy { hibernate_ms: None, ..usual };
        assert_eq!(IdlePolicy::of(&IdleSpec::default(), true, false, &defaults), without);
        let told = IdleSpec { stop: Some(After::Never), ..IdleSpec::default() };
        assert_eq!(IdlePolicy::of(&told, false, true, &defaults), IdlePolicy { stop_ms: None, ..usual });
    }

    #[test]
    fn silent_connections_count_until_their_time_is_over() {
        let counts = Counts { connections: 3, ..Counts::default() };
        let usage = Activity { counts, last_byte_ms: 500, ..idle(100) };
        assert_eq!(next(&LADDER, State::Running, &usage), None);
        let impatient = IdlePolicy { silent_ms: Some(30), ..LADDER };
        assert_eq!(
            next(&impatient, State::Running, &usage),
            Some(DueSleep { level: SleepLevel::Pause, at_ms: 590 })
        );
        assert_eq!(reasons(&impatient, State::Running, &usage, "", 529), ["3 connections"]);
        assert!(reasons(&impatient, State::Running, &usage, "", 530).is_empty());
        let unpaused = IdlePolicy { pause_ms: None, ..impatient };
        assert_eq!(reasons(&unpaused, State::Running, &usage, "", 530), ["3 connections"]);
        // Nothing keeps awake what stands still.
        assert!(reasons(&impatient, State::Paused, &usage, "", 529).is_empty());
    }

    #[test]
    fn silent_connections_are_held_by_a_pause_and_ended_by_nothing_deeper() {
        let counts = Counts { connections: 1, ..Counts::default() };
        let usage = Activity { counts, last_byte_ms: 500, ..idle(100) };
        let never_deeper = IdlePolicy { hibernate_ms: None, silent_ms: Some(30), ..LADDER };
        for rest in [IdlePolicy { silent_ms: Some(30), ..LADDER }, never_deeper] {
            assert_eq!(next(&rest, State::Paused, &usage), None);
            assert_eq!(next(&rest, State::Hibernated, &usage), None);
            let unpaused = IdlePolicy { pause_ms: None, ..rest };
            assert_eq!(next(&unpaused, State::Running, &usage), None);
            assert!(next(&rest, State::Paused, &idle(100)).is_some());
        }
    }

    proptest! {
        #[test]
        fn a_guest_cannot_keep_itself_awake_for_ever(ttl: u64, reason in ".{0,300}") {
            let lease = Lease::of_guest(ttl, &reason, 1000);
            prop_assert!(lease.until_ms <= 1000 + i64::try_from(MOST_GUEST_LEASE_MS).unwrap());
            prop_assert!(lease.reason.chars().count() <= MOST_REASON && !lease.reason.contains('\n'));
        }

        #[test]
        fn nobody_who_uses_it_is_paused_and_nobody_else_keeps_it(
            connections in 0u32..3, execs in 0u32..2, terminals in 0u32..2,
            active in -1000i64..1000, lease in proptest::option::of(-1000i64..1000), byte in -1000i64..1000,
            running in any::<bool>(), silent_ms in proptest::option::of(0u64..100),
        ) {
            let counts = Counts { connections, execs, terminals };
            let usage = Activity { counts, last_byte_ms: byte, lease_until_ms: lease, active_ms: active };
            let state = if running { State::Running } else { State::Paused };
            let due = next(&IdlePolicy { silent_ms, ..LADDER }, state, &usage);
            let held = connections > 0 && !(running && silent_ms.is_some());
            prop_assert_eq!(due.is_none(), held || execs + terminals > 0);
            if let Some(due) = due {
                prop_assert!(due.at_ms > active && lease.is_none_or(|until| due.at_ms > until));
            }
        }
    }
}
