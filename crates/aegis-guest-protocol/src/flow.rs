//! Flow control of one direction of a stream, as arithmetic.
//!
//! Both sides count bytes from the beginning of the stream. The receiver tells how many it has consumed; the
//! sender may be a window of bytes ahead of that and no more. Counting absolutely makes a repeated or late credit
//! harmless and lets a durable stream go on at a stated offset after a reconnect.

use thiserror::Error;

/// How far a process's output or input may be ahead of what the receiver has consumed, bytes.
pub const WINDOW: u64 = 1 << 20;
/// The same for a connection to a port: there may be thousands of those, and a guest may be small.
pub const CONNECTION_WINDOW: u64 = 256 << 10;

/// The peer broke the rules of flow control.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FlowError {
    /// More data than was granted.
    #[error("peer sent {0} bytes beyond its credit")]
    Overrun(u64),
    /// Credit for bytes that were never sent.
    #[error("peer acknowledged byte {acked} of a stream of {sent}")]
    AckBeyondSent {
        /// What the peer claims to have consumed.
        acked: u64,
        /// What was sent.
        sent: u64,
    },
}

/// The sending side of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sender {
    sent: u64,
    acked: u64,
    window: u64,
}

impl Sender {
    /// A stream that goes on at `offset`, everything before being consumed.
    #[must_use]
    pub fn at(offset: u64) -> Sender {
        Sender { sent: offset, acked: offset, window: WINDOW }
    }

    /// A stream that begins, with a window of its own.
    #[must_use]
    pub fn with_window(window: u64) -> Sender {
        Sender { window, ..Sender::at(0) }
    }

    /// How many bytes may be sent now.
    #[must_use]
    pub fn available(&self) -> u64 {
        self.window.saturating_sub(self.sent - self.acked)
    }

    /// Notes that `bytes` were sent; callers stay within [`Sender::available`].
    pub fn sent(&mut self, bytes: u64) {
        self.sent += bytes;
    }

    /// The offset of the next byte to send.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.sent
    }

    /// How many bytes the receiver is known to have consumed.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// Takes the receiver's word that it has consumed `consumed` bytes. An older number than the last is ignored.
    ///
    /// # Errors
    /// [`FlowError::AckBeyondSent`] if that many were never sent.
    pub fn acknowledged(&mut self, consumed: u64) -> Result<(), FlowError> {
        if consumed > self.sent {
            return Err(FlowError::AckBeyondSent { acked: consumed, sent: self.sent });
        }
        self.acked = self.acked.max(consumed);
        Ok(())
    }
}

/// The receiving side of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receiver {
    received: u64,
    consumed: u64,
    announced: u64,
    window: u64,
}

impl Receiver {
    /// A stream that goes on at `offset`, everything before being consumed.
    #[must_use]
    pub fn at(offset: u64) -> Receiver {
        Receiver { received: offset, consumed: offset, announced: offset, window: WINDOW }
    }

    /// A stream that begins, with a window of its own.
    #[must_use]
    pub fn with_window(window: u64) -> Receiver {
        Receiver { window, ..Receiver::at(0) }
    }

    /// Notes received data.
    ///
    /// # Errors
    /// [`FlowError::Overrun`] if the sender had no credit for it.
    pub fn received(&mut self, bytes: u64) -> Result<(), FlowError> {
        let limit = self.announced + self.window;
        let end = self.received.saturating_add(bytes);
        if end > limit {
            return Err(FlowError::Overrun(end - limit));
        }
        self.received = end;
        Ok(())
    }

    /// Notes that `bytes` were consumed. Returns the number to announce when it is worth a frame.
    pub fn consumed(&mut self, bytes: u64) -> Option<u64> {
        self.consumed = (self.consumed + bytes).min(self.received);
        if self.consumed - self.announced < self.window / 4 {
            return None;
        }
        self.announced = self.consumed;
        Some(self.consumed)
    }

    /// The offset of the next byte to arrive.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.received
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_honest_pair_never_errs_and_never_stalls(
            steps in proptest::collection::vec((1u64..300_000, 0u64..400_000), 1..200),
            connection in any::<bool>(),
        ) {
            let (mut sender, mut receiver) = if connection {
                (Sender::with_window(CONNECTION_WINDOW), Receiver::with_window(CONNECTION_WINDOW))
            } else {
                (Sender::at(5), Receiver::at(5))
            };
            let mut unread = 0;
            for (want, read) in steps {
                let bytes = want.min(sender.available());
                sender.sent(bytes);
                receiver.received(bytes).unwrap();
                unread += bytes;
                let taken = read.min(unread);
                unread -= taken;
                if let Some(credit) = receiver.consumed(taken) { sender.acknowledged(credit).unwrap(); }
                prop_assert!(sender.available() > 0 || unread > 0, "both sides wait");
            }
        }

        #[test]
        fn a_liar_is_found_out(extra in 1u64..1000) {
            let mut receiver = Receiver::at(0);
            receiver.received(WINDOW).unwrap();
            prop_assert_eq!(receiver.received(extra), Err(FlowError::Overrun(extra)));
            let mut sender = Sender::at(0);
            prop_assert!(sender.acknowledged(extra).is_err());
        }
    }
}
