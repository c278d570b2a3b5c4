//! Rows as stored.

/// How many of the newest events are kept.
pub const EVENTS_KEPT: u32 = 10_000;

/// One instance as stored. Times are milliseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceRow {
    /// The instance's identity.
    pub id: String,
    /// The name people gave it; unique among instances.
    pub handle: Option<String>,
    /// What was asked for: JSON, opaque here.
    pub spec: String,
    /// Whether it is allowed to run.
    pub enabled: bool,
    /// Its place in the life cycle, opaque here.
    pub state: String,
    /// The exit code of its last run.
    pub exit_code: Option<i32>,
    /// Why it stopped: JSON, opaque here.
    pub stop_reason: Option<String>,
    /// How to find its live VM again: JSON, opaque here.
    pub vm: Option<String>,
    /// How often it has been booted.
    pub boot: u32,
    /// When it was created.
    pub created_at_ms: i64,
    /// When this row last changed.
    pub updated_at_ms: i64,
    /// When somebody last used it.
    pub last_active_at_ms: i64,
    /// When it last stopped.
    pub stopped_at_ms: Option<i64>,
    /// When its command was last executed.
    pub started_at_ms: Option<i64>,
    /// Its ports that are reachable from the host: JSON, opaque here.
    pub ports: String,
}

/// An event to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// When it happened, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// The instance it is about.
    pub instance_id: String,
    /// What happened.
    pub kind: String,
    /// More about it: JSON, opaque here.
    pub detail: String,
}

/// An event as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRow {
    /// Its number: from 1, growing without gaps, never used twice.
    pub seq: i64,
    /// What was stored.
    pub event: NewEvent,
}
