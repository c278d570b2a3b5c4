//! The workload's output, kept until the host has consumed it, so that a reconnect loses and repeats no byte.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use thiserror::Error;

/// The host named an offset that cannot be.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("cannot go on at byte {wanted}: bytes {kept_from} to {end} are at hand")]
pub struct ReplayError {
    /// The offset asked for.
    pub wanted: u64,
    /// The first byte still kept.
    pub kept_from: u64,
    /// The offset after the last byte.
    pub end: u64,
}

/// A run of a stream's bytes with their offsets: `start..end`, of which everything before `cursor` has been sent.
#[derive(Debug, Default)]
pub struct Replay {
    chunks: VecDeque<Bytes>,
    start: u64,
    cursor: u64,
    end: u64,
}

impl Replay {
    /// Appends freshly read output.
    pub fn push(&mut self, bytes: Bytes) {
        self.end += bytes.len() as u64;
        if !bytes.is_empty() {
            self.chunks.push_back(bytes);
        }
    }

    /// How many bytes are kept.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Whether everything has been acknowledged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The offset after the last byte: the stream's length once it has ended.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The next unsent bytes, at most `most`, which then count as sent; `None` if there are none.
    pub fn take_unsent(&mut self, most: usize) -> Option<Bytes> {
        let mut skip = self.cursor - self.start;
        for chunk in &self.chunks {
            let len = chunk.len() as u64;
            if skip >= len {
                skip -= len;
                continue;
            }
            let from = usize::try_from(skip).ok()?;
            let part = chunk.slice(from..chunk.len().min(from.saturating_add(most)));
            self.cursor += part.len() as u64;
            return (!part.is_empty()).then_some(part);
        }
        None
    }

    /// Forgets everything before `offset`. Older offsets than the last are ignored, later than sent are an error.
    ///
    /// # Errors
    /// [`ReplayError`] if `offset` has not been sent yet.
    pub fn acknowledge(&mut self, offset: u64) -> Result<(), ReplayError> {
        if offset > self.cursor {
            return Err(self.error(offset));
        }
        self.forget(offset);
        Ok(())
    }

    /// Goes on at `offset` for a host that has everything before it: forgets that, and sends the rest again.
    ///
    /// # Errors
    /// [`ReplayError`] if `offset` is not at hand any more, or does not exist yet.
    pub fn resume(&mut self, offset: u64) -> Result<(), ReplayError> {
        if offset < self.start || offset > self.end {
            return Err(self.error(offset));
        }
        self.forget(offset);
        self.cursor = offset;
        Ok(())
    }

    fn error(&self, wanted: u64) -> ReplayError {
        ReplayError { wanted, kept_from: self.start, end: self.end }
    }

    fn forget(&mut self, offset: u64) {
        while self.start < offset {
            let Some(front) = self.chunks.front_mut() else { return };
            let step = (offset - self.start).min(front.len() as u64);
            self.start += step;
            if step == front.len() as u64 {
                self.chunks.pop_front();
            } else {
                front.advance(usize::try_from(step).unwrap_or(0));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Op {
        Push(Vec<u8>),
        Take(usize),
        Ack(f64),
        Reconnect(f64),
    }

    fn any_op() -> impl Strategy<Value = Op> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..50).prop_map(Op::Push),
            (1usize..60).prop_map(Op::Take),
            (0.0..1.0).prop_map(Op::Ack),
            (0.0..1.0).prop_map(Op::Reconnect),
        ]
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a small length")]
    fn share(len: usize, part: f64) -> usize {
        (len as f64 * part) as usize
    }

    proptest! {
        #[test]
        fn a_host_that_comes_and_goes_sees_each_byte_once(ops in proptest::collection::vec(any_op(), 0..200)) {
            let mut replay = Replay::default();
            let (mut written, mut held) = (Vec::new(), Vec::new());
            let mut acked = 0;
            for op in ops {
                match op {
                    Op::Push(bytes) => { written.extend_from_slice(&bytes); replay.push(bytes.into()); }
                    Op::Take(most) => if let Some(part) = replay.take_unsent(most) { held.extend_from_slice(&part); },
                    Op::Ack(part) => { let to = share(held.len(), part); replay.acknowledge(to as u64).unwrap(); acked = acked.max(to); }
                    Op::Reconnect(part) => {
                        // The host lost what it held beyond some point that it had not acknowledged past.
                        held.truncate(acked + share(held.len() - acked, part));
                        acked = held.len();
                        replay.resume(held.len() as u64).unwrap();
                    }
                }
                prop_assert_eq!(&written[..held.len()], &held[..]);
            }
            while let Some(part) = replay.take_unsent(7) { held.extend_from_slice(&part); }
            prop_assert_eq!(written, held);
        }
    }

    #[test]
    fn offsets_out_of_reach_are_refused() {
        let mut replay = Replay::default();
        replay.push(Bytes::from_static(b"abcdef"));
        assert!(replay.acknowledge(1).is_err(), "not sent yet");
        replay.take_unsent(4);
        replay.acknowledge(3).unwrap();
        assert!(replay.resume(2).is_err(), "forgotten");
        assert!(replay.resume(7).is_err(), "in the future");
        replay.resume(3).unwrap();
        assert_eq!(replay.take_unsent(99), Some(Bytes::from_static(b"def")));
    }
}
