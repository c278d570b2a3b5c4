//! What a machine takes of the host, from `/proc`.

use crate::process::ProcessId;

/// Unit of processor times in `/proc` (USER_HZ), milliseconds.
const TICK_MS: u64 = 10;

/// What a machine takes of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resources {
    /// Processor time since its start, milliseconds.
    pub cpu_ms: u64,
    /// Memory that it has for itself, and its share of what it has in common with others, bytes: machines that were
    /// started from the same memory add up to what they take together, however much each has changed of it since.
    pub memory_bytes: u64,
}

impl Resources {
    /// Of a process, unless it has ended.
    pub(crate) fn of(process: &ProcessId) -> Option<Resources> {
        let read = |file: &str| std::fs::read(format!("/proc/{}/{file}", process.pid)).ok();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let (cpu_ms, start_ticks) = parse_stat(&text(read("stat")?))?;
        let memory_bytes = parse_rollup(&text(read("smaps_rollup")?))?;
        (start_ticks == process.start_ticks).then_some(Resources { cpu_ms, memory_bytes })
    }
}

/// Processor time and start time (fields 14, 15 and 22, see proc(5)).
fn parse_stat(stat: &str) -> Option<(u64, u64)> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let ticks = number(11)?.checked_add(number(12)?)?;
    Some((ticks.checked_mul(TICK_MS)?, number(19)?))
}

/// The proportional set size (`Pss`, see proc_pid_smaps(5)).
fn parse_rollup(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_process_is_measured() {
        let stat = format!("12 (a b) c) S {}", (1..40).map(|n| n.to_string()).collect::<Vec<_>>().join(" "));
        assert_eq!(parse_stat(&stat), Some(((11 + 12) * 10, 19)));
        let rollup =
            "5581-7ffc ---p 00000000 00:00 0 [rollup]\nRss:   3000 kB\nPss:    100 kB\nPss_Dirty: 7 kB\n";
        assert_eq!(parse_rollup(rollup), Some(102_400));
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".{0,120}") {
            let _parsed = (parse_stat(&text), parse_rollup(&text));
        }
    }
}
