//! Where the time of a start went.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A step of a start, for people; and how long it took.
pub type Step = (&'static str, Duration);

/// How a machine comes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartKind {
    /// It boots.
    Boot,
    /// From a template.
    Template,
    /// On a machine that was ready.
    Warm,
    /// From a machine that was forked.
    Fork,
    /// From a snapshot.
    Snapshot,
}

impl StartKind {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            StartKind::Boot => "boot",
            StartKind::Template => "template",
            StartKind::Warm => "spare",
            StartKind::Fork => "fork",
            StartKind::Snapshot => "snapshot",
        }
    }
}

/// Where the time of a start went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timings {
    /// How the machine came about.
    pub start: StartKind,
    /// The steps, in order.
    pub steps: Vec<Step>,
}

/// Takes the time between steps.
#[derive(Debug)]
pub struct Stopwatch {
    inner: Mutex<(Instant, Timings)>,
}

impl Stopwatch {
    /// One that begins now.
    pub fn start() -> Stopwatch {
        let timings = Timings { start: StartKind::Boot, steps: Vec::new() };
        Stopwatch { inner: Mutex::new((Instant::now(), timings)) }
    }

    /// Notes that a step has just ended.
    pub fn lap(&self, step: &'static str) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let took = now.saturating_duration_since(std::mem::replace(&mut inner.0, now));
        inner.1.steps.push((step, took));
    }

    /// Notes how the machine came about.
    pub fn note(&self, start: StartKind) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).1.start = start;
    }

    /// What was noted so far.
    pub fn timings(&self) -> Timings {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_follow_each_other_and_take_all_the_time() {
        let begun = Instant::now();
        let watch = Stopwatch::start();
        watch.lap("one");
        std::thread::sleep(Duration::from_millis(5));
        watch.lap("two");
        let timings = watch.timings();
        let names: Vec<_> = timings.steps.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["one", "two"]);
        assert!(timings.steps[1].1 >= Duration::from_millis(5));
        assert!(timings.steps.iter().map(|(_, took)| *took).sum::<Duration>() <= begun.elapsed());
    }
}
