//! How things are packed: their first bytes say, whatever they are called.

use std::io::{self, Read};

/// How something is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
    /// In a form that is not unpacked here, by its name.
    Other(&'static str),
}

/// As many of the first bytes as any packing is known by.
const START: u64 = 6;

impl Packing {
    /// The packing of what begins with these bytes.
    pub(crate) fn of(start: &[u8]) -> Packing {
        match start {
            [0x1f, 0x8b, ..] => Packing::Gzip,
            // A frame, or one that is to be skipped before it.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Packing::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Packing::Other("xz"),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Packing::Other("bzip2"),
            [0x04, 0x22, 0x4d, 0x18, ..] => Packing::Other("lz4"),
            [b'P', b'K', 3, 4, ..] => Packing::Other("zip"),
            _ => Packing::Plain,
        }
    }
}

/// The first bytes, of which a packing is known.
pub(crate) fn first_bytes(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    from.take(START).read_to_end(&mut start)?;
    Ok(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_tell_how_something_is_packed() {
        for (start, packing) in [
            (&b""[..], Packing::Plain),
            (b"\x1f\x8b\x08\0\0\0", Packing::Gzip),
            (b"\x28\xb5\x2f\xfd\0\0", Packing::Zstd),
            (b"\x50\x2a\x4d\x18\x04\0", Packing::Zstd),
            (b"\xfd7zXZ\0", Packing::Other("xz")),
            (b"BZh91A", Packing::Other("bzip2")),
            (b"etc/pa", Packing::Plain),
        ] {
            assert_eq!(Packing::of(start), packing, "{}", start.escape_ascii());
        }
    }
}
