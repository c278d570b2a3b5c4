//! How much the guest works, from `/proc/stat`.

use std::time::Duration;

/// How often the guest looks.
pub const PERIOD: Duration = Duration::from_secs(5);
/// Work below this share of a period is the guest's own housekeeping, milliseconds.
pub const THRESHOLD_MS: u64 = 100;
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
