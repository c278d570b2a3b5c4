//! Parses packets of the guest, and writes packets to it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetFrame, EthernetProtocol, Icmpv4DstUnreachable, Icmpv4Message,
    Icmpv4Packet, Icmpv4Repr, Icmpv6DstUnreachable, Icmpv6Message, Icmpv6Packet, Icmpv6Repr, IpAddress,
    IpProtocol, IpRepr, Ipv4Packet, Ipv6Packet, NdiscNeighborFlags, NdiscRepr, TcpControl, TcpPacket,
    TcpRepr, UdpPacket, UdpRepr,
};

use crate::addressing::{GATEWAY, GUEST, GUEST_V4, GUEST_V6};
use crate::frame_stream::FrameWriter;

/// What a guest sends beside frames that mean something: why a frame is passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Dropped {
    /// No frame of Ethernet, or not from this network interface to this gateway.
    Ethernet,
    /// Neither IP nor what finds neighbours.
    Protocol,
    /// A malformed packet.
    Malformed,
    /// A source address that is not the guest's.
    Spoofed,
    /// Part of a packet.
    Fragment,
    /// Options or extension headers.
    Options,
    /// A transport other than TCP, UDP and echo.
    Transport,
}

impl Dropped {
    /// A word for it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Dropped::Ethernet => "ethernet",
            Dropped::Protocol => "protocol",
            Dropped::Malformed => "malformed",
            Dropped::Spoofed => "spoofed",
            Dropped::Fragment => "fragment",
            Dropped::Options => "options",
            Dropped::Transport => "transport",
        }
    }
}

/// What a packet carries.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Transport<'a> {
    /// A segment of TCP.
    Tcp { guest_port: u16, port: u16, begins: bool, resets: bool },
    /// A datagram.
    Udp { guest_port: u16, port: u16, payload: &'a [u8] },
    /// A request for an echo.
    Echo { ident: u16, sequence: u16, data: &'a [u8] },
}

/// A packet of the guest.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Packet<'a> {
    /// The guest's address.
    pub(crate) guest: IpAddr,
    /// The other end's, as the guest wrote it.
    pub(crate) other: IpAddr,
    /// The packet itself.
    pub(crate) bytes: &'a [u8],
    pub(crate) transport: Transport<'a>,
}

/// A frame of the guest.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    /// A question for the neighbour with this address.
    WhoHas(IpAddr),
    /// Something between neighbours that needs no answer.
    Silent,
    Packet(Packet<'a>),
}

/// Reads a frame of a guest that has these addresses beside its own.
pub(crate) fn read<'a>(bytes: &'a [u8], more: &[Ipv4Addr]) -> Result<Frame<'a>, Dropped> {
    let frame = EthernetFrame::new_checked(bytes).map_err(|_| Dropped::Ethernet)?;
    let to = frame.dst_addr();
    if frame.src_addr() != GUEST || (to != GATEWAY && !to.is_multicast()) {
        return Err(Dropped::Ethernet);
    }
    match frame.ethertype() {
        EthernetProtocol::Arp => arp(frame.payload(), more),
        EthernetProtocol::Ipv4 => v4(frame.payload(), |from| from == GUEST_V4 || more.contains(&from)),
        EthernetProtocol::Ipv6 => v6(frame.payload()),
        EthernetProtocol::Unknown(_) => Err(Dropped::Protocol),
    }
}

/// Reads a packet of IP that the guest was allowed to send.
pub(crate) fn read_ip(bytes: &[u8]) -> Result<Frame<'_>, Dropped> {
    match bytes.first().map(|first| first >> 4) {
        Some(4) => v4(bytes, |_| true),
        Some(6) => v6(bytes),
        _ => Err(Dropped::Protocol),
    }
}

fn arp(payload: &[u8], more: &[Ipv4Addr]) -> Result<Frame<'static>, Dropped> {
    let packet = ArpPacket::new_checked(payload).map_err(|_| Dropped::Malformed)?;
    match ArpRepr::parse(&packet) {
        Ok(ArpRepr::EthernetIpv4 { operation: ArpOperation::Request, target_protocol_addr, .. })
            if target_protocol_addr != GUEST_V4 && !more.contains(&target_protocol_addr) =>
        {
            Ok(Frame::WhoHas(target_protocol_addr.into()))
        }
        Ok(_) => Ok(Frame::Silent),
        Err(_) => Err(Dropped::Malformed),
    }
}

