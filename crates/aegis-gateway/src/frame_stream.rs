//! Ethernet frames on QEMU's stream socket: each is preceded by its length, a big-endian `u32` (`-netdev stream`).

use std::io::{self, ErrorKind, Read, Write};

use smoltcp::wire::{ETHERNET_HEADER_LEN, EthernetFrame, EthernetProtocol};

use crate::addressing::{GATEWAY, GUEST, MTU};

/// Bytes of a length.
const PREFIX: usize = 4;
/// Longest frame that is understood; a longer one is passed over.
const MOST_FRAME: usize = ETHERNET_HEADER_LEN + MTU + 64;
/// What QEMU may send at most (`NET_BUFSIZE` and its header); anything else is no frame at all.
const MOST_SENT: usize = 128 << 10;
/// How much is read at a time.
const READ: usize = 256 << 10;
/// How much may wait to be sent before flows are told to wait. A frame that answers another goes beyond it.
const MOST_WAITING: usize = 1 << 20;
/// How much may wait at all: then frames are lost, as on any wire.
const MOST_BUFFERED: usize = 2 * MOST_WAITING;

/// Frames from the guest.
#[derive(Debug, Default)]
pub(crate) struct FrameReader {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

/// Why there is nothing more to read.
#[derive(Debug)]
pub(crate) enum Ended {
    /// Nothing more at the moment.
    Blocked,
    /// The machine has gone.
    Closed,
}

impl FrameReader {
    /// Reads what is there, at most one buffer full.
    pub(crate) fn fill(&mut self, from: &mut impl Read) -> Result<(), Ended> {
        if self.buffer.is_empty() {
            self.buffer = vec![0; READ];
        }
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let room = self.buffer.get_mut(self.end..).unwrap_or_default();
        match from.read(room) {
            Ok(0) => Err(Ended::Closed),
            Ok(count) => {
                self.end += count;
                Ok(())
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                Err(Ended::Blocked)
            }
            Err(_) => Err(Ended::Closed),
        }
    }

    /// The next whole frame.
    pub(crate) fn next(&mut self) -> Result<Option<&[u8]>, Ended> {
        loop {
            let available = self.buffer.get(self.start..self.end).unwrap_or_default();
            let Some((prefix, rest)) = available.split_at_checked(PREFIX) else { return Ok(None) };
            let length = prefix.iter().fold(0usize, |sum, byte| sum << 8 | usize::from(*byte));
            if length > MOST_SENT {
                return Err(Ended::Closed);
            }
            if rest.len() < length {
                return Ok(None);
            }
            let begin = self.start + PREFIX;
            self.start = begin + length;
            if length <= MOST_FRAME {
                return Ok(self.buffer.get(begin..begin + length));
            }
        }
    }

    /// Whether there is memory to be given back.
    pub(crate) fn holds_memory(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Gives memory back when nothing is held.
    pub(crate) fn rest(&mut self) {
        if self.start == self.end {
            *self = FrameReader::default();
        }
    }
}

/// Frames to the guest.
#[derive(Debug, Default)]
pub(crate) struct FrameWriter {
    /// Made once and used again: what is behind `end` means nothing.
    buffer: Vec<u8>,
    sent: usize,
    end: usize,
    /// Frames that were lost because the guest took none.
    pub(crate) lost: u64,
    /// Frames and bytes so far.
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

impl FrameWriter {
    /// Whether flows may add more.
    pub(crate) fn has_room(&self) -> bool {
        self.end - self.sent < MOST_WAITING
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.end == self.sent
    }

    /// Adds a frame with a payload of this length, written by `fill`.
    pub(crate) fn frame<R>(
        &mut self,
        protocol: EthernetProtocol,
        length: usize,
        fill: impl FnOnce(&mut [u8]) -> R,
    ) -> R {
        self.packet(length, |bytes| (protocol, fill(bytes)))
    }

    /// Adds a frame with a payload of this length, written by `fill`, which then tells what it is.
    pub(crate) fn packet<R>(
        &mut self,
        length: usize,
        fill: impl FnOnce(&mut [u8]) -> (EthernetProtocol, R),
    ) -> R {
        if self.end - self.sent > MOST_BUFFERED {
            self.lost += 1;
            return fill(&mut vec![0; length]).1;
        }
        if self.sent >= MOST_WAITING {
            // Seldom, and then for many frames at once: what is left is moved.
            self.buffer.copy_within(self.sent..self.end, 0);
            self.end -= self.sent;
            self.sent = 0;
        }
        let whole = ETHERNET_HEADER_LEN + length;
        let (start, end) = (self.end, self.end + PREFIX + whole);
        if end > self.buffer.len() {
            self.buffer.resize(end.next_power_of_two(), 0);
        }
        self.end = end;
        self.packets += 1;
        self.bytes += whole as u64;
        let (prefix, frame) = self.buffer.get_mut(start..end).unwrap_or_default().split_at_mut(PREFIX);
        // No frame is near 4 GiB.
        prefix.copy_from_slice(&u32::try_from(whole).unwrap_or(0).to_be_bytes());
        let mut frame = EthernetFrame::new_unchecked(frame);
        let (protocol, result) = fill(frame.payload_mut());
        frame.set_dst_addr(GUEST);
        frame.set_src_addr(GATEWAY);
        frame.set_ethertype(protocol);
        result
    }

    /// Sends what it can. Returns whether all is sent.
    pub(crate) fn flush(&mut self, to: &mut impl Write) -> io::Result<bool> {
        while self.sent < self.end {
            match to.write(self.buffer.get(self.sent..self.end).unwrap_or_default()) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        self.sent = 0;
        self.end = 0;
        Ok(true)
    }

    /// Gives memory back when nothing waits.
    pub(crate) fn rest(&mut self) {
        if self.is_empty() {
            self.buffer = Vec::new();
            self.sent = 0;
            self.end = 0;
        }
    }

    #[cfg(test)]
    pub(crate) fn frames(&self) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        let mut rest = &self.buffer[..self.end];
        while let Some((prefix, tail)) = rest.split_at_checked(PREFIX) {
            let length = prefix.iter().fold(0usize, |sum, byte| sum << 8 | usize::from(*byte));
            all.push(tail[..length].to_vec());
            rest = &tail[length..];
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frames_arrive_whole_however_they_are_cut(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..2000), 0..20),
            piece in 1usize..4000,
        ) {
            let mut stream = Vec::new();
            for frame in &frames {
                stream.extend(u32::try_from(frame.len()).unwrap().to_be_bytes());
                stream.extend(frame);
            }
            let mut incoming = FrameReader::default();
            let mut found = Vec::new();
            for mut part in stream.chunks(piece) {
                incoming.fill(&mut part).unwrap();
                while let Some(frame) = incoming.next().unwrap() {
                    found.push(frame.to_vec());
                }
            }
            prop_assert_eq!(found, frames);
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_hold_no_more_than_a_buffer(bytes in prop::collection::vec(any::<u8>(), 1..4000)) {
            let mut incoming = FrameReader::default();
            let mut rest = bytes.as_slice();
            while !rest.is_empty() && incoming.fill(&mut rest).is_ok() {
                while let Ok(Some(_)) = incoming.next() {}
                prop_assert!(incoming.buffer.len() <= READ);
            }
        }
    }
}
