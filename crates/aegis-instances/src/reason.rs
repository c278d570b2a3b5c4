//! Why an instance stopped.

use aegis_guest_protocol::messages::ExitStatus;
use aegis_vmm::End;
use serde::{Deserialize, Serialize};

/// Code of a guest that fell silent.
pub(crate) const UNREACHABLE: &str = "guest_unreachable";

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

    pub(crate) fn stopped() -> StopReason {
        StopReason::new("stopped", "stopped on request")
    }

    pub(crate) fn disabled() -> StopReason {
        StopReason::new("disabled", "disabled on request")
    }

    pub(crate) fn idle() -> StopReason {
        StopReason::new(IDLE, "nobody used it for a while")
    }

    /// Whether idleness is the cause.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.code == IDLE
    }

    pub(crate) fn restarted() -> StopReason {
        StopReason::new(RESTARTED, "stopped to be started again")
    }

    /// Whether it is merely on its way to the next boot.
    #[must_use]
    pub(crate) fn is_restart(&self) -> bool {
        self.code == RESTARTED
    }

    /// Whether somebody asked for it, at once or for this moment.
    #[must_use]
    pub(crate) fn is_requested(&self) -> bool {
        ["stopped", "disabled", "daemon_stopped", "timeout", "lifetime"].contains(&self.code.as_str())
    }

    pub(crate) fn replaced() -> StopReason {
        StopReason::new("restored", "stopped to be put back to a snapshot")
    }

    pub(crate) fn deleted() -> StopReason {
        StopReason::new("deleted", "deleted on request")
    }

    pub(crate) fn daemon_stopped() -> StopReason {
        StopReason::new("daemon_stopped", "daemon stopped")
    }

    pub(crate) fn timeout() -> StopReason {
        StopReason::new("timeout", "its time was up")
    }

    pub(crate) fn lifetime() -> StopReason {
        StopReason::new("lifetime", "its lifetime was over")
    }

    pub(crate) fn resume_failed(error: &str) -> StopReason {
        StopReason::new("resume_failed", format!("the machine could not be resumed: {error}"))
    }

    pub(crate) fn unreachable(error: &dyn std::fmt::Display) -> StopReason {
        StopReason::new(UNREACHABLE, format!("the guest could not be reached: {error}"))
    }

    /// The command's own end.
    #[must_use]
    pub fn exited(status: ExitStatus, out_of_memory: bool) -> StopReason {
        if out_of_memory {
            return StopReason::new(
                "out_of_memory",
                "the guest ran out of memory and killed the command or a child of it",
            );
        }
        match status {
            ExitStatus::Code(code) => {
                StopReason::new("exited", format!("the command exited with code {code}"))
            }
            ExitStatus::Signal(signal) => {
                StopReason::new("exited", format!("the command was killed by signal {signal}"))
            }
        }
    }

    /// The machine's end, when nobody had asked for it.
    #[must_use]
    pub fn died(end: &End) -> StopReason {
        match end {
            End::Panic(line) => {
                StopReason::new("kernel_panic", format!("the guest's kernel panicked: {line}"))
            }
            End::Killed(9) => StopReason::new(
                "vmm_died",
                "the machine's process was killed (signal 9), by somebody or by the host for want of memory",
            ),
            End::Killed(signal) => {
                StopReason::new("vmm_died", format!("the machine's process was killed by signal {signal}"))
            }
            End::Exited(code, words) => {
                let said = if words.is_empty() { String::new() } else { format!(", saying: {words}") };
                StopReason::new(
                    "vmm_died",
                    format!("the machine's process ended by itself with code {code}{said}"),
                )
            }
            End::Gone => StopReason::new("vmm_died", "the machine's process is gone"),
        }
    }
}
