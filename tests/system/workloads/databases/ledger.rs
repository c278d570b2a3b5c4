//! What a client has written to a server, one number after the other, and what became of each.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use aegis_tests::DEADLINE;

/// From one write to the next: the machine has other things to do as well.
const PACE: Duration = Duration::from_millis(10);
/// From one that failed to the next.
const PATIENCE: Duration = Duration::from_millis(200);
/// How many acknowledged writes show that a server is served again.
const ENOUGH: usize = 5;

#[derive(Debug, Default)]
struct State {
    /// The last number that was sent.
    begun: u64,
    /// All that were acknowledged.
    acknowledged: BTreeSet<u64>,
    /// Those of them that must be there.
    there: BTreeSet<u64>,
    /// Those that a restore took back.
    gone: BTreeSet<u64>,
    /// What was sent up to here may have been taken back, whenever its acknowledgement was read.
    taken_back: u64,
    /// How often a write was not acknowledged, and why last.
    failures: usize,
    failure: String,
}

/// A moment that something was copied at: not sooner than one number was acknowledged, not later than another was sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    acknowledged: u64,
    begun: u64,
}

/// All of that, shared with the client that writes.
#[derive(Debug, Clone)]
pub(super) struct Ledger {
    name: &'static str,
    state: Arc<Mutex<State>>,
    over: Arc<AtomicBool>,
}

impl Ledger {
    pub(super) fn new(name: &'static str) -> Ledger {
        Ledger { name, state: Arc::default(), over: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a client write until it is told to end. What it could not write for sure it never sends again.
    pub(super) fn keep(
        &self,
        mut write: impl FnMut(u64) -> Result<(), String> + Send + 'static,
    ) -> JoinHandle<()> {
        let ledger = self.clone();
        std::thread::spawn(move || {
            while !ledger.over.load(Ordering::Relaxed) {
                let number = {
                    let mut state = ledger.state();
                    state.begun += 1;
                    state.begun
                };
                let written = write(number);
                let mut state = ledger.state();
                let pause = match written {
                    Ok(()) => {
                        state.acknowledged.insert(number);
                        if number > state.taken_back {
                            state.there.insert(number);
                        }
                        PACE
                    }
                    Err(error) => {
                        state.failures += 1;
                        state.failure = error;
                        PATIENCE
                    }
                };
                drop(state);
                std::thread::sleep(pause);
            }
        })
    }

    /// Tells the client to end.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// How often a write was not acknowledged.
    pub(super) fn failures(&self) -> usize {
        self.state().failures
    }

    /// How many were acknowledged.
    pub(super) fn len(&self) -> usize {
        self.state().acknowledged.len()
    }

    /// Waits until some more writes have been acknowledged.
    pub(super) fn goes_on(&self, after: &str) {
        let before = self.len();
        let what =
            || format!("{} takes writes after: {after}; last failure: {}", self.name, self.state().failure);
        let begun = std::time::Instant::now();
        while self.len() < before + ENOUGH {
            assert!(begun.elapsed() < DEADLINE, "not within {DEADLINE:?}: {}", what());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Does something that copies what is there, and says when that was.
    pub(super) fn moment_of(ledgers: [&Ledger; 2], copy: impl FnOnce()) -> [Moment; 2] {
        let before = ledgers.map(|one| one.state().acknowledged.last().copied().unwrap_or(0));
        copy();
        [0, 1].map(|at| Moment { acknowledged: before[at], begun: ledgers[at].state().begun })
    }

    /// Does something that puts everything back to these moments.
    pub(super) fn put_back(ledgers: [&Ledger; 2], moments: [Moment; 2], restore: impl FnOnce()) {
        let last = ledgers.map(|one| one.state().begun);
        restore();
        for (at, moment) in moments.into_iter().enumerate() {
            let mut state = ledgers[at].state();
            let end = state.begun;
            state.there.retain(|number| *number <= moment.acknowledged || *number > end);
            // The last one may have been on its way when the restore began, and have come after it.
            state.gone.extend(moment.begun + 1..last[at]);
            state.taken_back = end;
        }
    }

    /// What a server has now must agree with all that.
    pub(super) fn check(&self, after: &str, read: impl FnOnce() -> Vec<u64>) {
        let (there, gone) = {
            let state = self.state();
            (state.there.clone(), state.gone.clone())
        };
        let found = self.distinct(after, &read());
        let lost: Vec<_> = there.difference(&found).collect();
        assert!(lost.is_empty(), "{} lost after {after}: {lost:?} of {}", self.name, there.len());
        let undead: Vec<_> = gone.intersection(&found).collect();
        assert!(undead.is_empty(), "{} has what was taken back, after {after}: {undead:?}", self.name);
        let begun = self.state().begun;
        let foreign: Vec<_> = found.range(begun + 1..).collect();
        assert!(foreign.is_empty(), "{} has what was never sent, after {after}: {foreign:?}", self.name);
    }

    /// What a copy has that was made at `moment`: everything that was acknowledged before, nothing that was sent later, and
    /// no hole.
    pub(super) fn check_copy(&self, moment: Moment, what: &str, found: &[u64]) {
        let found = self.distinct(what, found);
        let last = found.last().copied().unwrap_or(0);
        assert!(last <= moment.begun, "{}: {what} has {last}, sent after {moment:?}", self.name);
        let state = self.state();
        let expected: BTreeSet<u64> = state.there.range(..=last.max(moment.acknowledged)).copied().collect();
        let lost: Vec<_> = expected.difference(&found).collect();
        assert!(lost.is_empty(), "{}: {what} lacks {lost:?}; {moment:?}", self.name);
    }

    fn distinct(&self, after: &str, found: &[u64]) -> BTreeSet<u64> {
        let distinct: BTreeSet<u64> = found.iter().copied().collect();
        assert_eq!(distinct.len(), found.len(), "{} has something twice after {after}", self.name);
        distinct
    }
}
