//! Frames of an upgraded connection: the standard streams of a process, both ways, side by side.
//!
//! The client sends `POST …/exec` or `POST …/attach` with `Connection: Upgrade` and `Upgrade: aegis-stream`. The
//! reply is an ordinary error, or `101`, after which both sides send frames:
//!
//! ```text
//!   kind (1)  length (4, little endian)  payload (length)
//! ```

use bytes::{Buf, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::error::ApiError;
use crate::instance::{StopReason, TerminalSize, Timings};

/// Value of the `Upgrade` header.
pub const UPGRADE: &str = "aegis-stream";
/// Longest payload, bytes.
pub const MAX_PAYLOAD: usize = 1 << 20;
/// Length of a frame's header, bytes.
pub const HEADER_LEN: usize = 5;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// To the process: bytes for its standard input.
    Stdin(Bytes),
    /// To the process: its standard input ends.
    StdinEnd,
    /// To the process: its terminal changes its size.
    Resize(TerminalSize),
    /// To the process: a signal for its group.
    Signal(u8),
    /// To the client: the process has been executed.
    Started(Started),
    /// To the client: standard output.
    Stdout(Bytes),
    /// To the client: standard error.
    Stderr(Bytes),
    /// To the client: what its user should know meanwhile, for instance why nothing goes on.
    Notice(String),
    /// To the client: the process has ended, and all its output has been sent. The last frame.
    Exit(Exit),
    /// To the client: it went wrong. The last frame.
    Error(ApiError),
}

/// Payload of [`Frame::Started`], JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// The exec's id, or the instance's for its own command.
    pub id: String,
}

/// Payload of [`Frame::Exit`], JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code: 0–255, or 128 + n for signal n.
    pub code: i32,
    /// Why, where there is more to say than the code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<StopReason>,
    /// Where the time of the start went, if it is an instance's own command and the daemon that started it still runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timings: Option<Timings>,
}

/// The bytes are no frame.
#[derive(Debug, Error)]
pub enum FrameError {
    /// Longer than allowed.
    #[error("a frame of {0} bytes is too long")]
    TooLong(usize),
    /// Unknown kind, or a payload that does not fit it.
    #[error("a frame of kind {0} makes no sense")]
    Malformed(u8),
}

impl Frame {
    fn kind(&self) -> u8 {
        match self {
            Frame::Stdin(_) => 0,
            Frame::StdinEnd => 1,
            Frame::Resize(_) => 2,
            Frame::Signal(_) => 3,
            Frame::Started(_) => 4,
            Frame::Stdout(_) => 5,
            Frame::Stderr(_) => 6,
            Frame::Exit(_) => 7,
            Frame::Error(_) => 8,
            Frame::Notice(_) => 9,
        }
    }

    fn payload(&self) -> Bytes {
        // These types always serialise.
        let json = |value: serde_json::Result<Vec<u8>>| Bytes::from(value.unwrap_or_default());
        match self {
            Frame::Stdin(bytes) | Frame::Stdout(bytes) | Frame::Stderr(bytes) => bytes.clone(),
            Frame::StdinEnd => Bytes::new(),
            Frame::Resize(size) => {
                let ([a, b], [c, d]) = (size.rows.to_le_bytes(), size.cols.to_le_bytes());
                Bytes::copy_from_slice(&[a, b, c, d])
            }
            Frame::Signal(signal) => Bytes::copy_from_slice(&[*signal]),
            Frame::Started(started) => json(serde_json::to_vec(started)),
            Frame::Exit(exit) => json(serde_json::to_vec(exit)),
            Frame::Error(error) => json(serde_json::to_vec(error)),
            Frame::Notice(text) => Bytes::copy_from_slice(text.as_bytes()),
        }
    }

    /// The frame's header and payload, to be written one after the other. Payloads are at most [`MAX_PAYLOAD`].
    #[must_use]
    pub fn encode(&self) -> ([u8; HEADER_LEN], Bytes) {
        let payload = self.payload();
        let mut header = [self.kind(), 0, 0, 0, 0];
        header[1..].copy_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
        (header, payload)
    }

    fn parse(kind: u8, payload: Bytes) -> Option<Frame> {
        Some(match (kind, payload.as_ref()) {
            (0, _) => Frame::Stdin(payload),
            (1, []) => Frame::StdinEnd,
            (2, &[a, b, c, d]) => Frame::Resize(TerminalSize {
                rows: u16::from_le_bytes([a, b]),
                cols: u16::from_le_bytes([c, d]),
            }),
            (3, &[signal]) => Frame::Signal(signal),
            (4, json) => Frame::Started(serde_json::from_slice(json).ok()?),
            (5, _) => Frame::Stdout(payload),
            (6, _) => Frame::Stderr(payload),
            (7, json) => Frame::Exit(serde_json::from_slice(json).ok()?),
            (8, json) => Frame::Error(serde_json::from_slice(json).ok()?),
            (9, text) => Frame::Notice(std::str::from_utf8(text).ok()?.to_owned()),
            _ => return None,
        })
    }

    /// Cuts the next frame off the front of `buffer`; `None` if it is not whole yet.
    ///
    /// # Errors
    /// [`FrameError`]; the connection is of no further use.
    pub fn decode(buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let Some(&[kind, a, b, c, d]) = buffer.get(..HEADER_LEN) else { return Ok(None) };
        let len = u32::from_le_bytes([a, b, c, d]) as usize;
        if len > MAX_PAYLOAD {
            return Err(FrameError::TooLong(len));
        }
        if buffer.len() < HEADER_LEN + len {
            buffer.reserve(HEADER_LEN + len - buffer.len());
            return Ok(None);
        }
        buffer.advance(HEADER_LEN);
        let payload = buffer.split_to(len).freeze();
        Frame::parse(kind, payload).map(Some).ok_or(FrameError::Malformed(kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;
    use proptest::prelude::*;

    fn any_frame() -> impl Strategy<Value = Frame> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from);
        prop_oneof![
            bytes().prop_map(Frame::Stdin),
            Just(Frame::StdinEnd),
            any::<(u16, u16)>().prop_map(|(rows, cols)| Frame::Resize(TerminalSize { rows, cols })),
            any::<u8>().prop_map(Frame::Signal),
            ".{0,9}".prop_map(|id| Frame::Started(Started { id })),
            bytes().prop_map(Frame::Stdout),
            bytes().prop_map(Frame::Stderr),
            any::<i32>().prop_map(|code| Frame::Exit(Exit { code, reason: None, timings: None })),
            ".{0,9}".prop_map(Frame::Notice),
            ".{0,9}".prop_map(|text| Frame::Error(ApiError::new(ErrorCode::Internal, text))),
        ]
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut(frames in proptest::collection::vec(any_frame(), 0..8), cut in 1usize..40) {
            let mut wire = Vec::new();
            for frame in &frames {
                let (header, payload) = frame.encode();
                wire.extend_from_slice(&header);
                wire.extend_from_slice(&payload);
            }
            let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
            for chunk in wire.chunks(cut) {
                buffer.extend_from_slice(chunk);
                while let Some(frame) = Frame::decode(&mut buffer).unwrap() { found.push(frame); }
            }
            prop_assert_eq!(found, frames);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = Frame::decode(&mut buffer) {}
        }
    }
}
