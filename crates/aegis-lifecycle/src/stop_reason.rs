//! Why an instance stopped.

use serde::{Deserialize, Serialize};

/// Code of a guest that fell silent.
pub const UNREACHABLE: &str = "guest_unreachable";

/// Code of an instance that nobody used.
const IDLE: &str = "idle";

/// Code of an instance that is stopped to be started again.
const RESTARTED: &str = "restarted";

/// A cause with a stable code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopReason {
    /// A stable word.
    pub code: String,
    /// A sentence for people.
    pub message: String,
    /// The end of the guest's console, where it explains something.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub console: Vec<String>,
}

impl StopReason {
    /// A cause without console lines.
    pub fn new(code: &str, message: impl Into<String>) -> StopReason {
        StopReason { code: code.to_owned(), message: message.into(), console: Vec::new() }
    }

    /// The same with console lines.
    #[must_use]
    pub fn with_console(mut self, console: Vec<String>) -> StopReason {
        self.console = console;
        self
    }

    /// Somebody asked for the stop.
    #[must_use]
    pub fn stopped() -> StopReason {
        StopReason::new("stopped", "stopped on request")
    }

    /// Somebody disabled it.
    #[must_use]
    pub fn disabled() -> StopReason {
        StopReason::new("disabled", "disabled on request")
    }

    /// Nobody used it.
    #[must_use]
    pub fn idle() -> StopReason {
        StopReason::new(IDLE, "nobody used it for a while")
    }

    /// Whether idleness is the cause.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.code == IDLE
    }

    /// It is stopped to be started again.
    #[must_use]
    pub fn restarted() -> StopReason {
        StopReason::new(RESTARTED, "stopped to be started again")
    }

    /// Whether it is merely on its way to the next boot.
    #[must_use]
    pub fn is_restart(&self) -> bool {
        self.code == RESTARTED
    }

    /// Whether somebody asked for it, at once or for this moment.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        ["stopped", "disabled", "daemon_stopped", "timeout", "lifetime"].contains(&self.code.as_str())
    }

    /// It is stopped so that its disk can be replaced by that of a snapshot.
    #[must_use]
    pub fn replaced() -> StopReason {
        StopReason::new("restored", "stopped to be put back to a snapshot")
    }

    /// Somebody deleted it.
    #[must_use]
    pub fn deleted() -> StopReason {
        StopReason::new("deleted", "deleted on request")
    }

    /// The daemon shuts down.
    #[must_use]
    pub fn daemon_stopped() -> StopReason {
        StopReason::new("daemon_stopped", "daemon stopped")
    }

    /// The time limit of its command is over.
    #[must_use]
    pub fn timeout() -> StopReason {
        StopReason::new("timeout", "its time was up")
    }

    /// Its lifetime is over.
    #[must_use]
    pub fn lifetime() -> StopReason {
        StopReason::new("lifetime", "its lifetime was over")
    }

    /// Its machine did not go on after a pause.
    #[must_use]
    pub fn resume_failed(error: &str) -> StopReason {
        StopReason::new("resume_failed", format!("the machine could not be resumed: {error}"))
    }

    /// Its guest does not answer.
    #[must_use]
    pub fn unreachable(error: &dyn std::fmt::Display) -> StopReason {
        StopReason::new(UNREACHABLE, format!("the guest could not be reached: {error}"))
    }
}
