//! What a machine takes of the host, from `/proc`.

use crate::process::ProcessId;

/// Unit of processor times in `/proc` (USER_HZ), milliseconds.
const TICK_MS: u64 = 10;

/// What a machine takes of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resources {
    /// Processor time since its start, milliseconds.
    pub cpu_ms: u64,
    /// Memory that is resident, bytes.
    pub memory_bytes: u64,
}

impl Resources {
    /// Of a process, unless it has ended.
    pub(crate) fn of(process: &ProcessId) -> Option<Resources> {
        let read = |file: &str| std::fs::read(format!("/proc/{}/{file}", process.pid)).ok();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let (cpu_ms, start_ticks) = parse_stat(&text(read("stat")?))?;
        let memory_bytes = parse_statm(&text(read("statm")?), rustix::param::page_size())?;
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

/// The resident part (the second field, in pages).
fn parse_statm(statm: &str, page_size: usize) -> Option<u64> {
    statm.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(page_size as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_process_is_measured() {
        let stat = format!("12 (a b) c) S {}", (1..40).map(|n| n.to_string()).collect::<Vec<_>>().join(" "));
        assert_eq!(parse_stat(&stat), Some(((11 + 12) * 10, 19)));
        assert_eq!(parse_statm("100 25 3 4 5 6 7\n", 4096), Some(102_400));
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".{0,120}") {
            let _parsed = (parse_stat(&text), parse_statm(&text, 4096));
        }
    }
}
