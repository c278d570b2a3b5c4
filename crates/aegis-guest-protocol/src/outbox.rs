//! Events that the guest owes the host: numbered, kept until acknowledged, sent again after a reconnect.

use std::collections::VecDeque;

/// Most events kept. Beyond it the oldest go: only an absent host lets it fill, and only `exec` exits fill it.
pub const CAPACITY: usize = 4096;

/// A queue of numbered events.
#[derive(Debug)]
pub struct Outbox<T> {
    kept: VecDeque<(u64, T)>,
    next: u64,
}

impl<T> Default for Outbox<T> {
    fn default() -> Self {
        Outbox { kept: VecDeque::new(), next: 1 }
    }
}

impl<T> Outbox<T> {
    /// Adds an event and returns its number; numbers begin at 1 and have no gaps.
    pub fn push(&mut self, event: T) -> u64 {
        let seq = self.next;
        self.next += 1;
        if self.kept.len() == CAPACITY {
            self.kept.pop_front();
        }
        self.kept.push_back((seq, event));
        seq
    }

    /// Forgets everything up to and including `seq`.
    pub fn acknowledge(&mut self, seq: u64) {
        while self.kept.front().is_some_and(|(kept, _)| *kept <= seq) {
            self.kept.pop_front();
        }
    }

    /// Begins anew, with those that are worth telling to another host.
    pub fn restart(&mut self, keep: impl Fn(&T) -> bool) {
        let kept = std::mem::take(&mut self.kept);
        self.next = 1;
        for (_, event) in kept.into_iter().filter(|(_, event)| keep(event)) {
            self.push(event);
        }
    }

    /// What the host has not acknowledged yet, oldest first.
    pub fn pending(&self) -> impl Iterator<Item = (u64, &T)> {
        self.kept.iter().map(|(seq, event)| (*seq, event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn another_host_hears_what_is_kept_with_numbers_from_one_on(events in proptest::collection::vec(0u8..9, 0..50), acked: u8) {
            let mut outbox = Outbox::default();
            for event in &events {
                outbox.push(*event);
            }
            outbox.acknowledge(acked.into());
            outbox.restart(|event| event % 2 == 0);
            let kept: Vec<u8> = events.iter().skip(acked.into()).copied().filter(|event| event % 2 == 0).collect();
            let pending: Vec<(u64, u8)> = outbox.pending().map(|(seq, event)| (seq, *event)).collect();
            prop_assert_eq!(pending, (1u64..).zip(kept).collect::<Vec<_>>());
        }

        #[test]
        fn nothing_is_lost_or_repeated_past_an_acknowledgement(ops in proptest::collection::vec(proptest::option::of(0u64..40), 0..200)) {
            let mut outbox = Outbox::default();
            let (mut pushed, mut acked) = (0u64, 0u64);
            for op in ops {
                match op {
                    None => { pushed += 1; prop_assert_eq!(outbox.push(()), pushed); }
                    Some(seq) => { outbox.acknowledge(seq); acked = acked.max(seq.min(pushed)); }
                }
                let pending: Vec<u64> = outbox.pending().map(|(seq, ())| seq).collect();
                prop_assert_eq!(pending, (acked + 1..=pushed).collect::<Vec<_>>());
            }
        }
    }
}
