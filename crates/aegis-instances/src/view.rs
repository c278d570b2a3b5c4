//! An instance as others see it: a snapshot.

use std::sync::Arc;

use aegis_lifecycle::event::State;
use aegis_lifecycle::idle_policy::{self, Activity, DueSleep, IdlePolicy, Lease};
use aegis_lifecycle::restart_policy::Attempts;
use aegis_lifecycle::stop_reason::StopReason;
use aegis_machines::boot_timings::Timings;
use aegis_machines::clock::now_ms;
use aegis_spec::instance::InstanceSpec;

use crate::ports::Endpoint;
use crate::usage::Usage;

/// A snapshot of an instance. Times are milliseconds since 1970.
#[derive(Debug, Clone)]
pub struct View {
    /// Its id.
    pub id: String,
    /// Its handle.
    pub handle: Option<String>,
    /// What it is made of.
    pub spec: Arc<InstanceSpec>,
    /// Its state.
    pub state: State,
    /// Whether it may be booted implicitly.
    pub enabled: bool,
    /// Exit code of the last run of its command.
    pub exit_code: Option<i32>,
    /// Why it is stopped.
    pub reason: Option<StopReason>,
    /// Number of boots so far.
    pub boot: u32,
    /// When it was created.
    pub created_ms: i64,
    /// When it last changed.
    pub updated_ms: i64,
    /// When it was last at work.
    pub active_ms: i64,
    /// When it stopped, if it is stopped.
    pub stopped_ms: Option<i64>,
    /// When its command was last executed.
    pub started_ms: Option<i64>,
    /// Whether its command has ever been executed, or that of the instance that it is a copy of.
    pub has_run: bool,
    /// Since when it is in its state.
    pub since_ms: i64,
    /// When it last began to run, or went on after a pause.
    pub awake_ms: i64,
    /// When its lifetime is over, if it has one.
    pub lifetime_ends_ms: Option<i64>,
    /// Its ports that are reachable from the host.
    pub endpoints: Arc<[Endpoint]>,
    /// When it rests.
    pub rest: IdlePolicy,
    /// Whether somebody asked for it to stay awake.
    pub lease: Option<Lease>,
    /// How its command fares, and when it is executed again.
    pub attempts: Attempts,
    /// Whether its disk is just being replaced, and is no business of anybody else's.
    pub replacing: bool,
    /// Whether it stands still until the host's disk has room.
    pub held: bool,
    /// That it was paused because the host's disk was full, and how full.
    pub filled: Option<String>,
    /// Where the time of its last start went, if this daemon started it.
    pub timings: Option<Timings>,
    /// Who uses it; goes on counting.
    pub usage: Arc<Usage>,
}

impl View {
    /// Its handle, or else its id.
    #[must_use]
    pub fn name(&self) -> &str {
        self.handle.as_deref().unwrap_or(&self.id)
    }

    /// Whether all its starts have failed before its command was executed.
    #[must_use]
    pub fn never_ran(&self) -> bool {
        self.state == State::Stopped && !self.has_run && self.reason.is_some()
    }

    /// How it is used now.
    #[must_use]
    pub fn in_use(&self) -> Activity {
        Activity {
            counts: self.usage.counts(),
            last_byte_ms: self.usage.last_byte_ms(),
            lease_until_ms: self.lease.as_ref().map(|lease| lease.until_ms),
            active_ms: self.active_ms,
        }
    }

    /// What it does next if nobody uses it.
    #[must_use]
    pub fn next_step(&self) -> Option<DueSleep> {
        if self.reason.is_some() || self.held {
            // It is stopped, or is being stopped; or nothing is to be done that would write.
            return None;
        }
        idle_policy::next(&self.rest, self.state, &self.in_use())
    }

    /// What users should know.
    #[must_use]
    pub fn condition(&self) -> Option<String> {
        let filled = self.filled.as_ref().map(|text| format!("paused: {text}"));
        filled.or_else(|| self.held_by_clients()).or_else(|| self.attempts.condition())
    }

    /// Who is connected to one that stands still: it rests no deeper, and why should be known.
    fn held_by_clients(&self) -> Option<String> {
        let count = self.usage.counts().connections;
        let open = if count == 1 { "1 connection".to_owned() } else { format!("{count} connections") };
        (self.state == State::Paused && count > 0).then(|| {
            format!(
                "paused with {open} open: it rests no deeper, and goes on when one carries something or ends, or by: \
                 aegis instance resume"
            )
        })
    }

    /// What keeps it awake at this moment, for people.
    #[must_use]
    pub fn kept_awake_by(&self) -> Vec<String> {
        let reason = self.lease.as_ref().map_or("", |lease| &lease.reason);
        idle_policy::reasons(&self.rest, self.state, &self.in_use(), reason, now_ms())
    }
}
