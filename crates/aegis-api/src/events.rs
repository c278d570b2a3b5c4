//! Events: what happened to instances, in the order in which it was stored.
//!
//! `GET /v1/events` is a stream of server-sent events: `id` is the event's number, `event` its kind, `data` an
//! [`InstanceEvent`] as JSON. A client that lost its connection goes on with the header `Last-Event-ID`. If events
//! after that number are no longer kept, the first thing it hears is `event: missed` with [`Missed`].

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::instance::StopReason;

/// The kind of the stream's own notice that events are missing.
pub const MISSED: &str = "missed";

/// Something that happened to an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InstanceEvent {
    /// Its number: rises by one from event to event, and is never used twice.
    pub seq: u64,
    /// When, RFC 3339.
    pub at: String,
    /// What: `created`, `starting`, `machine_started`, `running`, `paused`, `stopping`, `stopped`, `restored`, `disabled`,
    /// `enabled`, `deleted`, `ports`, `network` (what it may reach was changed), `network_limited` (it has met a bound; told
    /// once a minute), `network_down` and `network_up` (its gateway was lost and replaced); more may come.
    pub kind: String,
    /// Whose.
    pub instance_id: String,
    /// The instance's handle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<String>,
    /// Number of the instance's boot; 0 before the first.
    pub boot: u32,
    /// Why it stopped, or stops.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<StopReason>,
    /// Exit code of its command, once that has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// More about it, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Events that were asked for and are no longer kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Missed {
    /// Number of the first.
    pub from: u64,
    /// Number of the last.
    pub to: u64,
}
