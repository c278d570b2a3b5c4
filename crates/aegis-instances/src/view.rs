//! An instance as others see it: a snapshot.

use std::sync::Arc;

use crate::lifecycle::State;
use crate::reason::StopReason;
use crate::spec::InstanceSpec;

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
}

impl View {
    /// Its handle, or else its id.
    #[must_use]
    pub fn name(&self) -> &str {
        self.handle.as_deref().unwrap_or(&self.id)
    }
}

/// The word for a state.
#[must_use]
pub fn word(state: State) -> &'static str {
    match state {
        State::Stopped => "stopped",
        State::Starting => "starting",
        State::Running => "running",
        State::Paused => "paused",
    }
}
