//! How fast the processor's counter of time (TSC) runs, which an emulated x86-64 guest reads as it is.

use std::time::{Duration, Instant};

/// How long is measured, twice.
const SPAN: Duration = Duration::from_millis(20);
/// How far the two may be apart, parts of a million: a few microseconds, of which a busy host may well lose more.
const MOST_APART: f64 = 100.0;
/// How often it is tried.
const TRIES: usize = 5;

/// Ticks in a millisecond; `None` if this host has no such counter, or does not trust it itself. Takes 40 milliseconds, on
/// a busy host some more.
#[must_use]
pub fn per_millisecond() -> Option<u32> {
    let known = "/sys/devices/system/clocksource/clocksource0/available_clocksource";
    let all = std::fs::read_to_string(known).ok()?;
    let trusted = all.split_whitespace().any(|one| one == "tsc");
    if trusted { (0..TRIES).find_map(|_| measure()) } else { None }
}

fn measure() -> Option<u32> {
    let mut readings = [reading()?; 3];
    for next in readings.iter_mut().skip(1) {
        std::thread::sleep(SPAN);
        *next = reading()?;
    }
    let rate = |from: (u64, Instant), to: (u64, Instant)| {
        #[allow(clippy::cast_precision_loss)] // Far below what a double holds exactly.
        let ticks = to.0.checked_sub(from.0)? as f64;
        Some(ticks / (to.1.duration_since(from.1).as_secs_f64() * 1000.0))
    };
    let (first, second) = (rate(readings[0], readings[1])?, rate(readings[1], readings[2])?);
    let whole = rate(readings[0], readings[2])?;
    let apart = (first - second).abs() / whole * 1e6;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Within these bounds.
    let found = (apart < MOST_APART && (1e5..1e8).contains(&whole)).then_some(whole.round() as u32);
    found
}

/// The counter, and the time at which it was read: the closest of a few pairs.
fn reading() -> Option<(u64, Instant)> {
    let pair = || {
        let (before, at, after) = (ticks()?, Instant::now(), ticks()?);
        Some((after.wrapping_sub(before), before, at))
    };
    let (apart, before, at) = (0..16).filter_map(|_| pair()).min_by_key(|(apart, ..)| *apart)?;
    Some((before + apart / 2, at))
}

/// The counter; `None` if this processor has none of this kind.
fn ticks() -> Option<u64> {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: reads a counter that every processor of this architecture has; Linux lets all programs read it, and
        // ends those with a signal that have asked it to (`PR_SET_TSC`), which this one has not.
        Some(unsafe { core::arch::x86_64::_rdtsc() })
    }
    #[cfg(not(target_arch = "x86_64"))]
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_runs_as_measured() {
        // A host that is too busy, or does not trust its counter, gives none.
        let Some(rate) = per_millisecond() else { return };
        let from = reading().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        let to = reading().unwrap();
        let expected = f64::from(rate) * to.1.duration_since(from.1).as_secs_f64() * 1000.0;
        let found = (to.0 - from.0) as f64;
        assert!((found - expected).abs() / expected < 0.001, "{found} instead of {expected}");
    }
}
