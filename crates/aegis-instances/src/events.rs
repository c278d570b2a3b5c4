//! What happened to instances, as the registry keeps it.

use aegis_lifecycle::event::State;
use aegis_lifecycle::state_machine::Lifecycle;
use aegis_lifecycle::stop_reason::StopReason;
use aegis_machines::clock::now_ms;
use aegis_registry::{EventRow, NewEvent};
use serde::{Deserialize, Serialize};

use crate::record::Record;

/// What an event tells beside what the registry itself knows of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detail {
    /// The instance's handle.
    pub handle: Option<String>,
    /// Number of the instance's boot; 0 before the first.
    #[serde(default)]
    pub boot: u32,
    /// Why it stopped, or stops.
    pub reason: Option<StopReason>,
    /// Exit code of its command.
    pub exit_code: Option<i32>,
    /// More about it.
    #[serde(default)]
    pub note: Option<String>,
}

impl Detail {
    /// What an instance's record says at this moment.
    pub(crate) fn of(record: &Record) -> Detail {
        Detail {
            handle: record.handle.clone(),
            boot: record.life.boot(),
            reason: record.life.reason().cloned(),
            exit_code: record.exit_code,
            note: None,
        }
    }
}

/// Something that happened to an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedEvent {
    /// Its number; rises by one from one to the next.
    pub seq: u64,
    /// When, milliseconds since 1970.
    pub at_ms: i64,
    /// A stable word for what.
    pub kind: String,
    /// Whose.
    pub instance_id: String,
    /// More about it.
    pub detail: Detail,
}

/// What of an instance its events tell of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VisibleState {
    pub(crate) state: State,
    enabled: bool,
    reason: Option<StopReason>,
}

impl VisibleState {
    pub(crate) fn of(life: &Lifecycle) -> VisibleState {
        VisibleState { state: life.state(), enabled: life.enabled(), reason: life.reason().cloned() }
    }

    /// The word for what happened between this and a later outline; `None` if nothing that anybody sees.
    pub(crate) fn became(&self, later: &VisibleState) -> Option<&'static str> {
        if later.state != self.state {
            Some(later.state.as_str())
        } else if later.state != State::Stopped && later.reason.is_some() && self.reason != later.reason {
            Some("stopping")
        } else if later.enabled != self.enabled {
            Some(if later.enabled { "enabled" } else { "disabled" })
        } else {
            None
        }
    }
}

/// An event to be stored now.
pub(crate) fn event(instance_id: &str, kind: &str, detail: &Detail) -> NewEvent {
    NewEvent {
        at_ms: now_ms(),
        instance_id: instance_id.to_owned(),
        kind: kind.to_owned(),
        // Plain data; cannot fail.
        detail: serde_json::to_string(detail).unwrap_or_default(),
    }
}

impl From<EventRow> for RecordedEvent {
    /// A detail that an older release wrote differently counts as empty.
    fn from(row: EventRow) -> RecordedEvent {
        let EventRow { seq, event } = row;
        RecordedEvent {
            seq: u64::try_from(seq).unwrap_or(0),
            at_ms: event.at_ms,
            kind: event.kind,
            instance_id: event.instance_id,
            detail: serde_json::from_str(&event.detail).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_event_comes_back_as_it_was_stored() {
        let detail = Detail {
            handle: Some("web".into()),
            boot: 3,
            reason: Some(StopReason::new("exited", "the command exited with code 7")),
            exit_code: Some(7),
            note: None,
        };
        let stored = EventRow { seq: 9, event: event("inst-1", "stopped", &detail) };
        let back = RecordedEvent::from(stored.clone());
        assert_eq!((back.seq, back.kind.as_str(), back.instance_id.as_str()), (9, "stopped", "inst-1"));
        assert_eq!((back.at_ms, back.detail), (stored.event.at_ms, detail));
    }

    #[test]
    fn each_visible_change_has_its_word() {
        let running = VisibleState { state: State::Running, enabled: true, reason: None };
        let stopping = VisibleState { reason: Some(StopReason::stopped()), ..running.clone() };
        let stopped = VisibleState { state: State::Stopped, ..stopping.clone() };
        let disabled = VisibleState { enabled: false, ..stopped.clone() };
        assert_eq!(running.became(&running), None);
        assert_eq!(running.became(&stopping), Some("stopping"));
        assert_eq!(stopping.became(&stopped), Some("stopped"));
        assert_eq!(stopped.became(&disabled), Some("disabled"));
        assert_eq!(disabled.became(&stopped), Some("enabled"));
        assert_eq!(stopped.became(&running), Some("running"));
    }

    proptest! {
        #[test]
        fn a_detail_of_whatever_shape_is_survived(seq: i64, detail in ".{0,64}") {
            let event = NewEvent { at_ms: 0, instance_id: String::new(), kind: String::new(), detail };
            drop(RecordedEvent::from(EventRow { seq, event }));
        }
    }
}
