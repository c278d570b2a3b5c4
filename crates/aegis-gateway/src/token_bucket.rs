//! Token buckets: limits on bytes and packets per second.

use std::time::{Duration, Instant};

/// How much may pass at once after a rest: so much time's worth.
const BURST: Duration = Duration::from_millis(100);
/// What may pass where there is no bound.
const UNBOUNDED: usize = usize::MAX;

/// A bucket that fills with time.
#[derive(Debug, Clone)]
pub(crate) struct TokenBucket {
    per_second: Option<u64>,
    burst: f64,
    level: f64,
    filled: Instant,
}

impl TokenBucket {
    /// So much per second, of which at least `least` may pass at once; without a number, all.
    pub(crate) fn new(per_second: Option<u64>, least: u64, now: Instant) -> TokenBucket {
        #[allow(clippy::cast_precision_loss)] // A bound is no count.
        let burst = per_second.map_or(0.0, |rate| (rate as f64 * BURST.as_secs_f64()).max(least as f64));
        TokenBucket { per_second, burst, level: burst, filled: now }
    }

    /// How much may pass now.
    pub(crate) fn available(&mut self, now: Instant) -> usize {
        let Some(rate) = self.per_second else { return UNBOUNDED };
        let elapsed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = now;
        #[allow(clippy::cast_precision_loss)]
        let filled = self.level + elapsed * rate as f64;
        self.level = filled.min(self.burst);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        // Not negative, and not above the burst.
        let whole = self.level.max(0.0) as usize;
        whole
    }

    pub(crate) fn take(&mut self, count: usize) {
        if self.per_second.is_some() {
            #[allow(clippy::cast_precision_loss)]
            let count = count as f64;
            self.level -= count;
        }
    }
}

/// Bounds of both directions, for one turn of the gateway.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    outward: TokenBucket,
    inward: TokenBucket,
    /// Somebody had to wait.
    pub(crate) held: bool,
    /// How often.
    pub(crate) hits: u64,
    now: Instant,
}

/// How long who had to wait waits.
pub(crate) const PAUSE: Duration = Duration::from_millis(10);
/// A packet always passes whole.
const LEAST: u64 = 64 << 10;

impl RateLimiter {
    pub(crate) fn new(bandwidth: Option<u64>, now: Instant) -> RateLimiter {
        let bucket = TokenBucket::new(bandwidth, LEAST, now);
        RateLimiter { outward: bucket.clone(), inward: bucket, held: false, hits: 0, now }
    }

    /// A new turn begins.
    pub(crate) fn tick(&mut self, now: Instant) {
        self.now = now;
        self.held = false;
    }

    fn allow(bucket: &mut TokenBucket, held: &mut bool, hits: &mut u64, now: Instant) -> usize {
        let available = bucket.available(now);
        if available == 0 {
            *hits += u64::from(!*held);
            *held = true;
        }
        available
    }

    /// How much of the guest's may pass.
    pub(crate) fn outward(&mut self) -> usize {
        RateLimiter::allow(&mut self.outward, &mut self.held, &mut self.hits, self.now)
    }

    /// How much may pass to the guest.
    pub(crate) fn inward(&mut self) -> usize {
        RateLimiter::allow(&mut self.inward, &mut self.held, &mut self.hits, self.now)
    }

    pub(crate) fn take_outward(&mut self, count: usize) {
        self.outward.take(count);
    }

    pub(crate) fn take_inward(&mut self, count: usize) {
        self.inward.take(count);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_more_passes_than_the_rate_and_one_burst(
            rate in 1u64..10_000_000,
            steps in prop::collection::vec((0u64..500, 0usize..1_000_000), 1..100),
        ) {
            let begun = Instant::now();
            let mut now = begun;
            let mut bucket = TokenBucket::new(Some(rate), 10, begun);
            let mut passed = 0;
            for (wait, wanted) in steps {
                now += Duration::from_millis(wait);
                let count = wanted.min(bucket.available(now));
                bucket.take(count);
                passed += count;
            }
            let seconds = now.duration_since(begun).as_secs_f64();
            let most = rate as f64 * (seconds + BURST.as_secs_f64()) + 11.0;
            prop_assert!(passed as f64 <= most, "{passed} > {most}");
        }
    }
}
