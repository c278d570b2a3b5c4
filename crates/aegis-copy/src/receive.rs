//! Contents of a file out of the stream.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use crate::chunks::{self, CHUNK, Chunk};
use crate::{CopyError, Limits};

/// What came of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// All of it.
    Complete,
    /// Its rest cannot be read.
    Cut,
}

/// Takes contents of files, within limits.
pub(crate) struct Receiver {
    limits: Limits,
    /// How much data may still come, bytes.
    left: u64,
    /// One for all files: under emulation fresh memory is dear.
    buffer: Vec<u8>,
}

impl Receiver {
    pub(crate) fn new(limits: Limits) -> Receiver {
        Receiver { limits, left: limits.bytes, buffer: vec![0; CHUNK] }
    }

    /// Writes to `file`, which is new, what comes. Nothing is written where a hole is.
    pub(crate) fn receive(
        &mut self,
        from: &mut impl Read,
        file: &File,
        failed: impl Fn(io::Error) -> CopyError,
    ) -> Result<Received, CopyError> {
        let (mut at, mut written) = (0, 0);
        loop {
            match chunks::read(from)? {
                Chunk::Data(count) => {
                    let end = self.advance(at, count as u64)?;
                    self.spend(count as u64)?;
                    let bytes = self.buffer.get_mut(..count).unwrap_or_default();
                    from.read_exact(bytes).map_err(CopyError::stream)?;
                    file.write_all_at(bytes, at).map_err(&failed)?;
                    (at, written) = (end, end);
                }
                Chunk::Hole(count) => at = self.advance(at, count)?,
                Chunk::End(total) if total != at => {
                    return Err(CopyError::Stream(format!("{at} bytes of a file of {total}")));
                }
                Chunk::End(_) => {
                    if at > written {
                        file.set_len(at).map_err(&failed)?;
                    }
                    return Ok(Received::Complete);
                }
                Chunk::Cut => return Ok(Received::Cut),
            }
        }
    }

    fn advance(&self, at: u64, count: u64) -> Result<u64, CopyError> {
        let limit = self.limits.size.min(i64::MAX.cast_unsigned());
        let end = at.checked_add(count).filter(|end| *end <= limit);
        end.ok_or(CopyError::TooMuch { what: "bytes of one file", limit })
    }

    fn spend(&mut self, count: u64) -> Result<(), CopyError> {
        let left = self.left.checked_sub(count);
        self.left = left.ok_or(CopyError::TooMuch { what: "bytes", limit: self.limits.bytes })?;
        Ok(())
    }
}
