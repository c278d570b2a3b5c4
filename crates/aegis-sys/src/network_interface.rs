//! Setting up a guest's network card: `netdevice(7)`, `rtnetlink`'s older sibling, which needs no answers to be parsed.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::check;

/// `struct in6_ifreq` of `linux/ipv6.h`.
#[repr(C)]
struct AddressV6 {
    address: libc::in6_addr,
    prefix: u32,
    index: libc::c_int,
}

/// `struct in6_rtmsg` of `linux/ipv6_route.h`.
#[repr(C)]
struct RouteV6 {
    to: libc::in6_addr,
    from: libc::in6_addr,
    gateway: libc::in6_addr,
    kind: u32,
    to_prefix: u16,
    from_prefix: u16,
    metric: u32,
    info: libc::c_ulong,
    flags: u32,
    index: libc::c_int,
}

/// Distance of a route that nobody gave one, `IP6_RT_PRIO_USER` of `linux/ipv6_route.h`.
const METRIC: u32 = 1024;

/// A card by its name, e.g. `eth0`.
#[derive(Debug)]
pub struct Card {
    v4: OwnedFd,
    v6: OwnedFd,
    name: [libc::c_char; libc::IFNAMSIZ],
}

fn socket(family: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: takes integers only; the descriptor is checked, and nobody else has it.
    unsafe {
        let fd = libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        check(fd)?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let four = address.octets();
    let mut data = [0; 14];
    for (to, from) in data.iter_mut().skip(2).zip(four) {
        *to = from as libc::c_char;
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
}

/// `TUNSETIFF` of `linux/if_tun.h`.
const TUNSETIFF: u64 = 0x4004_54ca;
/// `ARPHRD_ETHER` of `linux/if_arp.h`.
const ETHERNET: libc::sa_family_t = 1;

/// Makes an Ethernet interface of this name whose other end is what is returned: each read takes a frame that it sends, and
/// each write is a frame that it receives. It is gone when that is closed.
///
/// # Errors
/// The system's.
pub fn tap(name: &str, mac: [u8; 6], mtu: u16) -> io::Result<File> {
    let end = File::options().read(true).write(true).open("/dev/net/tun")?;
    let card = Card::open(name)?;
    let mut request = card.request();
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: this device's call takes an ifreq, which outlives it.
    check(unsafe { libc::ioctl(end.as_raw_fd(), TUNSETIFF as _, &raw mut request) })?;
    let mut data = [0; 14];
    for (to, from) in data.iter_mut().zip(mac) {
        *to = from as libc::c_char;
    }
    let mut request = card.request();
    request.ifr_ifru.ifru_hwaddr = libc::sockaddr { sa_family: ETHERNET, sa_data: data };
    card.control(libc::SIOCSIFHWADDR as _, &mut request)?;
    let mut request = card.request();
    request.ifr_ifru.ifru_mtu = mtu.into();
    card.control(libc::SIOCSIFMTU as _, &mut request)?;
    Ok(end)
}

fn v6_address(address: Ipv6Addr) -> libc::in6_addr {
    libc::in6_addr { s6_addr: address.octets() }
}

impl Card {
    /// The card of this name; whether there is one shows when it is used.
    ///
    /// # Errors
    /// The system's, or a name that is too long.
    pub fn open(name: &str) -> io::Result<Card> {
        let mut terminated = [0; libc::IFNAMSIZ];
        if name.len() >= terminated.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for (to, from) in terminated.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        Ok(Card { v4: socket(libc::AF_INET)?, v6: socket(libc::AF_INET6)?, name: terminated })
    }

    fn request(&self) -> libc::ifreq {
        // SAFETY: ifreq is plain data for which zeroes are valid.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        request.ifr_name = self.name;
        request
    }

    fn control(&self, call: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
        // SAFETY: the request is an ifreq, which is what the calls made here take; it outlives the call.
        check(unsafe { libc::ioctl(self.v4.as_raw_fd(), call, std::ptr::from_mut(request)) })
    }

    /// Gives it an IPv4 address, replacing the one that it had.
    ///
    /// # Errors
    /// The system's.
    pub fn set_v4(&self, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        self.set_address(self.request(), address, prefix)
    }

    /// Gives it another address beside its own, in the place of the one with the same number.
    ///
    /// # Errors
    /// The system's.
    pub fn set_alias(&self, number: usize, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        self.set_address(self.alias(number)?, address, prefix)
    }

    /// Takes the address with this number away, if there is one.
    ///
    /// # Errors
    /// The system's.
    pub fn remove_alias(&self, number: usize) -> io::Result<()> {
        // An alias is up as long as it has an address (`devinet_ioctl` of the kernel).
        let mut request = self.alias(number)?;
        request.ifr_ifru.ifru_flags = 0;
        match self.control(libc::SIOCSIFFLAGS as _, &mut request) {
            Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(()),
            other => other,
        }
    }

    /// A request about the address with this number: `eth0:1` (`netdevice(7)`).
    fn alias(&self, number: usize) -> io::Result<libc::ifreq> {
        let mut request = self.request();
        let end = request.ifr_name.iter().position(|byte| *byte == 0).unwrap_or(libc::IFNAMSIZ);
        let suffix = format!(":{number}");
        let room = request.ifr_name.get_mut(end..).filter(|room| room.len() > suffix.len());
        for (to, from) in room.ok_or(io::ErrorKind::InvalidInput)?.iter_mut().zip(suffix.bytes()) {
            *to = from as libc::c_char;
        }
        Ok(request)
    }

    fn set_address(&self, mut request: libc::ifreq, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
        request.ifr_ifru.ifru_addr = socket_address(address);
        self.control(libc::SIOCSIFADDR as _, &mut request)?;
        request.ifr_ifru.ifru_netmask = socket_address(Ipv4Addr::from(mask));
        self.control(libc::SIOCSIFNETMASK as _, &mut request)
    }

    /// Brings it up.
    ///
    /// # Errors
    /// The system's.
    pub fn up(&self) -> io::Result<()> {
        self.set_flags(libc::IFF_UP | libc::IFF_RUNNING)
    }

    /// Takes it down.
    ///
    /// # Errors
    /// The system's.
    pub fn down(&self) -> io::Result<()> {
        self.set_flags(0)
    }

    fn set_flags(&self, flags: libc::c_int) -> io::Result<()> {
        let mut request = self.request();
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        self.control(libc::SIOCSIFFLAGS as _, &mut request)
    }

    fn index(&self) -> io::Result<libc::c_int> {
        let mut request = self.request();
        self.control(libc::SIOCGIFINDEX as _, &mut request)?;
        // SAFETY: the call has written this member.
        Ok(unsafe { request.ifr_ifru.ifru_ifindex })
    }

    /// Adds an IPv6 address; the card has to be up.
    ///
    /// # Errors
    /// The system's.
    pub fn add_v6(&self, address: Ipv6Addr, prefix: u8) -> io::Result<()> {
        let request = AddressV6 { address: v6_address(address), prefix: prefix.into(), index: self.index()? };
        // SAFETY: this family's call takes this structure, which outlives it.
        check(unsafe { libc::ioctl(self.v6.as_raw_fd(), libc::SIOCSIFADDR as _, &request) })
    }

    /// Sends everything that is not near to this gateway; the card has to be up, with an address beside it.
    ///
    /// # Errors
    /// The system's.
    pub fn route_v4(&self, gateway: Ipv4Addr) -> io::Result<()> {
        let any = socket_address(Ipv4Addr::UNSPECIFIED);
        // SAFETY: rtentry is plain data for which zeroes are valid; it outlives the call.
        unsafe {
            let mut route: libc::rtentry = std::mem::zeroed();
            route.rt_dst = any;
            route.rt_genmask = any;
            route.rt_gateway = socket_address(gateway);
            route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
            check(libc::ioctl(self.v4.as_raw_fd(), libc::SIOCADDRT as _, &route))
        }
    }

    /// The same for IPv6.
    ///
    /// # Errors
    /// The system's.
    pub fn route_v6(&self, gateway: Ipv6Addr) -> io::Result<()> {
        let any = v6_address(Ipv6Addr::UNSPECIFIED);
        let route = RouteV6 {
            to: any,
            from: any,
            gateway: v6_address(gateway),
            kind: 0,
            to_prefix: 0,
            from_prefix: 0,
            metric: METRIC,
            info: 0,
            flags: u32::from(libc::RTF_UP | libc::RTF_GATEWAY),
            index: self.index()?,
        };
        // SAFETY: this family's call takes this structure, which outlives it.
        check(unsafe { libc::ioctl(self.v6.as_raw_fd(), libc::SIOCADDRT as _, &route) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_that_is_not_there_is_an_error_and_no_more() {
        let card = Card::open("aegis-none0").unwrap();
        assert!(card.up().is_err() && card.set_v4(Ipv4Addr::new(192, 0, 2, 1), 30).is_err());
        assert!(card.add_v6(Ipv6Addr::LOCALHOST, 128).is_err());
        assert!(Card::open("a-name-that-is-too-long").is_err());
    }
}
