//! How much the guest works, from `/proc/stat`.

use std::time::Duration;

/// How often the guest looks.
pub const PERIOD: Duration = Duration::from_secs(5);
/// Work below this in a period is waiting, not work, milliseconds: a twentieth of a processor.
///
/// Measured under software emulation, where everything costs most, per period: an idle guest 0 to 20, with a Python HTTP
/// server that nobody asks 0 to 20, with a Python loop that sleeps 10 or 100 ms 0 to 20, with a shell loop of `sleep 1`
/// 120 to 130, with a busy loop 4500 to 4750.
pub const THRESHOLD_MS: u64 = 250;
/// Unit of `/proc/stat` (USER_HZ), milliseconds.
const TICK_MS: u64 = 10;

/// Processor time spent working since boot, over all processors, milliseconds.
#[must_use]
pub fn busy_ms(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line.split_ascii_whitespace().map_while(|field| field.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, …
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = ticks.as_slice() else { return None };
    let busy =
        [user, nice, system, irq, softirq].into_iter().try_fold(0u64, |sum, part| sum.checked_add(*part))?;
    busy.checked_mul(TICK_MS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn idle_time_is_no_work() {
        assert_eq!(busy_ms("cpu  10 1 5 99999 7 2 3 0 0 0\ncpu0 1 1 1 1\n"), Some(210));
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "(cpu )?[0-9 \n]{0,80}") {
            let _parsed = busy_ms(&text);
        }
    }
}
