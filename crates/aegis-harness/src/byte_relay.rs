//! Makes a virtio socket look like a virtio-serial port: a pipe of bytes that stays open while hosts come and go.
//!
//! The harness holds one end of a pair of sockets, and a thread carries bytes between the other end and whichever host is
//! connected. What was under way when a host goes is lost, as it is in a port: sessions begin with a greeting
//! (`aegis-guest-protocol`), and go on from what their ends say that they hold.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::host_listener::HostListener;

/// How much is carried at once, bytes.
const BUFFER: usize = 64 << 10;

/// A pair of sockets: for the harness, and for a relay.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

/// Carries bytes between `ours` and each host in turn that connects to this port, for good.
pub(crate) fn serve(listener: &HostListener, ours: &OwnedFd) -> io::Result<()> {
    loop {
        let host = listener.accept()?;
        discard(ours);
        // Whatever ends it, the next host is as welcome.
        let _ended = carry(host.as_fd(), ours.as_fd());
    }
}

/// Takes away what was said when nobody was there to hear.
fn discard(ours: &OwnedFd) {
    let mut buffer = [0; 4096];
    while matches!(rustix::io::read(ours, &mut buffer), Ok(1..)) {}
}

/// One direction.
struct Flow {
    buffer: Vec<u8>,
    held: Range<usize>,
    ended: bool,
}

impl Flow {
    fn new() -> Flow {
        Flow { buffer: vec![0; BUFFER], held: 0..0, ended: false }
    }

    fn wants_input(&self) -> bool {
        self.held.is_empty() && !self.ended
    }

    fn has_output(&self) -> bool {
        !self.held.is_empty()
    }

    fn step(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
        if self.wants_input() {
            match rustix::io::read(from, &mut *self.buffer) {
                Ok(0) => self.ended = true,
                Ok(count) => self.held = 0..count,
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        while self.has_output() {
            match rustix::io::write(to, self.buffer.get(self.held.clone()).unwrap_or_default()) {
                Ok(count) => self.held.start += count,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Carries bytes both ways until `host` has ended and all that it said has been passed on.
fn carry(host: BorrowedFd<'_>, ours: BorrowedFd<'_>) -> io::Result<()> {
    let (mut inward, mut outward) = (Flow::new(), Flow::new());
    while !inward.ended || inward.has_output() {
        let flags = |input: bool, output: bool| {
            let input = if input { PollFlags::IN } else { PollFlags::empty() };
            input | if output { PollFlags::OUT } else { PollFlags::empty() }
        };
        let of_host = flags(inward.wants_input(), outward.has_output());
        let of_ours = flags(outward.wants_input(), inward.has_output());
        // Nothing is wanted of a host that has gone: its hang-up would be told again and again.
        let mut waited: Vec<PollFd<'_>> = [(host, of_host), (ours, of_ours)]
            .into_iter()
            .filter(|(_, flags)| !flags.is_empty())
            .map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags))
            .collect();
        match poll(&mut waited, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        inward.step(host, ours)?;
        outward.step(ours, host)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes all, and waits where there is no room.
    fn say(to: &OwnedFd, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match rustix::io::write(to, bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::AGAIN) => {
                    poll(&mut [PollFd::new(to, PollFlags::OUT)], None).unwrap();
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn hear(from: &OwnedFd, count: usize) -> Vec<u8> {
        let mut heard = vec![0; count];
        let mut at = 0;
        while at < count {
            match rustix::io::read(from, &mut heard[at..]) {
                Ok(0) => panic!("it ended after {at} bytes"),
                Ok(read) => at += read,
                Err(Errno::AGAIN) => {
                    poll(&mut [PollFd::new(from, PollFlags::IN)], None).unwrap();
                }
                Err(error) => panic!("{error}"),
            }
        }
        heard
    }

    #[test]
    fn the_harness_sees_one_pipe_while_hosts_come_and_go() {
        let (harness, ours) = pair().unwrap();
        for round in 0..3u8 {
            let (host, end) = pair().unwrap();
            let ours = ours.try_clone().unwrap();
            let relay = std::thread::spawn(move || carry(end.as_fd(), ours.as_fd()));
            say(&host, &[round; 5]);
            assert_eq!(hear(&harness, 5), [round; 5]);
            say(&harness, &[round + 100; 7]);
            assert_eq!(hear(&host, 7), [round + 100; 7]);
            // More than any buffer holds, and the host goes before it has been taken.
            let last = vec![round; BUFFER * 8];
            let saying = std::thread::spawn({
                let last = last.clone();
                move || say(&host, &last)
            });
            assert_eq!(hear(&harness, last.len()), last);
            saying.join().unwrap();
            relay.join().unwrap().unwrap();
        }
    }

    #[test]
    fn a_host_that_is_there_hears_nothing_that_was_said_before() {
        let (harness, ours) = pair().unwrap();
        say(&harness, b"to nobody");
        discard(&ours);
        let (host, end) = pair().unwrap();
        std::thread::spawn(move || carry(end.as_fd(), ours.as_fd()));
        say(&harness, b"to you");
        assert_eq!(hear(&host, 6), b"to you");
    }
}
