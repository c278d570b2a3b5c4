//! Frames and greetings: how messages and stream bytes are cut out of a byte pipe.
//!
//! ```text
//!   greeting   marker (16)  nonce (16)
//!   frame      magic (2)  kind (1)  zero (1)  stream (4)  length (4)  payload (length)
//! ```
//!
//! Integers are little endian. The first two bytes of a greeting differ from a frame's magic, so a decoder that
//! stands at a frame boundary can tell them apart.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// First bytes of every frame.
pub const MAGIC: [u8; 2] = [0xA6, 0x15];
/// Length of a frame's header, bytes.
pub const HEADER_LEN: usize = 12;
/// Longest payload of a frame, bytes. Longer ones end the session.
pub const MAX_PAYLOAD: usize = 1 << 20;
/// Longest payload that a sender puts into one `Data` frame, bytes: what a neighbour has to wait for.
pub const MAX_DATA: usize = 256 << 10;
/// What the host's greeting begins with.
pub const HOST_MARKER: [u8; 16] = *b"\x05AEGIS-host-v1\x0d\x0a";
/// What the guest's greeting begins with.
pub const GUEST_MARKER: [u8; 16] = *b"\x05AEGISguest-v1\x0d\x0a";
/// Length of a greeting, bytes.
pub const GREETING_LEN: usize = 32;

/// A session's random number, chosen by the host for each connection.
pub type Nonce = [u8; 16];

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A JSON-RPC message; control pipe only.
    Rpc,
    /// The next bytes of a stream.
    Data,
    /// The sender will send no more on this stream. No payload.
    Eof,
    /// How many bytes of this stream the sender of this frame has consumed since the stream began: 8 bytes.
    Credit,
    /// The sender wants nothing more of this stream, in either direction. No payload.
    Reset,
}

impl Kind {
    fn to_byte(self) -> u8 {
        match self {
            Kind::Rpc => 1,
            Kind::Data => 2,
            Kind::Eof => 3,
            Kind::Credit => 4,
            Kind::Reset => 5,
        }
    }

    fn from_byte(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Rpc,
            2 => Kind::Data,
            3 => Kind::Eof,
            4 => Kind::Credit,
            5 => Kind::Reset,
            _ => return None,
        })
    }
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it carries.
    pub kind: Kind,
    /// The stream it belongs to; 0 for control messages.
    pub stream: u32,
    /// Its payload, at most [`MAX_PAYLOAD`] bytes.
    pub payload: Bytes,
}

impl Frame {
    /// A frame without payload.
    #[must_use]
    pub fn bare(kind: Kind, stream: u32) -> Frame {
        Frame { kind, stream, payload: Bytes::new() }
    }

    /// A frame that grants credit: `consumed` bytes of `stream` have been taken so far.
    #[must_use]
    pub fn credit(stream: u32, consumed: u64) -> Frame {
        Frame { kind: Kind::Credit, stream, payload: Bytes::copy_from_slice(&consumed.to_le_bytes()) }
    }

    /// The number in a [`Kind::Credit`] frame; `None` if the payload is not 8 bytes.
    #[must_use]
    pub fn consumed(&self) -> Option<u64> {
        Some(u64::from_le_bytes(self.payload.as_ref().try_into().ok()?))
    }

    /// The frame's header.
    #[must_use]
    pub fn header(&self) -> [u8; HEADER_LEN] {
        header(self.kind, self.stream, self.payload.len())
    }

    /// Appends the whole frame to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_slice(&self.header());
        out.put_slice(&self.payload);
    }
}

/// The header of a frame whose payload is `len` bytes long and sent separately.
///
/// `len` must not exceed [`MAX_PAYLOAD`]; the receiver refuses the frame otherwise.
#[must_use]
pub fn header(kind: Kind, stream: u32, len: usize) -> [u8; HEADER_LEN] {
    let mut out = [0; HEADER_LEN];
    out[..2].copy_from_slice(&MAGIC);
    out[2] = kind.to_byte();
    out[4..8].copy_from_slice(&stream.to_le_bytes());
    out[8..].copy_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
    out
}

