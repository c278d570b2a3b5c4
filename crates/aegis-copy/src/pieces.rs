//! Contents of a file in the stream: pieces, each with its length, and an end.
//!
//! ```text
//! piece     kind u8, number u64
//!           data: so many bytes, which follow
//!           hole: so many bytes of nothing, which do not
//!           end:  so many bytes were all
//!           cut:  the rest cannot be read, and what came is not to be kept
//! ```
//!
//! Whatever becomes of a file while it is read, whoever reads the stream knows what is contents and what is not. Where a
//! piece belongs is told by those before it, so none can lie before another one.

use std::io::{Read, Write};

use crate::CopyError;

/// Most data of one piece, bytes.
pub(crate) const PIECE: usize = 256 << 10;
/// Length of a piece without its data, bytes.
pub(crate) const HEAD: usize = 9;

const DATA: u8 = b'd';
const HOLE: u8 = b'h';
const END: u8 = b'e';
const CUT: u8 = b'c';

/// A part of a file's contents, or their end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// So many bytes, at most [`PIECE`], which follow.
    Data(usize),
    /// So many bytes that nothing was ever written to.
    Hole(u64),
    /// That was all: so many bytes, holes included.
    End(u64),
    /// The rest cannot be read.
    Cut,
}

impl Piece {
    /// What goes before the data.
    pub(crate) fn head(self) -> [u8; HEAD] {
        let (kind, number) = match self {
            Piece::Data(count) => (DATA, count as u64),
            Piece::Hole(count) => (HOLE, count),
            Piece::End(total) => (END, total),
            Piece::Cut => (CUT, 0),
        };
        let [a, b, c, d, e, f, g, h] = number.to_le_bytes();
        [kind, a, b, c, d, e, f, g, h]
    }

    fn parse([kind, number @ ..]: [u8; HEAD]) -> Result<Piece, CopyError> {
        let number = u64::from_le_bytes(number);
        let data = usize::try_from(number).ok().filter(|count| (1..=PIECE).contains(count));
        match (kind, number, data) {
            (DATA, _, Some(count)) => Ok(Piece::Data(count)),
            (HOLE, 1.., _) => Ok(Piece::Hole(number)),
            (END, ..) => Ok(Piece::End(number)),
            (CUT, 0, _) => Ok(Piece::Cut),
            _ => Err(CopyError::Stream(format!("a piece of kind {kind} and {number} bytes"))),
        }
    }
}

/// Writes what has no data.
pub(crate) fn write(piece: Piece, to: &mut impl Write) -> std::io::Result<()> {
    to.write_all(&piece.head())
}

/// Reads a piece. Its data are left in the reader.
pub(crate) fn read(from: &mut impl Read) -> Result<Piece, CopyError> {
    let mut head = [0; HEAD];
    from.read_exact(&mut head).map_err(CopyError::stream)?;
    Piece::parse(head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_piece_comes_back(count in 1..=PIECE, number in 1u64.., pick in 0u8..4) {
            let piece = match pick {
                0 => Piece::Data(count),
                1 => Piece::Hole(number),
                2 => Piece::End(number),
                _ => Piece::Cut,
            };
            let mut bytes = Vec::new();
            write(piece, &mut bytes).unwrap();
            prop_assert_eq!(read(&mut bytes.as_slice()).unwrap(), piece);
            bytes.pop();
            prop_assert!(read(&mut bytes.as_slice()).is_err(), "cut off");
        }

        #[test]
        fn none_is_larger_than_it_may_be(bytes in any::<[u8; HEAD]>(), kind in prop::sample::select(vec![DATA, HOLE, END, CUT])) {
            let mut bytes = bytes;
            bytes[0] = kind;
            match Piece::parse(bytes) {
                Ok(Piece::Data(count)) => prop_assert!((1..=PIECE).contains(&count)),
                Ok(piece) => prop_assert_eq!(piece.head(), bytes),
                Err(error) => prop_assert!(matches!(error, CopyError::Stream(_))),
            }
        }
    }

    #[test]
    fn what_is_no_piece_is_none() {
        for bytes in [[0; HEAD], Piece::Data(0).head(), Piece::Hole(0).head(), Piece::Data(PIECE + 1).head()]
        {
            assert!(Piece::parse(bytes).is_err(), "{bytes:?}");
        }
    }
}
