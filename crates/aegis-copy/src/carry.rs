//! Moving the contents of one file.

use std::io::{self, Read, Write};

/// How much is moved at once, bytes.
pub(crate) const PIECE: usize = 256 << 10;

/// Which side failed.
pub(crate) enum Broken {
    Reading(io::Error),
    Writing(io::Error),
}

/// Moves `size` bytes, or as many as there are, through `piece`, and returns their number.
pub(crate) fn carry(
    from: impl Read,
    to: &mut impl Write,
    size: u64,
    piece: &mut [u8],
) -> Result<u64, Broken> {
    let (mut from, mut total) = (from.take(size), 0);
    loop {
        let count = match from.read(piece) {
            Ok(0) => return Ok(total),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Broken::Reading(error)),
        };
        to.write_all(piece.get(..count).unwrap_or_default()).map_err(Broken::Writing)?;
        total += count as u64;
    }
}
