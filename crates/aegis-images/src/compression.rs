//! Compression formats, recognised by their magic numbers, whatever the file is called.

use std::io::{self, Read};

/// How something is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    Plain,
    Gzip,
    Zstd,
    /// In a form that is not unpacked here, by its name.
    Other(&'static str),
}

/// As many of the first bytes as any packing is known by.
const START: u64 = 6;

impl Compression {
    /// The packing of what begins with these bytes.
    pub(crate) fn of(start: &[u8]) -> Compression {
        match start {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            // A frame, or one that is to be skipped before it.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Other("xz"),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Compression::Other("bzip2"),
            [0x04, 0x22, 0x4d, 0x18, ..] => Compression::Other("lz4"),
            [b'P', b'K', 3, 4, ..] => Compression::Other("zip"),
            _ => Compression::Plain,
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
            (&b""[..], Compression::Plain),
            (b"\x1f\x8b\x08\0\0\0", Compression::Gzip),
            (b"\x28\xb5\x2f\xfd\0\0", Compression::Zstd),
            (b"\x50\x2a\x4d\x18\x04\0", Compression::Zstd),
            (b"\xfd7zXZ\0", Compression::Other("xz")),
            (b"BZh91A", Compression::Other("bzip2")),
            (b"etc/pa", Compression::Plain),
        ] {
            assert_eq!(Compression::of(start), packing, "{}", start.escape_ascii());
        }
    }
}
