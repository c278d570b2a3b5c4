//! What the fuzzer drives; see `fuzz/`.

use aegis_fuzz::{Bytes, Target};
use aegis_guest_protocol::frame::{Decoder, GUEST_MARKER, greeting};

use crate::{control, streams};

/// The decoder of a conversation that has begun.
fn begun() -> Decoder {
    let mut decoder = Decoder::new(GUEST_MARKER);
    decoder.feed(&greeting(&GUEST_MARKER, &[7; 16]));
    let _greeting = decoder.next_item();
    decoder
}

/// Pieces of what a guest sends on the pipe of its streams, while somebody reads them and writes.
///
/// # Panics
/// If more waits to be read than a guest has credit for.
pub fn bulk(bytes: &[u8]) {
    streams::fuzz(begun(), Bytes(bytes).pieces());
}

/// Pieces of what a guest sends on the pipe of its messages, while somebody waits for answers and events.
///
/// # Panics
/// If an event is told twice, or out of order.
pub fn messages(bytes: &[u8]) {
    control::fuzz(begun(), Bytes(bytes).pieces());
}

/// All of them by name; the seeds of each are in `fuzz/seeds/NAME`.
pub const TARGETS: [(&str, Target); 2] = [("link-bulk", bulk), ("link-messages", messages)];

#[cfg(test)]
mod tests {
    #[test]
    fn seeds() {
        aegis_fuzz::replay(&super::TARGETS);
    }
}
