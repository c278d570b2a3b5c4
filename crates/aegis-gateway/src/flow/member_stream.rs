//! A connection between the gateways of two members of a group: a pair of unix sockets.
//!
//! Unix sockets know no reset: whatever ends, ends in good order. So that half an answer is not taken for a whole one,
//! bytes travel in chunks with their length before them (two bytes, the high one first), and one of length 0 is the
//! end. An end without that is a reset. Before all that, one byte tells how the connection went: a [`ConnectOutcome`].

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};

/// Length of a chunk's head.
const HEAD: usize = 2;

/// How a connection to a member went: the first byte that its asker reads. An end without one means that whoever was to
/// see to it has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectOutcome {
    /// The member has taken it.
    Connected,
    /// The member, or its policy, has refused it.
    Refused,
    /// The member cannot be reached.
    Unreachable,
}

impl ConnectOutcome {
    /// The byte.
    #[must_use]
    pub fn byte(self) -> u8 {
        match self {
            ConnectOutcome::Connected => b'c',
            ConnectOutcome::Refused => b'r',
            ConnectOutcome::Unreachable => b'u',
        }
    }

    fn check(byte: u8) -> io::Result<()> {
        match byte {
            b'c' => Ok(()),
            b'r' => Err(ErrorKind::ConnectionRefused.into()),
            _ => Err(ErrorKind::HostUnreachable.into()),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Member<S> {
    pub(crate) socket: S,
    /// What was read of a chunk's head.
    head: ([u8; HEAD], usize),
    /// What is still to be read of a chunk.
    to_read: usize,
    ended: bool,
    /// What is still to be written of a chunk: of its head, and of what follows.
    unsent: ([u8; HEAD], usize),
    to_write: usize,
}

impl<S: Read + Write> Member<S> {
    pub(crate) fn new(socket: S) -> Member<S> {
        Member { socket, head: ([0; HEAD], 0), to_read: 0, ended: false, unsent: ([0; HEAD], 0), to_write: 0 }
    }

    /// Reads how the connection went.
    ///
    /// # Errors
    /// If it went wrong, or it is not decided.
    pub(crate) fn verdict(&mut self) -> io::Result<()> {
        let mut byte = [0];
        match self.socket.read(&mut byte)? {
            0 => Err(ErrorKind::HostUnreachable.into()),
            _ => ConnectOutcome::check(byte[0]),
        }
    }

    /// Tells how the connection went.
    ///
    /// # Errors
    /// If nobody waits for that any more.
    pub(crate) fn tell(&mut self, verdict: ConnectOutcome) -> io::Result<()> {
        // The first byte always finds room.
        self.socket.write(&[verdict.byte()]).map(drop)
    }

    /// Ends what is sent.
    ///
    /// # Errors
    /// If there is no room for that now, or nobody reads any more.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        if self.unsent.1 == 0 {
            self.unsent = ([0; HEAD], HEAD);
        }
        while self.unsent.1 > 0 {
            let rest = self.unsent.0.get(HEAD - self.unsent.1..).unwrap_or_default();
            self.unsent.1 -= self.socket.write(rest)?;
        }
        Ok(())
    }

    /// Takes what has come of a head.
    fn begin_chunk(&mut self) {
        if self.head.1 == HEAD {
            self.to_read = usize::from(u16::from_be_bytes(self.head.0));
            self.ended |= self.to_read == 0;
            self.head.1 = 0;
        }
    }
}

impl<S: Read + Write> Read for Member<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.ended && !buffer.is_empty() {
            let wanted = self.to_read.min(buffer.len());
            let whole = wanted == self.to_read;
            let (head, have) = &mut self.head;
            let next = head.get_mut(*have..).filter(|_| whole).unwrap_or_default();
            let mut parts =
                [IoSliceMut::new(buffer.get_mut(..wanted).unwrap_or_default()), IoSliceMut::new(next)];
            let count = self.socket.read_vectored(&mut parts)?;
            if count == 0 {
                return Err(ErrorKind::ConnectionReset.into());
            }
            let taken = count.min(wanted);
            self.to_read -= taken;
            self.head.1 += count - taken;
            self.begin_chunk();
            if taken > 0 {
                return Ok(taken);
            }
        }
        Ok(0)
    }
}

