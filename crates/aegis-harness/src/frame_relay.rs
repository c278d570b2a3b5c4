//! The network interface of a machine whose monitor has none for it: made here, with the host at its other end.
//!
//! Frames travel as QEMU's `-netdev stream` carries them, so that the gateway knows no difference: each preceded by its length,
//! a big-endian `u32`. Without a host they wait in the interface's queue, which drops what it has no room for.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use aegis_harness::machine_parts::Card;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::host_listener::HostListener;
use crate::threads::spawn;

/// Number of the port for frames.
const FRAMES: u32 = 4;
/// Longest frame, bytes: the longest packet that an interface may have, and its header.
const LONGEST: usize = (64 << 10) + 18;
/// The length before each frame, bytes.
const HEADER: usize = 4;

/// Makes the interface, and carries its frames for as long as the machine lives.
pub(crate) fn start(name: &str, card: Card) -> io::Result<()> {
    let tap = aegis_sys::network_interface::tap(name, card.mac, card.mtu)?;
    rustix::io::ioctl_fionbio(&tap, true)?;
    let listener = HostListener::bind(FRAMES)?;
    spawn("frames", move || {
        loop {
            let host = listener.accept()?;
            // Whatever ends it, the next host is as welcome.
            let _ended = carry(host.as_fd(), &tap);
        }
    })
}

/// Reads what is there; `None` if that is nothing yet.
fn read(from: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    match rustix::io::read(from, buffer) {
        Ok(count) => Ok(Some(count)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Frames from the host: the bytes that have come and are no whole frame yet.
struct Inward {
    buffer: Vec<u8>,
    held: Range<usize>,
}

impl Inward {
    /// Takes what the host has said, and hands on each frame that is whole. Returns whether there may be more.
    fn step(&mut self, host: BorrowedFd<'_>, mut hand_on: impl FnMut(&[u8])) -> io::Result<bool> {
        let room = self.buffer.get_mut(self.held.end..).unwrap_or_default();
        match read(host, room)? {
            None => return Ok(true),
            Some(0) => return Ok(false),
            Some(count) => self.held.end += count,
        }
        while let Some(frame) = self.next()? {
            hand_on(self.buffer.get(frame).unwrap_or_default());
        }
        self.buffer.copy_within(self.held.clone(), 0);
        self.held = 0..self.held.len();
        Ok(true)
    }

    /// Where the next whole frame is.
    fn next(&mut self) -> io::Result<Option<Range<usize>>> {
        let held = self.buffer.get(self.held.clone()).unwrap_or_default();
        let Some((header, rest)) = held.split_first_chunk::<HEADER>() else { return Ok(None) };
        let len = usize::try_from(u32::from_be_bytes(*header)).unwrap_or(usize::MAX);
        if len > LONGEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if rest.len() < len {
            return Ok(None);
        }
        let start = self.held.start + HEADER;
        self.held.start = start + len;
        Ok(Some(start..start + len))
    }
}

/// The frame that is on its way to the host.
struct Outward {
    frame: Vec<u8>,
    left: Range<usize>,
}

impl Outward {
    fn step(&mut self, tap: &File, host: BorrowedFd<'_>) -> io::Result<()> {
        loop {
            while !self.left.is_empty() {
                match rustix::io::write(host, self.frame.get(self.left.clone()).unwrap_or_default()) {
                    Ok(count) => self.left.start += count,
                    Err(Errno::AGAIN) => return Ok(()),
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            let Some(len) = read(tap, self.frame.get_mut(HEADER..).unwrap_or_default())? else {
                return Ok(());
            };
            let header = u32::try_from(len).unwrap_or(0).to_be_bytes();
            self.frame.iter_mut().zip(header).for_each(|(to, from)| *to = from);
            self.left = 0..HEADER + len;
        }
    }
}

/// Carries frames both ways until the host goes, or says what is no frame.
fn carry(host: BorrowedFd<'_>, tap: &File) -> io::Result<()> {
    let mut inward = Inward { buffer: vec![0; 2 * (HEADER + LONGEST)], held: 0..0 };
    let mut outward = Outward { frame: vec![0; HEADER + LONGEST], left: 0..0 };
    loop {
        let sending = !outward.left.is_empty();
        let of_host = PollFlags::IN | if sending { PollFlags::OUT } else { PollFlags::empty() };
        let of_tap = if sending { PollFlags::empty() } else { PollFlags::IN };
        let mut waited = [PollFd::from_borrowed_fd(host, of_host), PollFd::new(tap, of_tap)];
        match poll(&mut waited, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let hand_on = |frame: &[u8]| {
            // An interface that is down takes none.
            let _dropped = rustix::io::write(tap, frame);
        };
        if !inward.step(host, hand_on)? {
            return Ok(());
        }
        match outward.step(tap, host) {
            // Nor does one that is down send any.
            Err(error) if error.raw_os_error() == Some(Errno::BADFD.raw_os_error()) => {}
            other => other?,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use proptest::prelude::*;

    use super::*;

    fn inward() -> Inward {
        Inward { buffer: vec![0; 2 * (HEADER + LONGEST)], held: 0..0 }
    }

    #[test]
    fn a_length_that_no_frame_has_ends_the_connection() {
        let (mut host, end) = UnixStream::pair().unwrap();
        host.write_all(&u32::MAX.to_be_bytes()).unwrap();
        assert!(inward().step(end.as_fd(), |_| panic!("no frame")).is_err());
    }

    proptest! {
        #[test]
        fn frames_arrive_whole_however_they_are_cut(
            frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..2000), 1..20),
            cuts in proptest::collection::vec(1usize..3000, 1..40),
        ) {
            let said: Vec<u8> = frames
                .iter()
                .flat_map(|frame| [&u32::try_from(frame.len()).unwrap().to_be_bytes()[..], frame].concat())
                .collect();
            let (mut host, end) = UnixStream::pair().unwrap();
            end.set_nonblocking(true).unwrap();
            let (mut inward, mut heard) = (inward(), Vec::new());
            let mut left = &said[..];
            for cut in cuts.iter().cycle() {
                if left.is_empty() {
                    break;
                }
                let (now, later) = left.split_at((*cut).min(left.len()));
                host.write_all(now).unwrap();
                left = later;
                prop_assert!(inward.step(end.as_fd(), |frame| heard.push(frame.to_vec())).unwrap());
            }
            prop_assert_eq!(heard, frames);
            drop(host);
            prop_assert!(!inward.step(end.as_fd(), |_| ()).unwrap());
        }
    }
}
