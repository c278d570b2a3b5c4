//! What the fuzzer drives; see `fuzz/`.

use aegis_fuzz::{Bytes, Target};
use bytes::BytesMut;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::changes::Change;
use crate::frame::{Decoder, GUEST_MARKER, HEADER_LEN, HOST_MARKER, Item, MAX_PAYLOAD, greeting};
use crate::messages::{EventNote, HelloReply};
use crate::replay::Replay;
use crate::rpc::Message;

fn drain(decoder: &mut Decoder, items: &mut Vec<Item>) {
    while let Some(item) = decoder.next_item() {
        items.push(item);
    }
    assert!(decoder.buffer_mut().len() <= MAX_PAYLOAD + HEADER_LEN);
}

/// Pieces of what arrives on a pipe, in a conversation or before one.
///
/// # Panics
/// If it depends on the pieces which frames there are, a frame is written otherwise than it is read, or more is kept than
/// one frame.
pub fn frames(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    let mode = bytes.byte();
    let marker = if mode & 1 == 0 { GUEST_MARKER } else { HOST_MARKER };
    let begun = if mode & 2 == 0 { greeting(&marker, &[7; 16]).to_vec() } else { Vec::new() };
    let (mut whole, mut cut) = (Decoder::new(marker), Decoder::new(marker));
    let (mut at_once, mut in_pieces) = (Vec::new(), Vec::new());
    cut.feed(&begun);
    drain(&mut cut, &mut in_pieces);
    let mut all = begun;
    for piece in bytes.pieces() {
        all.extend_from_slice(piece);
        cut.feed(piece);
        drain(&mut cut, &mut in_pieces);
    }
    whole.feed(&all);
    drain(&mut whole, &mut at_once);
    assert_eq!(at_once, in_pieces);
    for item in at_once {
        let Item::Frame(frame) = item else { continue };
        let _credit = frame.consumed();
        let mut wire = BytesMut::new();
        frame.encode(&mut wire);
        let mut decoder = Decoder::new(marker);
        decoder.feed(&greeting(&marker, &[7; 16]));
        decoder.feed(&wire);
        let mut items = Vec::new();
        drain(&mut decoder, &mut items);
        assert_eq!(items.last(), Some(&Item::Frame(frame)));
    }
}

/// What can be read as this is the same after it was written.
fn same<T: Serialize + DeserializeOwned>(value: &serde_json::Value) {
    let Ok(read) = serde_json::from_value::<T>(value.clone()) else { return };
    let written = serde_json::to_value(&read).unwrap_or_else(|error| panic!("{error}"));
    let again = serde_json::from_value::<T>(written.clone()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(serde_json::to_value(&again).ok(), Some(written));
}

/// A message of a guest's, and what the host takes of it.
///
/// # Panics
/// If one is written otherwise than it is read.
pub fn message(bytes: &[u8]) {
    let Ok(message) = Message::parse(bytes) else { return };
    let written = message.to_json().unwrap_or_else(|error| panic!("{error}"));
    let again = Message::parse(&written).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(message, again);
    match message {
        Message::Notification { params, .. } | Message::Request { params, .. } => {
            same::<EventNote>(&params);
        }
        Message::Response { result: Ok(result), .. } => {
            same::<HelloReply>(&result);
            same::<crate::messages::HealthReply>(&result);
            same::<crate::messages::Started>(&result);
        }
        Message::Response { result: Err(_), .. } => {}
    }
}

/// Steps of a host that comes and goes and says anything about what it has.
///
/// # Panics
/// If a byte is lost, sent twice, or is another than was written.
pub fn replay(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    let (mut replay, mut written, mut at) = (Replay::default(), Vec::new(), 0);
    while !bytes.0.is_empty() {
        let (step, number) = (bytes.byte(), bytes.short());
        match step & 3 {
            0 => {
                let output = bytes.take(usize::from(number & 63));
                written.extend_from_slice(output);
                replay.push(output.to_vec().into());
            }
            1 => {
                if let Some(part) = replay.take_unsent(usize::from(number)) {
                    assert!(!part.is_empty() && part.len() <= usize::from(number));
                    assert_eq!(written.get(at..at + part.len()), Some(&*part));
                    at += part.len();
                }
            }
            2 => {
                let acknowledged = replay.acknowledge(number.into());
                assert_eq!(acknowledged.is_ok(), usize::from(number) <= at);
            }
            _ => {
                if replay.resume(number.into()).is_ok() {
                    at = usize::from(number);
                }
            }
        }
        assert_eq!(replay.end(), written.len() as u64);
        assert!(replay.len() <= replay.end());
    }
}

/// A change of files.
///
/// # Panics
/// If one is taken that leads out of what is served, or is written otherwise than it is read.
pub fn change(bytes: &[u8]) {
    let Some(change) = Change::decode(bytes) else { return };
    let spots = match &change {
        Change::Touched { at, .. } | Change::Made { at, .. } | Change::Gone { at, .. } => [at, at],
        Change::Moved { from, to, .. } => [from, to],
    };
    assert!(spots.iter().all(|spot| spot.is_sound()));
    let written = change.encode().unwrap_or_default();
    assert_eq!(Change::decode(&written), Some(change));
}

/// All of them by name; the seeds of each are in `fuzz/seeds/NAME`.
pub const TARGETS: [(&str, Target); 4] = [
    ("protocol-change", change),
    ("protocol-frames", frames),
    ("protocol-message", message),
    ("protocol-replay", replay),
];

#[cfg(test)]
mod tests {
    #[test]
    fn seeds() {
        aegis_fuzz::replay(&super::TARGETS);
    }
}