fn v4(payload: &[u8], is_guest: impl Fn(Ipv4Addr) -> bool) -> Result<Frame<'_>, Dropped> {
    let packet = Ipv4Packet::new_checked(payload).map_err(|_| Dropped::Malformed)?;
    if packet.version() != 4 || !packet.verify_checksum() {
        return Err(Dropped::Malformed);
    }
    if packet.header_len() != 20 {
        return Err(Dropped::Options);
    }
    if packet.more_frags() || packet.frag_offset() != 0 {
        return Err(Dropped::Fragment);
    }
    if !is_guest(packet.src_addr()) {
        return Err(Dropped::Spoofed);
    }
    let bytes = payload.get(..usize::from(packet.total_len())).ok_or(Dropped::Malformed)?;
    let body = packet.payload();
    let transport = match packet.next_header() {
        IpProtocol::Tcp => tcp(body)?,
        IpProtocol::Udp => udp(body)?,
        IpProtocol::Icmp => {
            let echo = Icmpv4Packet::new_checked(body).map_err(|_| Dropped::Malformed)?;
            match Icmpv4Repr::parse(&echo, &ChecksumCapabilities::default()) {
                Ok(Icmpv4Repr::EchoRequest { ident, seq_no, data }) => {
                    Transport::Echo { ident, sequence: seq_no, data }
                }
                _ => return Err(Dropped::Transport),
            }
        }
        _ => return Err(Dropped::Transport),
    };
    let (guest, other) = (packet.src_addr().into(), packet.dst_addr().into());
    Ok(Frame::Packet(Packet { guest, other, bytes, transport }))
}

fn v6(payload: &[u8]) -> Result<Frame<'_>, Dropped> {
    let packet = Ipv6Packet::new_checked(payload).map_err(|_| Dropped::Malformed)?;
    if packet.version() != 6 {
        return Err(Dropped::Malformed);
    }
    let bytes = payload.get(..40 + usize::from(packet.payload_len())).ok_or(Dropped::Malformed)?;
    let body = bytes.get(40..).unwrap_or_default();
    let (from, to) = (packet.src_addr(), packet.dst_addr());
    if packet.next_header() == IpProtocol::Icmpv6
        && let Some(neighbour) = neighbour(body, from, to, packet.hop_limit())
    {
        return Ok(neighbour);
    }
    if from != GUEST_V6 {
        // The network interface greets by its own name while it comes up.
        let silent = from.is_unspecified() || from.is_unicast_link_local();
        return if silent { Ok(Frame::Silent) } else { Err(Dropped::Spoofed) };
    }
    let transport = match packet.next_header() {
        IpProtocol::Tcp => tcp(body)?,
        IpProtocol::Udp => udp(body)?,
        IpProtocol::Icmpv6 => {
            let echo = Icmpv6Packet::new_checked(body).map_err(|_| Dropped::Malformed)?;
            match Icmpv6Repr::parse(&from, &to, &echo, &ChecksumCapabilities::default()) {
                Ok(Icmpv6Repr::EchoRequest { ident, seq_no, data }) => {
                    Transport::Echo { ident, sequence: seq_no, data }
                }
                Ok(_) if to.is_multicast() => return Ok(Frame::Silent),
                _ => return Err(Dropped::Transport),
            }
        }
        IpProtocol::HopByHop | IpProtocol::Ipv6Route | IpProtocol::Ipv6Opts if to.is_multicast() => {
            return Ok(Frame::Silent);
        }
        IpProtocol::HopByHop | IpProtocol::Ipv6Route | IpProtocol::Ipv6Opts => return Err(Dropped::Options),
        IpProtocol::Ipv6Frag => return Err(Dropped::Fragment),
        _ => return Err(Dropped::Transport),
    };
    Ok(Frame::Packet(Packet { guest: from.into(), other: to.into(), bytes, transport }))
}

/// What neighbours say to each other (RFC 4861), which no router passes on.
fn neighbour(body: &[u8], from: Ipv6Addr, to: Ipv6Addr, hop_limit: u8) -> Option<Frame<'static>> {
    let packet = Icmpv6Packet::new_checked(body).ok()?;
    if hop_limit != 255 || !packet.msg_type().is_ndisc() {
        return None;
    }
    match Icmpv6Repr::parse(&from, &to, &packet, &ChecksumCapabilities::default()) {
        // A guest that makes sure that nobody has its address is told nothing.
        Ok(Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr, .. }))
            if target_addr != GUEST_V6 && !from.is_unspecified() =>
        {
            Some(Frame::WhoHas(target_addr.into()))
        }
        _ => Some(Frame::Silent),
    }
}

