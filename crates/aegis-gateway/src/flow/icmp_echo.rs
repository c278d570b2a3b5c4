//! ICMP echo, by the host's own unprivileged sockets for it (`icmp(7)`), where its user may use those.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, ipproto, recv, send, socket_with,
};

use crate::frame_stream::FrameWriter;
use crate::packet;
use crate::policy_engine::FlowDecision;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// Types of requests.
const REQUEST_V4: u8 = 8;
const REQUEST_V6: u8 = 128;
/// Types of replies.
const REPLIES: [u8; 2] = [0, 129];
/// Length of the head of both.
const HEAD: usize = 8;

/// The echoes of one program of the guest with one other end.
#[derive(Debug)]
pub(crate) struct EchoFlow {
    pub(crate) guest: IpAddr,
    pub(crate) other: IpAddr,
    pub(crate) ident: u16,
    pub(crate) decision: FlowDecision,
    pub(crate) bytes_out: u64,
    pub(crate) bytes_in: u64,
    pub(crate) deadline: Option<Instant>,
    socket: OwnedFd,
}

impl EchoFlow {
    /// Opens a socket for them.
    pub(crate) fn open(
        guest: IpAddr,
        other: IpAddr,
        ident: u16,
        decision: FlowDecision,
    ) -> io::Result<EchoFlow> {
        let (family, protocol) = match decision.address {
            IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
            IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::DGRAM, flags, Some(protocol))?;
        connect(&socket, &SocketAddr::new(decision.address, 0))?;
        Ok(EchoFlow { guest, other, ident, decision, bytes_out: 0, bytes_in: 0, deadline: None, socket })
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    pub(crate) fn expiry(now: Instant) -> Instant {
        now + PATIENCE
    }

    /// Passes a request on. The kernel writes identity and checksum.
    pub(crate) fn send(&mut self, sequence: u16, data: &[u8]) {
        let kind = if self.decision.address.is_ipv4() { REQUEST_V4 } else { REQUEST_V6 };
        let mut message = vec![kind, 0, 0, 0, 0, 0];
        message.extend(sequence.to_be_bytes());
        message.extend(data);
        if send(&self.socket, &message, SendFlags::empty()).is_ok() {
            self.bytes_out += message.len() as u64;
        }
    }

    /// Passes on replies.
    pub(crate) fn receive(&mut self, buffer: &mut [u8], out: &mut FrameWriter) {
        while let Ok((length, _)) = recv(&self.socket, &mut *buffer, RecvFlags::empty()) {
            let message = buffer.get(..length).unwrap_or_default();
            let (Some([kind, _, _, _, _, _, high, low]), Some(data)) =
                (message.get(..HEAD), message.get(HEAD..))
            else {
                continue;
            };
            if REPLIES.contains(kind) {
                self.bytes_in += length as u64;
                let sequence = u16::from_be_bytes([*high, *low]);
                packet::send_echo(out, self.other, self.guest, self.ident, sequence, data);
            }
        }
    }
}
