//! The host's own addresses, asked of its kernel (`rtnetlink(7)`): whatever is delivered locally is the host.

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::OwnedFd;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};

/// `RTM_NEWROUTE` of `linux/rtnetlink.h`: the kernel's answer.
const NEW_ROUTE: u16 = 24;
/// `RTM_GETROUTE`.
const GET_ROUTE: u16 = 26;
/// `NLM_F_REQUEST` of `linux/netlink.h`.
const REQUEST: u16 = 1;
/// `RTA_DST`.
const DESTINATION: u16 = 1;
/// Size of `struct nlmsghdr`, and of `struct rtmsg`.
const HEADER: usize = 16;
const ROUTE: usize = 12;
/// Offset of `rtm_type` in `struct rtmsg`.
const TYPE_AT: usize = 7;
/// Types of routes that end in the host: local, broadcast, anycast.
const ENDS_HERE: [u8; 3] = [2, 3, 4];

/// Tells which addresses are the host's.
#[derive(Debug)]
pub(crate) struct HostAddresses {
    kernel: Option<OwnedFd>,
    number: u32,
}

impl HostAddresses {
    /// Opens the way to ask.
    pub(crate) fn open() -> HostAddresses {
        HostAddresses { kernel: connect().ok(), number: 0 }
    }

    /// Whether packets to this address end in the host.
    pub(crate) fn contains(&mut self, address: IpAddr) -> bool {
        match self.ask(address) {
            Ok(found) => found,
            // Where the kernel is not to be asked: only what is its own can be bound.
            Err(_) => UdpSocket::bind((address, 0)).is_ok(),
        }
    }

    fn ask(&mut self, address: IpAddr) -> io::Result<bool> {
        let kernel = self.kernel.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        self.number = self.number.wrapping_add(1);
        send(kernel, &question(address, self.number), SendFlags::empty())?;
        let mut answer = [0u8; 4096];
        // The kernel answers before the question has been sent.
        let (length, _) = recv(kernel, &mut answer, RecvFlags::DONTWAIT)?;
        read(answer.get(..length).unwrap_or_default(), self.number)
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

fn connect() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    // Without a protocol it is that of routes, `NETLINK_ROUTE`, which is 0.
    let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&fd, &SocketAddrNetlink::new(0, 0))?;
    rustix::net::connect(&fd, &SocketAddrNetlink::new(0, 0))?;
    Ok(fd)
}

fn question(address: IpAddr, number: u32) -> Vec<u8> {
    let (family, bytes) = match address {
        IpAddr::V4(address) => (AddressFamily::INET, address.octets().to_vec()),
        IpAddr::V6(address) => (AddressFamily::INET6, address.octets().to_vec()),
    };
    let length = u32::try_from(HEADER + ROUTE + 4 + bytes.len()).unwrap_or(0);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(GET_ROUTE.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    message.extend(number.to_ne_bytes());
    message.extend([0; 4]);
    let bits = u8::try_from(bytes.len() * 8).unwrap_or(0);
    let family = u8::try_from(family.as_raw()).unwrap_or(0);
    message.extend([family, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    message.extend(u16::try_from(4 + bytes.len()).unwrap_or(0).to_ne_bytes());
    message.extend(DESTINATION.to_ne_bytes());
    message.extend(bytes);
    message
}

/// Whether the route that an answer tells ends here; an error says that there is none.
fn read(answer: &[u8], number: u32) -> Option<bool> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let asked = u32::from_ne_bytes(answer.get(8..12)?.try_into().ok()?);
    match kind {
        _ if asked != number => None,
        NEW_ROUTE => Some(ENDS_HERE.contains(answer.get(HEADER + TYPE_AT)?)),
        _ => Some(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_knows_its_own_addresses_and_no_others() {
        let mut host = HostAddresses::open();
        for (address, own) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("::1", true),
            ("192.0.2.77", false),
            ("2001:db8::77", false),
        ] {
            assert_eq!(host.contains(address.parse().unwrap()), own, "{address}");
            let mut blind = HostAddresses { kernel: None, number: 0 };
            assert_eq!(blind.contains(address.parse().unwrap()), own, "{address}, not asked");
        }
    }

    #[test]
    fn an_answer_to_another_question_or_a_short_one_is_none() {
        assert_eq!(read(&[0; 40], 3), None);
        assert_eq!(read(&question("10.0.0.1".parse().unwrap(), 3)[..10], 3), None);
    }
}
