//! Bounds that the guest has met, for whoever tells its owner: each once in a while, however often it is met.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How long after a bound was told of it is not told of again.
const QUIET: Duration = Duration::from_secs(60);

/// A bound of an instance's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Flows at a time.
    Flows,
    /// Names asked for in a second, or at a time.
    Names,
    /// Packets in a second.
    Packets,
    /// Bytes in a second.
    Bandwidth,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Bound::Flows => "flows at a time",
            Bound::Names => "names asked for",
            Bound::Packets => "packets in a second",
            Bound::Bandwidth => "bytes in a second",
        })
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Bounds {
    news: BTreeSet<Bound>,
    told: BTreeMap<Bound, Instant>,
}

impl Bounds {
    /// One was met.
    pub(crate) fn met(&mut self, bound: Bound, now: Instant) {
        let quiet = self.told.get(&bound).is_some_and(|told| now.saturating_duration_since(*told) < QUIET);
        if !quiet {
            self.news.insert(bound);
        }
    }

    /// The next one to be told of.
    pub(crate) fn tell(&mut self, now: Instant) -> Option<Bound> {
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
        let (mut bounds, now) = (Bounds::default(), Instant::now());
        assert_eq!(bounds.tell(now), None);
        bounds.met(Bound::Names, now);
        bounds.met(Bound::Flows, now);
        bounds.met(Bound::Flows, now);
        assert_eq!((bounds.tell(now), bounds.tell(now)), (Some(Bound::Flows), Some(Bound::Names)));
        bounds.met(Bound::Flows, now + QUIET / 2);
        assert_eq!(bounds.tell(now + QUIET / 2), None);
        bounds.met(Bound::Flows, now + QUIET);
        assert_eq!(bounds.tell(now + QUIET), Some(Bound::Flows));
    }
}
