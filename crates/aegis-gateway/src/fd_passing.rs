//! Passing of file descriptors beside bytes (`SCM_RIGHTS` of `unix(7)`).

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// Most descriptors that are taken at a time, and that wait to be used.
const MOST: usize = 16;

/// Sends bytes, and a descriptor with the first of them. Returns how many were sent.
///
/// # Errors
/// The system's; nothing was sent then.
pub fn send(socket: impl AsFd, bytes: &[u8], descriptor: BorrowedFd<'_>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    beside.push(SendAncillaryMessage::ScmRights(&descriptors));
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut beside, SendFlags::NOSIGNAL)?)
}

/// Receives bytes, and adds the descriptors that come with them to `found`. What is too much is closed.
///
/// # Errors
/// The system's.
pub fn receive(socket: impl AsFd, buffer: &mut [u8], found: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let message = recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut beside, RecvFlags::CMSG_CLOEXEC)?;
    for one in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = one {
            let room = MOST.saturating_sub(found.len());
            found.extend(descriptors.take(room));
        }
    }
    Ok(message.bytes)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_descriptor_travels_and_too_many_are_closed() {
        let (one, other) = UnixStream::pair().unwrap();
        let (mut carried, mut kept) = UnixStream::pair().unwrap();
        assert_eq!(send(&one, b"x", carried.as_fd()).unwrap(), 1);
        let (mut found, mut buffer) = (VecDeque::new(), [0; 10]);
        assert_eq!(receive(&other, &mut buffer, &mut found).unwrap(), 1);
        carried.write_all(b"a").unwrap();
        let mut arrived = UnixStream::from(found.pop_front().unwrap());
        arrived.write_all(b"b").unwrap();
        let mut got = [0; 2];
        kept.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"ab");
        for _ in 0..20 {
            send(&one, b"x", carried.as_fd()).unwrap();
            receive(&other, &mut buffer, &mut found).unwrap();
        }
        assert_eq!(found.len(), MOST);
    }
}
