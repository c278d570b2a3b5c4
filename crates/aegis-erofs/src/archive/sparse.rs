//! Files that are stored without their holes, as GNU's tar writes them: the map behind the header, in PAX records, or in
//! front of the contents.

use std::io::Read;

use super::ArchiveError;
use super::header::{BLOCK, Header, parse_number};
use crate::spool::read_up_to;

/// Longest map in front of contents, bytes; as much as may be in PAX records.
const MOST_MAP: u64 = 1 << 20;
/// Most ranges of a map, so that one in binary is no longer than one in text.
pub(super) const MOST_RANGES: usize = 1 << 17;
/// A range in a header: its start and its length, a number of 12 bytes each.
const RANGE_BYTES: usize = 24;

/// A range of a file that is stored: its start and its length.
pub(super) type Range = (u64, u64);

/// How a file is put together.
#[derive(Debug)]
pub(super) struct Map {
    /// What is stored, in order.
    pub(super) data: Vec<Range>,
    /// The size of the file.
    pub(super) size: u64,
    /// Its name, where that of the entry is made up.
    pub(super) name: Option<Vec<u8>>,
}

/// A part of a file's contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Data(u64),
    Hole(u64),
}

impl Map {
    /// The oldest form: in the header itself and in blocks between it and the contents.
    pub(super) fn of_header(header: &Header, reader: &mut impl Read) -> Result<Map, ArchiveError> {
        let bad = || ArchiveError::Field("sparse map");
        if !header.is_gnu() {
            return Err(bad());
        }
        let size = u64::try_from(header.number(483, 12, "realsize")?).map_err(|_| bad())?;
        let mut data = Vec::new();
        let mut more = append(&mut data, header.field(386, 4 * RANGE_BYTES)).is_some();
        let mut extended = header.field(482, 1) != [0];
        let mut block = [0; BLOCK];
        while more && extended {
            if read_up_to(reader, &mut block)? < BLOCK {
                return Err(ArchiveError::Truncated);
            }
            let (ranges, rest) = block.split_at(21 * RANGE_BYTES);
            more = append(&mut data, ranges).is_some();
            extended = rest.first().is_some_and(|byte| *byte != 0);
        }
        if more { Ok(Map { data, size, name: None }) } else { Err(bad()) }
    }
}

/// Adds the ranges of a header up to the first empty one; `None` if they are not valid or too many.
fn append(data: &mut Vec<Range>, ranges: &[u8]) -> Option<()> {
    for range in ranges.chunks_exact(RANGE_BYTES).take_while(|range| range.first() != Some(&0)) {
        let (start, len) = range.split_at_checked(RANGE_BYTES / 2)?;
        let number = |field| u64::try_from(parse_number(field)?).ok();
        data.push((number(start)?, number(len)?));
    }
    (data.len() <= MOST_RANGES).then_some(())
}

/// The newest form: text in front of the contents, filled up to whole blocks.
pub(super) fn read_map(contents: &mut impl Read) -> Result<Vec<Range>, ArchiveError> {
    let bad = || ArchiveError::Field("sparse map");
    let mut contents = contents.take(MOST_MAP);
    let mut numbers = Numbers { contents: &mut contents, block: [0; BLOCK], at: BLOCK };
    let count = usize::try_from(numbers.next()?).map_err(|_| bad())?;
    if count > MOST_RANGES {
        return Err(bad());
    }
    let mut data = Vec::new();
    for _ in 0..count {
        data.push((numbers.next()?, numbers.next()?));
    }
    Ok(data)
}

/// Numbers, a line each.
struct Numbers<'r, R> {
    contents: &'r mut R,
    block: [u8; BLOCK],
    at: usize,
}

impl<R: Read> Numbers<'_, R> {
    fn next(&mut self) -> Result<u64, ArchiveError> {
        let mut value: Option<u64> = None;
        loop {
            if self.at == BLOCK {
                if read_up_to(self.contents, &mut self.block)? < BLOCK {
                    return Err(ArchiveError::Truncated);
                }
                self.at = 0;
            }
            let byte = self.block.get(self.at).copied().unwrap_or_default();
            self.at += 1;
            let next = match (byte, value) {
                (b'\n', Some(value)) => return Ok(value),
                (b'0'..=b'9', _) => {
                    value.unwrap_or(0).checked_mul(10).and_then(|tens| tens.checked_add((byte - b'0').into()))
                }
                _ => None,
            };
            value = Some(next.ok_or(ArchiveError::Field("sparse map"))?);
        }
    }
}

/// A file of this size, of which these ranges are stored, as its pieces, the first one last. `None` if they overlap,
/// lie outside of it, or are not what is stored.
pub(super) fn pieces(data: &[Range], size: u64, stored: u64) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    let (mut at, mut total) = (0u64, 0u64);
    for (start, len) in data {
        pieces.push(Piece::Hole(start.checked_sub(at)?));
        pieces.push(Piece::Data(*len));
        at = start.checked_add(*len)?;
        total = total.checked_add(*len)?;
    }
    pieces.push(Piece::Hole(size.checked_sub(at)?));
    pieces.reverse();
    (total == stored).then_some(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_become_pieces_in_order() {
        let expected = [Piece::Hole(1), Piece::Data(3), Piece::Hole(3), Piece::Data(2), Piece::Hole(2)];
        assert_eq!(pieces(&[(2, 2), (7, 3)], 11, 5).unwrap(), expected);
        assert_eq!(pieces(&[], 7, 0).unwrap(), [Piece::Hole(7)]);
        let wrong: [(&[Range], u64, u64); 6] = [
            (&[(0, 4), (2, 4)], 10, 8),
            (&[(4, 2), (0, 2)], 10, 4),
            (&[(8, 4)], 10, 4),
            (&[(0, 4)], 10, 3),
            (&[(0, 4)], 10, 5),
            (&[(u64::MAX, 2)], u64::MAX, 2),
        ];
        for (data, size, stored) in wrong {
            assert_eq!(pieces(data, size, stored), None, "{data:?} of {size}");
        }
    }

    #[test]
    fn a_map_in_front_of_contents_is_whole_blocks_of_numbers() {
        let map = |text: &str| {
            let mut block = text.as_bytes().to_vec();
            block.resize(text.len().next_multiple_of(BLOCK), 0);
            block.extend(b"contents");
            let mut rest = block.as_slice();
            read_map(&mut rest).ok().map(|map| (map, rest.to_vec()))
        };
        assert_eq!(map("2\n0\n5\n900\n4\n"), Some((vec![(0, 5), (900, 4)], b"contents".to_vec())));
        assert_eq!(map("0\n"), Some((vec![], b"contents".to_vec())));
        let many: String = (0..100).map(|n| format!("{}\n1\n", n * 1000)).collect();
        assert_eq!(map(&format!("100\n{many}")).unwrap().0.len(), 100);
        for bad in ["2\n0\n5\n", "x\n", "\n", "1\n-1\n5\n", "99999999\n", "99999999999999999999999\n", "1 \n"]
        {
            assert_eq!(map(bad), None, "{bad:?}");
        }
    }
}