fn tcp(body: &[u8]) -> Result<Transport<'_>, Dropped> {
    let segment = TcpPacket::new_checked(body).map_err(|_| Dropped::Malformed)?;
    let (guest_port, port) = (segment.src_port(), segment.dst_port());
    if guest_port == 0 || port == 0 {
        return Err(Dropped::Malformed);
    }
    let begins = segment.syn() && !segment.ack() && !segment.rst() && !segment.fin();
    Ok(Transport::Tcp { guest_port, port, begins, resets: segment.rst() })
}

fn udp(body: &[u8]) -> Result<Transport<'_>, Dropped> {
    let datagram = UdpPacket::new_checked(body).map_err(|_| Dropped::Malformed)?;
    let (guest_port, port) = (datagram.src_port(), datagram.dst_port());
    if guest_port == 0 || port == 0 {
        return Err(Dropped::Malformed);
    }
    Ok(Transport::Udp { guest_port, port, payload: datagram.payload() })
}

fn ethertype(address: IpAddr) -> EthernetProtocol {
    if address.is_ipv4() { EthernetProtocol::Ipv4 } else { EthernetProtocol::Ipv6 }
}

/// Sends a packet from `from` to `to` whose payload `fill` writes.
fn send_ip(
    out: &mut FrameWriter,
    (from, to): (IpAddr, IpAddr),
    protocol: IpProtocol,
    length: usize,
    fill: impl FnOnce(&mut [u8]),
) {
    // No fragments on this wire either.
    if from.is_ipv4() != to.is_ipv4() || length > crate::addressing::MTU - 40 {
        return;
    }
    let repr = IpRepr::new(IpAddress::from(from), IpAddress::from(to), protocol, length, 64);
    out.frame(ethertype(to), repr.buffer_len(), |bytes| {
        repr.emit(&mut *bytes, &ChecksumCapabilities::default());
        fill(bytes.get_mut(repr.header_len()..).unwrap_or_default());
    });
}

/// Says that the gateway is the neighbour with this address.
pub(crate) fn send_i_have(out: &mut FrameWriter, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            let repr = ArpRepr::EthernetIpv4 {
                operation: ArpOperation::Reply,
                source_hardware_addr: GATEWAY,
                source_protocol_addr: address,
                target_hardware_addr: GUEST,
                target_protocol_addr: GUEST_V4,
            };
            out.frame(EthernetProtocol::Arp, repr.buffer_len(), |bytes| {
                repr.emit(&mut ArpPacket::new_unchecked(bytes));
            });
        }
        IpAddr::V6(address) => {
            let repr = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
                flags: NdiscNeighborFlags::SOLICITED
                    | NdiscNeighborFlags::OVERRIDE
                    | NdiscNeighborFlags::ROUTER,
                target_addr: address,
                lladdr: Some(GATEWAY.into()),
            });
            send_icmp_v6(out, address, GUEST_V6, &repr);
        }
    }
}

fn send_icmp_v6(out: &mut FrameWriter, from: Ipv6Addr, to: Ipv6Addr, repr: &Icmpv6Repr<'_>) {
    // Neighbours do not believe what has come through a router.
    let ip = smoltcp::wire::Ipv6Repr {
        src_addr: from,
        dst_addr: to,
        next_header: IpProtocol::Icmpv6,
        payload_len: repr.buffer_len(),
        hop_limit: 255,
    };
    let ip = IpRepr::Ipv6(ip);
    out.frame(EthernetProtocol::Ipv6, ip.buffer_len(), |bytes| {
        ip.emit(&mut *bytes, &ChecksumCapabilities::default());
        let body = bytes.get_mut(ip.header_len()..).unwrap_or_default();
        repr.emit(&from, &to, &mut Icmpv6Packet::new_unchecked(body), &ChecksumCapabilities::default());
    });
}

/// Sends a datagram to the guest. One that is too long for the wire is lost.
pub(crate) fn send_udp(out: &mut FrameWriter, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
    let repr = UdpRepr { src_port: from.port(), dst_port: to.port() };
    let (source, target) = (IpAddress::from(from.ip()), IpAddress::from(to.ip()));
    send_ip(out, (from.ip(), to.ip()), IpProtocol::Udp, repr.header_len() + payload.len(), |bytes| {
        let mut packet = UdpPacket::new_unchecked(bytes);
        let fill = |bytes: &mut [u8]| bytes.copy_from_slice(payload);
        repr.emit(&mut packet, &source, &target, payload.len(), fill, &ChecksumCapabilities::default());
    });
}