/// A greeting: `marker` is [`HOST_MARKER`] or [`GUEST_MARKER`].
#[must_use]
pub fn greeting(marker: &[u8; 16], nonce: &Nonce) -> [u8; GREETING_LEN] {
    let mut out = [0; GREETING_LEN];
    out[..16].copy_from_slice(marker);
    out[16..].copy_from_slice(nonce);
    out
}

/// What a [`Decoder`] finds in the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// The peer began a session.
    Greeting(Nonce),
    /// A frame of the current session.
    Frame(Frame),
    /// The bytes are no frame. Everything up to the next greeting is skipped.
    Lost,
}

/// Cuts a byte pipe into greetings and frames. Never fails: what is neither is skipped.
///
/// Holds at most one unfinished frame; feed it and drain it in turn.
#[derive(Debug)]
pub struct Decoder {
    marker: [u8; 16],
    buffer: BytesMut,
    seeking: bool,
}

impl Decoder {
    /// A decoder that waits for a greeting with `marker`, the *peer's* one.
    #[must_use]
    pub fn new(marker: [u8; 16]) -> Decoder {
        Decoder { marker, buffer: BytesMut::new(), seeking: true }
    }

    /// Adds received bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The buffer itself, to read into without a copy.
    pub fn buffer_mut(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next item, or `None` if more bytes are needed.
    pub fn next_item(&mut self) -> Option<Item> {
        if self.seeking {
            return self.seek();
        }
        let head: &[u8] = &self.buffer;
        let shown = head.len().min(2);
        if head[..shown] != MAGIC[..shown] {
            return self.lose();
        }
        let head: [u8; HEADER_LEN] = head.get(..HEADER_LEN)?.try_into().ok()?;
        let (kind, stream, len) = match parse_header(&head) {
            Some(parsed) => parsed,
            None => return self.lose(),
        };
        if self.buffer.len() < HEADER_LEN + len {
            self.buffer.reserve(HEADER_LEN + len - self.buffer.len());
            return None;
        }
        self.buffer.advance(HEADER_LEN);
        let payload = self.buffer.split_to(len).freeze();
        Some(Item::Frame(Frame { kind, stream, payload }))
    }

    /// How many bytes of an unfinished frame are still missing; 0 at a boundary.
    #[must_use]
    pub fn missing(&self) -> usize {
        let Some(head) = self.buffer.get(..HEADER_LEN).and_then(|head| head.try_into().ok()) else {
            return 0;
        };
        match parse_header(head) {
            Some((_, _, len)) if !self.seeking => (HEADER_LEN + len).saturating_sub(self.buffer.len()),
            _ => 0,
        }
    }

    fn lose(&mut self) -> Option<Item> {
        // A greeting may stand right here: the peer began anew. That is no loss worth reporting, however it is cut.
        let shown = self.buffer.len().min(self.marker.len());
        if self.buffer[..shown] != self.marker[..shown] {
            self.seeking = true;
            return Some(Item::Lost);
        }
        if self.buffer.len() < GREETING_LEN {
            return None;
        }
        self.seeking = true;
        self.seek()
    }

    fn seek(&mut self) -> Option<Item> {
        let found = self.buffer.windows(16).position(|window| window == self.marker);
        match found {
            Some(at) => {
                self.buffer.advance(at);
                let nonce: Nonce = self.buffer.get(16..GREETING_LEN)?.try_into().ok()?;
                self.buffer.advance(GREETING_LEN);
                self.seeking = false;
                Some(Item::Greeting(nonce))
            }
            None => {
                // Keep what may be the beginning of a marker.
                let skip = self.buffer.len().saturating_sub(15);
                self.buffer.advance(skip);
                None
            }
        }
    }
}

fn parse_header(head: &[u8; HEADER_LEN]) -> Option<(Kind, u32, usize)> {
    if head[..2] != MAGIC || head[3] != 0 {
        return None;
    }
    let kind = Kind::from_byte(head[2])?;
    let stream = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    let len = u32::from_le_bytes([head[8], head[9], head[10], head[11]]) as usize;
    (len <= MAX_PAYLOAD).then_some((kind, stream, len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn drain(decoder: &mut Decoder) -> Vec<Item> {
        std::iter::from_fn(|| decoder.next_item()).collect()
    }

    fn any_frame() -> impl Strategy<Value = Frame> {
        let kind = prop_oneof![Just(Kind::Rpc), Just(Kind::Data), Just(Kind::Eof), Just(Kind::Reset)];
        (kind, any::<u32>(), proptest::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(kind, stream, payload)| Frame { kind, stream, payload: payload.into() })
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut(frames in proptest::collection::vec(any_frame(), 0..8), cut in 1usize..50) {
            let mut wire = BytesMut::from(&greeting(&HOST_MARKER, &[7; 16])[..]);
            for frame in &frames { frame.encode(&mut wire); }
            let mut decoder = Decoder::new(HOST_MARKER);
            let mut items = Vec::new();
            for chunk in wire.chunks(cut) { decoder.feed(chunk); items.extend(drain(&mut decoder)); }
            let mut expected = vec![Item::Greeting([7; 16])];
            expected.extend(frames.into_iter().map(Item::Frame));
            prop_assert_eq!(items, expected);
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_stay_bounded(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..20)) {
            let mut decoder = Decoder::new(GUEST_MARKER);
            for chunk in chunks {
                decoder.feed(&chunk);
                drain(&mut decoder);
                prop_assert!(decoder.buffer.len() <= MAX_PAYLOAD + HEADER_LEN);
            }
        }

        #[test]
        fn arbitrary_bytes_in_a_session_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut decoder = Decoder::new(GUEST_MARKER);
            decoder.feed(&greeting(&GUEST_MARKER, &[1; 16]));
            decoder.feed(&bytes);
            drain(&mut decoder);
        }

        #[test]
        fn a_returning_host_is_always_heard(cut_at in 0usize..4000, payload in 0usize..3000) {
            let mut old = BytesMut::from(&greeting(&HOST_MARKER, &[1; 16])[..]);
            Frame { kind: Kind::Data, stream: 9, payload: vec![0xA6; payload].into() }.encode(&mut old);
            old.truncate(cut_at);
            let mut decoder = Decoder::new(HOST_MARKER);
            decoder.feed(&old);
            drain(&mut decoder);
            decoder.feed(&vec![0; MAX_PAYLOAD]);
            decoder.feed(&greeting(&HOST_MARKER, &[2; 16]));
            let items = drain(&mut decoder);
            prop_assert_eq!(items.last(), Some(&Item::Greeting([2; 16])));
        }
    }

    #[test]
    fn a_greeting_at_a_boundary_begins_anew_without_loss() {
        let mut decoder = Decoder::new(HOST_MARKER);
        for nonce in [[1; 16], [2; 16]] {
            decoder.feed(&greeting(&HOST_MARKER, &nonce));
            assert_eq!(drain(&mut decoder), vec![Item::Greeting(nonce)]);
        }
    }

    #[test]
    fn a_greeting_that_arrives_in_pieces_is_no_loss_either() {
        for cut in 1..GREETING_LEN {
            let mut decoder = Decoder::new(HOST_MARKER);
            decoder.feed(&greeting(&HOST_MARKER, &[1; 16]));
            let again = greeting(&HOST_MARKER, &[2; 16]);
            let mut items = drain(&mut decoder);
            for part in [&again[..cut], &again[cut..]] {
                decoder.feed(part);
                items.extend(drain(&mut decoder));
            }
            assert_eq!(items, [Item::Greeting([1; 16]), Item::Greeting([2; 16])], "cut at {cut}");
        }
        let mut decoder = Decoder::new(HOST_MARKER);
        decoder.feed(&greeting(&HOST_MARKER, &[1; 16]));
        decoder.feed(&HOST_MARKER[..9]);
        assert_eq!(drain(&mut decoder), [Item::Greeting([1; 16])]);
        decoder.feed(b"other");
        assert_eq!(drain(&mut decoder), [Item::Lost]);
    }

    #[test]
    fn an_oversized_length_is_refused() {
        let mut decoder = Decoder::new(HOST_MARKER);
        decoder.feed(&greeting(&HOST_MARKER, &[1; 16]));
        decoder.feed(&header(Kind::Data, 1, MAX_PAYLOAD + 1));
        assert_eq!(drain(&mut decoder), vec![Item::Greeting([1; 16]), Item::Lost]);
    }
}
