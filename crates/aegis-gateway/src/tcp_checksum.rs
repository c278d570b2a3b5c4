//! TCP checksums of packets that are written in place.

use smoltcp::wire::IpProtocol;

/// The sum of 16-bit words in ones' complement (RFC 1071), not folded and in the machine's own byte order, which makes no
/// difference to the sum.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let whole: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let mut last = [0; 4];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    whole + u64::from(u32::from_ne_bytes(last))
}

/// Writes the checksum of a packet of TCP, wherever it has come from.
pub(crate) fn seal_tcp(packet: &mut [u8]) {
    // Addresses, and where the segment begins.
    let (from, header) = if packet.first().is_some_and(|first| first >> 4 == 6) { (8, 40) } else { (12, 20) };
    let Some((head, segment)) = packet.split_at_mut_checked(header) else { return };
    let (Ok(length), Some(addresses)) = (u16::try_from(segment.len()), head.get(from..)) else { return };
    let Some(place) = segment.get_mut(16..18) else { return };
    place.fill(0);
    let number = |number: u16| u64::from(u16::from_ne_bytes(number.to_be_bytes()));
    let mut total =
        sum(addresses) + number(length) + number(u16::from(u8::from(IpProtocol::Tcp))) + sum(segment);
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    let sealed = !u16::try_from(total).unwrap_or(0);
    if let Some(place) = segment.get_mut(16..18) {
        place.copy_from_slice(&sealed.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smoltcp::wire::Ipv4Repr;

    use std::net::{Ipv4Addr, Ipv6Addr};

    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{IpRepr, TcpControl, TcpPacket, TcpRepr};

    use super::*;
    use crate::packet::{read, read_ip};

    proptest! {
        #[test]
        fn segments_are_sealed_as_the_stack_would(
            payload in prop::collection::vec(any::<u8>(), 0..300),
            v4: bool, addresses: [u8; 32], sequence: i32,
        ) {
            let repr = TcpRepr {
                src_port: 443, dst_port: 40_000, control: TcpControl::Psh,
                seq_number: smoltcp::wire::TcpSeqNumber(sequence), ack_number: None, window_len: 77, window_scale: None,
                max_seg_size: None, sack_permitted: false, sack_ranges: [None, None, None], timestamp: None, payload: &payload,
            };
            let (a, b) = addresses.split_at(16);
            let ip = if v4 {
                let address = |bytes: &[u8]| Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]);
                IpRepr::Ipv4(Ipv4Repr {
                    src_addr: address(a), dst_addr: address(b), next_header: IpProtocol::Tcp,
                    payload_len: repr.buffer_len(), hop_limit: 64,
                })
            } else {
                let address = |bytes: &[u8]| Ipv6Addr::from(<[u8; 16]>::try_from(bytes).unwrap());
                IpRepr::new(address(a).into(), address(b).into(), IpProtocol::Tcp, repr.buffer_len(), 64)
            };
            let mut packet = vec![0; ip.buffer_len()];
            ip.emit(&mut packet[..], &ChecksumCapabilities::default());
            let mut segment = TcpPacket::new_unchecked(&mut packet[ip.header_len()..]);
            repr.emit(&mut segment, &ip.src_addr(), &ip.dst_addr(), &ChecksumCapabilities::default());
            let expected = packet.clone();
            packet[ip.header_len() + 16..ip.header_len() + 18].fill(0x5a);
            seal_tcp(&mut packet);
            prop_assert_eq!(packet, expected);
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            seal_tcp(&mut bytes);
            let _frame = read(&bytes, &[]);
            let _packet = read_ip(&bytes);
        }
    }
}
