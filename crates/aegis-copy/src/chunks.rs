//! Contents of a file in the stream: chunks, each with its length, and an end.
//!
//! ```text
//! chunk     kind u8, number u64
//!           data: so many bytes, which follow
//!           hole: so many bytes of nothing, which do not
//!           end:  so many bytes were all
//!           cut:  the rest cannot be read, and what came is not to be kept
//! ```
//!
//! Whatever becomes of a file while it is read, whoever reads the stream knows what is contents and what is not. Where a
//! chunk belongs is told by those before it, so none can lie before another one.

use std::io::{Read, Write};

use crate::CopyError;

/// Most data of one chunk, bytes.
pub(crate) const CHUNK: usize = 256 << 10;
/// Length of a chunk without its data, bytes.
pub(crate) const HEAD: usize = 9;

const DATA: u8 = b'd';
const HOLE: u8 = b'h';
const END: u8 = b'e';
const CUT: u8 = b'c';

/// A part of a file's contents, or their end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chunk {
    /// So many bytes, at most [`CHUNK`], which follow.
    Data(usize),
    /// So many bytes that nothing was ever written to.
    Hole(u64),
    /// That was all: so many bytes, holes included.
    End(u64),
    /// The rest cannot be read.
    Cut,
}

impl Chunk {
    /// What goes before the data.
    pub(crate) fn head(self) -> [u8; HEAD] {
        let (kind, number) = match self {
            Chunk::Data(count) => (DATA, count as u64),
            Chunk::Hole(count) => (HOLE, count),
            Chunk::End(total) => (END, total),
            Chunk::Cut => (CUT, 0),
        };
        let [a, b, c, d, e, f, g, h] = number.to_le_bytes();
        [kind, a, b, c, d, e, f, g, h]
    }

    fn parse([kind, number @ ..]: [u8; HEAD]) -> Result<Chunk, CopyError> {
        let number = u64::from_le_bytes(number);
        let data = usize::try_from(number).ok().filter(|count| (1..=CHUNK).contains(count));
        match (kind, number, data) {
            (DATA, _, Some(count)) => Ok(Chunk::Data(count)),
            (HOLE, 1.., _) => Ok(Chunk::Hole(number)),
            (END, ..) => Ok(Chunk::End(number)),
            (CUT, 0, _) => Ok(Chunk::Cut),
            _ => Err(CopyError::Stream(format!("a chunk of kind {kind} and {number} bytes"))),
        }
    }
}

/// Writes what has no data.
pub(crate) fn write(chunk: Chunk, to: &mut impl Write) -> std::io::Result<()> {
    to.write_all(&chunk.head())
}

/// Reads a chunk. Its data are left in the reader.
pub(crate) fn read(from: &mut impl Read) -> Result<Chunk, CopyError> {
    let mut head = [0; HEAD];
    from.read_exact(&mut head).map_err(CopyError::stream)?;
    Chunk::parse(head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_chunk_comes_back(count in 1..=CHUNK, number in 1u64.., pick in 0u8..4) {
            let chunk = match pick {
                0 => Chunk::Data(count),
                1 => Chunk::Hole(number),
                2 => Chunk::End(number),
                _ => Chunk::Cut,
            };
            let mut bytes = Vec::new();
            write(chunk, &mut bytes).unwrap();
            prop_assert_eq!(read(&mut bytes.as_slice()).unwrap(), chunk);
            bytes.pop();
            prop_assert!(read(&mut bytes.as_slice()).is_err(), "cut off");
        }

        #[test]
        fn none_is_larger_than_it_may_be(bytes in any::<[u8; HEAD]>(), kind in prop::sample::select(vec![DATA, HOLE, END, CUT])) {
            let mut bytes = bytes;
            bytes[0] = kind;
            match Chunk::parse(bytes) {
                Ok(Chunk::Data(count)) => prop_assert!((1..=CHUNK).contains(&count)),
                Ok(chunk) => prop_assert_eq!(chunk.head(), bytes),
                Err(error) => prop_assert!(matches!(error, CopyError::Stream(_))),
            }
        }
    }

    #[test]
    fn what_is_no_chunk_is_none() {
        for bytes in [[0; HEAD], Chunk::Data(0).head(), Chunk::Hole(0).head(), Chunk::Data(CHUNK + 1).head()]
        {
            assert!(Chunk::parse(bytes).is_err(), "{bytes:?}");
        }
    }
}
