//! What an instance does when the host's disk is full.

use aegis_lifecycle::event::{Event, Request, State};
use aegis_lifecycle::stop_reason::StopReason;
use aegis_registry::InstanceRow;

use super::Actor;

/// Code of one that stands still because the host's disk is full, beside its record.
const FILLED: &str = "disk_full";

/// Why the last daemon let an instance stand still until the host's disk has room, if it did.
pub(crate) fn filled(row: &InstanceRow) -> Option<String> {
    let reason: StopReason = serde_json::from_str(row.stop_reason.as_deref()?).ok()?;
    (reason.code == FILLED).then_some(reason.message)
}

impl Actor {
    /// Notes why it was paused by an earlier daemon.
    pub(crate) fn was_filled(&mut self, text: Option<String>) {
        self.transient.filled = text;
    }

    /// Puts it into what is stored, where the reason of a stop is otherwise: the next daemon is not to wake it either.
    pub(super) fn note_filled(&self, row: &mut InstanceRow) {
        if let Some(text) = self.transient.filled.as_ref().filter(|_| self.record.life.is_held()) {
            row.stop_reason = serde_json::to_string(&StopReason::new(FILLED, text.as_str())).ok();
        }
    }

    /// Why the host's disk does not allow what is asked for; `None` if it does, or takes nothing.
    pub(super) fn no_room_for(&self, request: Request) -> Option<String> {
        let life = &self.record.life;
        let boots = match request {
            Request::Restart => true,
            Request::Start => life.state() == State::Stopped,
            Request::Wake | Request::WakeUnlessStopped => life.state() == State::Stopped && life.enabled(),
            Request::Ensure => life.enabled() && life.reason().is_some_and(StopReason::is_idle),
            _ => false,
        };
        if boots { self.deps.machines.disk_space().refusal() } else { None }
    }

    /// The disk is full and this instance fills it, or there is room again.
    pub(super) async fn host_disk(&mut self, full: Option<String>) {
        let boot = self.record.life.boot();
        match full {
            Some(text) => {
                self.step(Event::HostDiskFull).await;
                if self.record.life.is_held() && self.transient.filled.is_none() {
                    self.output.log_system(&format!("paused: {text}"));
                    self.transient.filled = Some(text.clone());
                    self.publish();
                    self.network_event(boot, FILLED, Some(text)).await;
                }
            }
            None => {
                self.step(Event::HostDiskHasRoom).await;
                if let Some(filled) = &mut self.transient.filled {
                    "the host's disk was full, and has room again; go on with: aegis instance resume"
                        .clone_into(filled);
                    self.output.log_system("the host's disk has room again");
                }
                self.publish();
            }
        }
    }
}
