//! Reports the limits that a guest meets, each at most once a minute.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How long after a bound was told of it is not told of again.
const QUIET: Duration = Duration::from_secs(60);

/// A bound of an instance's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitKind {
    /// Flows at a time.
    Flows,
    /// Names asked for in a second, or at a time.
    Names,
    /// Packets in a second.
    Packets,
    /// Bytes in a second.
    Bandwidth,
}

impl fmt::Display for LimitKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LimitKind::Flows => "flows at a time",
            LimitKind::Names => "names asked for",
            LimitKind::Packets => "packets in a second",
            LimitKind::Bandwidth => "bytes in a second",
        })
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct LimitEvents {
    news: BTreeSet<LimitKind>,
    told: BTreeMap<LimitKind, Instant>,
}

impl LimitEvents {
    /// One was met.
    pub(crate) fn met(&mut self, bound: LimitKind, now: Instant) {
        let quiet = self.told.get(&bound).is_some_and(|told| now.saturating_duration_since(*told) < QUIET);
        if !quiet {
            self.news.insert(bound);
        }
    }

    /// The next one to be told of.
    pub(crate) fn tell(&mut self, now: Instant) -> Option<LimitKind> {
        let bound = self.news.pop_first()?;
        self.told.insert(bound, now);
        Some(bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_told_of_once_in_a_while() {
        let (mut bounds, now) = (LimitEvents::default(), Instant::now());
        assert_eq!(bounds.tell(now), None);
        bounds.met(LimitKind::Names, now);
        bounds.met(LimitKind::Flows, now);
        bounds.met(LimitKind::Flows, now);
        assert_eq!((bounds.tell(now), bounds.tell(now)), (Some(LimitKind::Flows), Some(LimitKind::Names)));
        bounds.met(LimitKind::Flows, now + QUIET / 2);
        assert_eq!(bounds.tell(now + QUIET / 2), None);
        bounds.met(LimitKind::Flows, now + QUIET);
        assert_eq!(bounds.tell(now + QUIET), Some(LimitKind::Flows));
    }
}
