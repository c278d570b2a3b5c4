//! Why a machine or its command ended, as the reason of a stop.

use aegis_guest_protocol::messages::ExitStatus;
use aegis_lifecycle::stop_reason::StopReason;
use aegis_vmm::End;

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
        ExitStatus::Code(code) => StopReason::new("exited", format!("the command exited with code {code}")),
        ExitStatus::Signal(signal) => {
            StopReason::new("exited", format!("the command was killed by signal {signal}"))
        }
    }
}

/// How a kernel panics that needs memory and finds no process to kill for it (`mm/oom_kill.c` of Linux).
const NOTHING_TO_KILL: &str = "System is deadlocked on memory";

/// The machine's end, when nobody had asked for it.
#[must_use]
pub fn died(end: &End) -> StopReason {
    match end {
        End::Panic(line) if line.contains(NOTHING_TO_KILL) => StopReason::new(
            "out_of_memory",
            "the guest ran out of memory, and there was nothing left in it that could be killed",
        ),
        End::Panic(line) => StopReason::new("kernel_panic", format!("the guest's kernel panicked: {line}")),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_for_want_of_memory_is_told_as_that() {
        let panic = |text: &str| died(&End::Panic(format!("Kernel panic - not syncing: {text}"))).code;
        assert_eq!(panic(NOTHING_TO_KILL), "out_of_memory");
        assert_eq!(panic("sysrq triggered crash"), "kernel_panic");
    }
}
