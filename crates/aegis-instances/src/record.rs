//! What is known of an instance, and outlives the daemon.

use std::sync::Arc;

use aegis_registry::InstanceRow;
use aegis_vmm::MachineHandle;

use aegis_lifecycle::event::State;
use aegis_lifecycle::idle_policy::{IdleDefaults, IdlePolicy, Lease};
use aegis_lifecycle::restart_policy::Attempts;
use aegis_lifecycle::state_machine::Lifecycle;
use aegis_lifecycle::stop_reason::StopReason;
use aegis_machines::boot_timings::Timings;
use aegis_machines::checkpoint::capture::CheckpointSource;
use aegis_machines::clock::now_ms;
use aegis_machines::output::Ending;
use aegis_spec::instance::InstanceSpec;

use crate::ports::{Endpoint, Mapping, Ports};
use crate::usage::Usage;
use crate::view::View;

/// An instance as it is stored. Times are milliseconds since 1970.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) handle: Option<String>,
    pub(crate) spec: Arc<InstanceSpec>,
    pub(crate) life: Lifecycle,
    pub(crate) exit_code: Option<i32>,
    pub(crate) created_ms: i64,
    pub(crate) active_ms: i64,
    pub(crate) stopped_ms: Option<i64>,
    /// When its command was executed in the run that it is in, or was last in.
    pub(crate) started_ms: Option<i64>,
    /// When its command was last executed, in whatever run.
    pub(crate) last_started_ms: Option<i64>,
    /// Since when it is in its state.
    pub(crate) since_ms: i64,
    /// When it began to run, or went on after a pause.
    pub(crate) awake_ms: i64,
}

/// What is known of an instance and ends with the daemon.
#[derive(Debug, Default)]
pub(crate) struct TransientState {
    pub(crate) lease: Option<Lease>,
    pub(crate) attempts: Attempts,
    pub(crate) timings: Option<Timings>,
    /// Why its machine is never on disk.
    pub(crate) no_hibernation: Option<&'static str>,
    /// Whether that was tried and failed since it last ran; the stop comes in its time all the same.
    pub(crate) stays_in_memory: bool,
    /// That it was paused because the host's disk was full, and how full.
    pub(crate) filled: Option<String>,
    /// Where its next machine goes on, in place of booting.
    pub(crate) origin: Option<CheckpointSource>,
}

impl Record {
    /// A snapshot for others.
    pub(crate) fn view(
        &self,
        ports: &Ports,
        usage: &Arc<Usage>,
        transient: &TransientState,
        defaults: &IdleDefaults,
    ) -> View {
        let endpoints: Arc<[Endpoint]> = ports.endpoints().into();
        View {
            id: self.id.clone(),
            handle: self.handle.clone(),
            spec: Arc::clone(&self.spec),
            state: self.life.state(),
            enabled: self.life.enabled(),
            exit_code: self.exit_code,
            reason: self.life.reason().cloned(),
            boot: self.life.boot(),
            created_ms: self.created_ms,
            updated_ms: now_ms(),
            active_ms: self.active_ms,
            stopped_ms: self.stopped_ms,
            started_ms: self.started_ms,
            has_run: self.last_started_ms.is_some(),
            awake_ms: self.awake_ms,
            rest: IdlePolicy::of(
                &self.spec.rest,
                !endpoints.is_empty(),
                transient.no_hibernation.is_none() && !transient.stays_in_memory,
                defaults,
            ),
            endpoints,
            lease: transient.lease.clone(),
            attempts: transient.attempts,
            timings: transient.timings.clone(),
            held: self.life.is_held(),
            replacing: self.life.is_replacing(),
            filled: transient.filled.clone(),
            usage: Arc::clone(usage),
            since_ms: self.since_ms,
            lifetime_ends_ms: self.end_of_life_ms(),
        }
    }

    /// How the last run of a stopped instance ended. One that merely rests has not ended.
    pub(crate) fn ending(&self) -> Option<Ending> {
        let rests = self.life.reason().is_some_and(StopReason::is_idle);
        let ended = self.life.state() == State::Stopped && self.life.boot() > 0 && !rests;
        ended.then(|| ending(self.exit_code, self.life.reason()))
    }

    /// When its lifetime is over, if it has one.
    pub(crate) fn end_of_life_ms(&self) -> Option<i64> {
        let lifetime = i64::try_from(self.spec.max_lifetime_ms?).unwrap_or(i64::MAX);
        Some(self.created_ms.saturating_add(lifetime))
    }

    /// The instance as the registry stores it.
    pub(crate) fn row(&self, machine: Option<&MachineHandle>, ports: &[Mapping]) -> InstanceRow {
        let json = |value: Option<String>| value.unwrap_or_default();
        InstanceRow {
            id: self.id.clone(),
            handle: self.handle.clone(),
            spec: json(serde_json::to_string(&*self.spec).ok()),
            enabled: self.life.enabled(),
            state: self.life.state().as_str().to_owned(),
            exit_code: self.exit_code,
            stop_reason: self.life.reason().and_then(|reason| serde_json::to_string(reason).ok()),
            vm: machine.and_then(|machine| serde_json::to_string(machine).ok()),
            boot: self.life.boot(),
            created_at_ms: self.created_ms,
            updated_at_ms: now_ms(),
            last_active_at_ms: self.active_ms,
            stopped_at_ms: self.stopped_ms,
            started_at_ms: self.last_started_ms,
            ports: json(serde_json::to_string(ports).ok()),
        }
    }
}

/// What is left of a timeout. A clock that was set back adds nothing to it.
pub(crate) fn remaining_ms(timeout: u64, started: Option<i64>, now: i64) -> u64 {
    let used = started.map_or(0, |started| now.saturating_sub(started));
    timeout.saturating_sub(u64::try_from(used).unwrap_or(0))
}

/// How the last run of a stopped instance ended.
pub(crate) fn ending(exit_code: Option<i32>, reason: Option<&StopReason>) -> Ending {
    let reason = reason.cloned().unwrap_or_else(StopReason::stopped);
    match exit_code {
        Some(code) => Ending::Exit(code, reason),
        None => Ending::Failed(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_counts_from_the_commands_execution() {
        assert_eq!(remaining_ms(1000, None, 5000), 1000);
        assert_eq!(remaining_ms(1000, Some(4700), 5000), 700);
        assert_eq!(remaining_ms(1000, Some(1000), 5000), 0);
        assert_eq!(remaining_ms(1000, Some(6000), 5000), 1000);
    }
}