impl<S: Read + Write> Write for Member<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.to_write == 0 && !bytes.is_empty() {
            let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
            self.unsent = (length.to_be_bytes(), HEAD);
            self.to_write = length.into();
        }
        let head = self.unsent.0.get(HEAD - self.unsent.1..).unwrap_or_default();
        let chunk = bytes.get(..bytes.len().min(self.to_write)).unwrap_or_default();
        let count = self.socket.write_vectored(&[IoSlice::new(head), IoSlice::new(chunk)])?;
        let of_head = count.min(head.len());
        self.unsent.1 -= of_head;
        self.to_write -= count - of_head;
        match count - of_head {
            0 if !bytes.is_empty() => Err(ErrorKind::WouldBlock.into()),
            sent => Ok(sent),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use proptest::prelude::*;

    use super::*;

    fn pair() -> (Member<UnixStream>, Member<UnixStream>) {
        let (one, other) = UnixStream::pair().unwrap();
        one.set_nonblocking(true).unwrap();
        other.set_nonblocking(true).unwrap();
        (Member::new(one), Member::new(other))
    }

    #[test]
    fn an_end_is_told_from_a_reset() {
        let (mut one, mut other) = pair();
        assert_eq!(one.write(b"abc").unwrap(), 3);
        one.end().unwrap();
        drop(one);
        let mut buffer = [0; 10];
        assert_eq!(other.read(&mut buffer).unwrap(), 3);
        assert_eq!((other.read(&mut buffer).unwrap(), other.read(&mut buffer).unwrap()), (0, 0));
        let (mut one, mut other) = pair();
        assert_eq!(one.write(b"abc").unwrap(), 3);
        drop(one);
        assert_eq!(other.read(&mut buffer).unwrap(), 3);
        assert_eq!(other.read(&mut buffer).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }

    #[test]
    fn what_became_of_it_is_told_first() {
        for (verdict, kind) in [
            (ConnectOutcome::Connected, None),
            (ConnectOutcome::Refused, Some(ErrorKind::ConnectionRefused)),
            (ConnectOutcome::Unreachable, Some(ErrorKind::HostUnreachable)),
        ] {
            let (mut one, mut other) = pair();
            assert_eq!(other.verdict().unwrap_err().kind(), ErrorKind::WouldBlock);
            one.tell(verdict).unwrap();
            assert_eq!(other.verdict().err().map(|error| error.kind()), kind);
        }
        let (one, mut other) = pair();
        drop(one);
        assert_eq!(other.verdict().unwrap_err().kind(), ErrorKind::HostUnreachable);
    }

    #[test]
    fn more_than_fits_waits_and_arrives_whole() {
        let (mut one, mut other) = pair();
        let sent: Vec<u8> = (0..2_000_000u32).map(|number| (number % 251) as u8).collect();
        let (mut at, mut ended, mut got, mut buffer) = (0, false, Vec::<u8>::new(), vec![0; 100_000]);
        loop {
            match one.write(&sent[at..]) {
                Ok(count) => at += count,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            ended = ended || at == sent.len() && one.end().is_ok();
            match other.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => got.extend(&buffer[..count]),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        assert!(got == sent);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_say_no_more_than_they_hold(
            bytes in prop::collection::vec(prop_oneof![Just(0u8), Just(1), any::<u8>()], 0..300),
            size in 1usize..40,
        ) {
            let (mut raw, mut member) = (UnixStream::pair().unwrap(), Vec::<u8>::new());
            raw.0.write_all(&bytes).unwrap();
            drop(raw.0);
            let mut reader = Member::new(raw.1);
            let mut buffer = vec![0; size];
            while let Ok(count) = reader.read(&mut buffer) {
                if count == 0 {
                    break;
                }
                member.extend(&buffer[..count]);
            }
            prop_assert!(member.len() <= bytes.len());
        }

        #[test]
        fn bytes_arrive_as_they_were_sent_however_they_are_cut(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..20),
            size in 1usize..40,
        ) {
            let (mut one, mut other) = pair();
            for chunk in &chunks {
                prop_assert_eq!(one.write(chunk).unwrap(), chunk.len());
            }
            one.end().unwrap();
            let (mut got, mut buffer) = (Vec::<u8>::new(), vec![0; size]);
            loop {
                match other.read(&mut buffer).unwrap() {
                    0 => break,
                    count => got.extend(&buffer[..count]),
                }
            }
            prop_assert_eq!(got, chunks.concat());
        }
    }
}