/// Sends the echo of a guest's request.
pub(crate) fn send_echo(
    out: &mut FrameWriter,
    from: IpAddr,
    to: IpAddr,
    ident: u16,
    sequence: u16,
    data: &[u8],
) {
    match (from, to) {
        (IpAddr::V4(_), IpAddr::V4(_)) => {
            let repr = Icmpv4Repr::EchoReply { ident, seq_no: sequence, data };
            send_ip(out, (from, to), IpProtocol::Icmp, repr.buffer_len(), |bytes| {
                repr.emit(&mut Icmpv4Packet::new_unchecked(bytes), &ChecksumCapabilities::default());
            });
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            send_icmp_v6(out, from, to, &Icmpv6Repr::EchoReply { ident, seq_no: sequence, data });
        }
        _ => {}
    }
}

/// Why a packet does not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreachable {
    /// Nobody listens there, or nobody may.
    Port,
    /// There is no way to that address.
    Host,
    /// Forbidden.
    Prohibited,
}

/// Most of a packet that is quoted to its sender.
const MOST_QUOTED: usize = 512;

/// Tells the guest that a packet of its has not arrived.
pub(crate) fn send_unreachable(out: &mut FrameWriter, packet: &Packet<'_>, why: Unreachable) {
    let quoted = packet.bytes.get(..packet.bytes.len().min(MOST_QUOTED)).unwrap_or_default();
    match (packet.other, packet.guest) {
        (IpAddr::V4(other), IpAddr::V4(guest)) => send_unreachable_v4(out, (other, guest), quoted, why),
        (IpAddr::V6(other), IpAddr::V6(guest)) => send_unreachable_v6(out, (other, guest), quoted, why),
        _ => {}
    }
}

fn send_unreachable_v4(
    out: &mut FrameWriter,
    (from, to): (Ipv4Addr, Ipv4Addr),
    quoted: &[u8],
    why: Unreachable,
) {
    let code = match why {
        Unreachable::Port => Icmpv4DstUnreachable::PortUnreachable,
        Unreachable::Host => Icmpv4DstUnreachable::HostUnreachable,
        Unreachable::Prohibited => Icmpv4DstUnreachable::CommProhibited,
    };
    send_ip(out, (from.into(), to.into()), IpProtocol::Icmp, 8 + quoted.len(), |bytes| {
        quote(bytes, quoted);
        let mut packet = Icmpv4Packet::new_unchecked(bytes);
        packet.set_msg_type(Icmpv4Message::DstUnreachable);
        packet.set_msg_code(code.into());
        packet.fill_checksum();
    });
}

fn send_unreachable_v6(
    out: &mut FrameWriter,
    (from, to): (Ipv6Addr, Ipv6Addr),
    quoted: &[u8],
    why: Unreachable,
) {
    let code = match why {
        Unreachable::Port => Icmpv6DstUnreachable::PortUnreachable,
        Unreachable::Host => Icmpv6DstUnreachable::AddrUnreachable,
        Unreachable::Prohibited => Icmpv6DstUnreachable::AdminProhibit,
    };
    send_ip(out, (from.into(), to.into()), IpProtocol::Icmpv6, 8 + quoted.len(), |bytes| {
        quote(bytes, quoted);
        let mut packet = Icmpv6Packet::new_unchecked(bytes);
        packet.set_msg_type(Icmpv6Message::DstUnreachable);
        packet.set_msg_code(code.into());
        packet.fill_checksum(&from, &to);
    });
}

/// Writes the packet that an error is about after its head.
fn quote(message: &mut [u8], quoted: &[u8]) {
    if let Some((_, rest)) = message.split_at_mut_checked(8) {
        rest.copy_from_slice(quoted);
    }
}

/// Refuses a segment: a reset, as if nobody listened there.
pub(crate) fn send_reset(out: &mut FrameWriter, packet: &Packet<'_>) {
    let header = if packet.guest.is_ipv4() { 20 } else { 40 };
    let Ok(segment) = TcpPacket::new_checked(packet.bytes.get(header..).unwrap_or_default()) else { return };
    if segment.rst() {
        return;
    }
    let repr = TcpRepr {
        src_port: segment.dst_port(),
        dst_port: segment.src_port(),
        control: TcpControl::Rst,
        seq_number: if segment.ack() { segment.ack_number() } else { smoltcp::wire::TcpSeqNumber(0) },
        ack_number: (!segment.ack()).then(|| segment.seq_number() + segment.segment_len()),
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None, None, None],
        timestamp: None,
        payload: &[],
    };
    let (from, to) = (IpAddress::from(packet.other), IpAddress::from(packet.guest));
    send_ip(out, (packet.other, packet.guest), IpProtocol::Tcp, repr.buffer_len(), |bytes| {
        repr.emit(&mut TcpPacket::new_unchecked(bytes), &from, &to, &ChecksumCapabilities::default());
    });
}
