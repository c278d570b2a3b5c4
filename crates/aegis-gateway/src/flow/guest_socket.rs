//! The guest's side of one TCP connection, ended by a smoltcp socket.
//!
//! Each has a stack of its own: whatever a segment does, it does to its connection, and work per segment does not
//! depend on how many connections there are.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::time::Instant;

use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet, SocketStorage};
use smoltcp::phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::wire::{EthernetProtocol, HardwareAddress, IpAddress, IpCidr};

use super::connection_key::ConnectionKey;
use crate::addressing::MTU;
use crate::frame_stream::FrameWriter;
use crate::tcp_checksum;

/// One packet in, any number out.
struct Wire<'a> {
    packet: Option<&'a [u8]>,
    out: &'a mut FrameWriter,
}

struct In<'a>(&'a [u8]);
struct Out<'a>(&'a mut FrameWriter);

impl RxToken for In<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0)
    }
}

impl TxToken for Out<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut protocol = EthernetProtocol::Ipv4;
        // The kind of a frame stands before the packet that tells it.
        self.0.packet(length, |bytes| {
            let result = write(bytes);
            if bytes.first().is_some_and(|first| first >> 4 == 6) {
                protocol = EthernetProtocol::Ipv6;
            }
            tcp_checksum::seal_tcp(bytes);
            (protocol, result)
        })
    }
}

impl Device for Wire<'_> {
    type RxToken<'a>
        = In<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = Out<'a>
    where
        Self: 'a;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(In<'_>, Out<'_>)> {
        self.packet.take().map(|packet| (In(packet), Out(self.out)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Out<'_>> {
        self.out.has_room().then_some(Out(self.out))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        let mut checksum = ChecksumCapabilities::default();
        // A stream loses and damages nothing; what the guest makes of its own data is its own affair. What it gets is
        // summed up as it is sent, faster than the stack does.
        checksum.tcp = Checksum::None;
        capabilities.checksum = checksum;
        capabilities
    }
}

/// Milliseconds since the gateway began, as the stack counts time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn new() -> Clock {
        Clock(Instant::now())
    }

    fn now(self) -> smoltcp::time::Instant {
        smoltcp::time::Instant::from_micros(i64::try_from(self.0.elapsed().as_micros()).unwrap_or(i64::MAX))
    }

    fn std(self, at: smoltcp::time::Instant) -> Instant {
        self.0 + std::time::Duration::from_micros(u64::try_from(at.total_micros()).unwrap_or(0))
    }
}

/// What makes a connection's numbers unpredictable: keys from the system's generator.
fn seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// See the module.
pub(crate) struct GuestSocket {
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    clock: Clock,
}

impl fmt::Debug for GuestSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestSocket").finish_non_exhaustive()
    }
}

impl GuestSocket {
    /// One that waits for the guest to connect to `local`, with buffers of these sizes, in and out.
    pub(crate) fn listen(
        local: SocketAddr,
        buffers: (usize, usize),
        clock: Clock,
        out: &mut FrameWriter,
    ) -> GuestSocket {
        let mut guest_socket = GuestSocket::new(local, buffers, clock, out);
        // It is neither listening nor is its port 0.
        let _fresh = guest_socket.socket().listen(smoltcp::wire::IpEndpoint::from(local));
        guest_socket
    }

    /// One that connects to the guest: from the second end of the key to the first.
    pub(crate) fn connect(
        (guest, other): ConnectionKey,
        buffers: (usize, usize),
        clock: Clock,
        out: &mut FrameWriter,
    ) -> GuestSocket {
        let mut guest_socket = GuestSocket::new(other, buffers, clock, out);
        let GuestSocket { interface, sockets, socket, .. } = &mut guest_socket;
        // It is connected to nobody yet, and no port is 0.
        let _fresh = sockets.get_mut::<tcp::Socket<'_>>(*socket).connect(
            interface.context(),
            smoltcp::wire::IpEndpoint::from(guest),
            smoltcp::wire::IpEndpoint::from(other),
        );
        guest_socket
    }

    fn new(
        local: SocketAddr,
        (receive, send): (usize, usize),
        clock: Clock,
        out: &mut FrameWriter,
    ) -> GuestSocket {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed();
        let mut interface = Interface::new(config, &mut Wire { packet: None, out }, clock.now());
        // Every address is on this wire.
        interface.update_ip_addrs(|all| {
            let _one = all.push(IpCidr::new(IpAddress::from(local.ip()), 0));
        });
        let buffer = |size: usize| tcp::SocketBuffer::new(vec![0; size]);
        let mut socket = tcp::Socket::new(buffer(receive), buffer(send));
        socket.set_nagle_enabled(false);
        let mut sockets = SocketSet::new(vec![SocketStorage::EMPTY]);
        let socket = sockets.add(socket);
        GuestSocket { interface, sockets, socket, clock }
    }

    /// A packet of the guest for this connection.
    pub(crate) fn input(&mut self, packet: &[u8], out: &mut FrameWriter) {
        let now = self.clock.now();
        let mut wire = Wire { packet: Some(packet), out };
        self.interface.poll_ingress_single(now, &mut wire, &mut self.sockets);
    }

    /// Sends what is due. Returns when something is due next, if nothing happens before.
    pub(crate) fn flush(&mut self, out: &mut FrameWriter) -> Option<Instant> {
        let now = self.clock.now();
        let mut wire = Wire { packet: None, out };
        while self.interface.poll_egress(now, &mut wire, &mut self.sockets) == PollResult::SocketStateChanged
        {
        }
        if !wire.out.has_room() {
            // The next thing to happen is that there is room.
            return None;
        }
        self.interface.poll_at(now, &self.sockets).map(|at| self.clock.std(at))
    }

    pub(crate) fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.socket)
    }
}
