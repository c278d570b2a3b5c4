//! What the machine consists of, where its monitor cannot name its devices: then it says so on the kernel's command line.
//!
//! ```text
//!   aegis.transport=vsock            the host is reached by virtio sockets, not by virtio-serial ports
//!   aegis.vsock_ack=1                a byte is said to each connection that is taken there
//!   aegis.disks=root,modules,data    what the disks are, in the order in which the kernel finds them
//!   aegis.card=02:00:00:00:00:01,1500    the network interface is to be made here, with this address and MTU
//! ```

/// How bytes get to the host and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    /// Ports of virtio-serial.
    #[default]
    Serial,
    /// Virtio sockets, on which the guest listens.
    Vsock,
}

/// An Ethernet interface that is made in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Card {
    /// Its address.
    pub mac: [u8; 6],
    /// Longest packet, bytes.
    pub mtu: u16,
}

/// What a disk is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// The root, or a part of it.
    Root,
    /// The kernel's modules.
    Modules,
    /// The instance's own.
    Data,
}

/// What the command line says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MachineParts {
    /// How the host is reached.
    pub transport: Transport,
    /// Whether a byte is said to each connection of a virtio socket that is taken.
    pub acknowledges: bool,
    /// The disks in order; empty where they tell by themselves.
    pub disks: Vec<Disk>,
    /// The interface, where there is one that is made here.
    pub card: Option<Card>,
}

impl MachineParts {
    /// Reads a kernel's command line. What makes no sense is left out.
    #[must_use]
    pub fn parse(command_line: &str) -> MachineParts {
        let mut parts = MachineParts::default();
        for word in command_line.split_ascii_whitespace() {
            match word.split_once('=') {
                Some(("aegis.transport", "vsock")) => parts.transport = Transport::Vsock,
                Some(("aegis.vsock_ack", "1")) => parts.acknowledges = true,
                Some(("aegis.disks", names)) => parts.disks = names.split(',').filter_map(disk).collect(),
                Some(("aegis.card", card)) => parts.card = parse_card(card),
                _ => {}
            }
        }
        parts
    }

    /// The numbers of the disks that are for this, counted from 0.
    pub fn numbers(&self, of: Disk) -> impl Iterator<Item = usize> {
        self.disks.iter().enumerate().filter(move |(_, disk)| **disk == of).map(|(number, _)| number)
    }
}

fn disk(name: &str) -> Option<Disk> {
    match name {
        "root" => Some(Disk::Root),
        "modules" => Some(Disk::Modules),
        "data" => Some(Disk::Data),
        _ => None,
    }
}

fn parse_card(text: &str) -> Option<Card> {
    let (address, mtu) = text.split_once(',')?;
    let bytes: Vec<u8> =
        address.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>().ok()?;
    Some(Card { mac: bytes.try_into().ok()?, mtu: mtu.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_without_our_words_leaves_everything_as_it_is() {
        assert_eq!(MachineParts::parse("console=ttyS0 quiet panic=-1\n"), MachineParts::default());
    }

    #[test]
    fn all_that_is_said_is_understood_and_nonsense_is_not() {
        let line = "quiet aegis.transport=vsock aegis.vsock_ack=1 aegis.disks=root,root,modules,data aegis.card=02:00:00:00:00:0a,1500\n";
        let parts = MachineParts::parse(line);
        assert_eq!((parts.transport, parts.acknowledges), (Transport::Vsock, true));
        assert_eq!(parts.card, Some(Card { mac: [2, 0, 0, 0, 0, 10], mtu: 1500 }));
        assert_eq!(parts.numbers(Disk::Root).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(parts.numbers(Disk::Data).collect::<Vec<_>>(), [3]);
        for nonsense in ["aegis.card=02:00,1500", "aegis.card=02:00:00:00:00:0a:01,1500", "aegis.card=x"] {
            assert_eq!(MachineParts::parse(nonsense).card, None);
        }
    }
}
