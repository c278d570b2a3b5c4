//! File contents on their way from the archive to the image: an unlinked temporary file.
//!
//! The contents cannot go straight into the image. Their place is known only when the tree is complete, and what a
//! later layer deletes must not be in the image at all.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::format::BLOCK;

const CHUNK: usize = 64 * 1024;

/// Which file a range is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    Spool,
    /// The data of the image's layer of this number: already on its disk.
    Layer(u32),
}

/// A range of the spool or of a layer's data: the contents of one regular file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    pub(crate) place: Place,
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

impl Extent {
    /// No contents.
    pub(crate) const EMPTY: Extent = Extent { place: Place::Spool, offset: 0, len: 0 };

    pub(crate) fn in_layer(number: u32, first_block: u32, len: u64) -> Extent {
        Extent { place: Place::Layer(number), offset: u64::from(first_block) * BLOCK, len }
    }

    /// The size of the file in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the file has no contents.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Contents that may have holes.
pub(crate) trait Source: Read {
    /// Skips the hole that is next, and returns its length: 0 where there is none.
    fn skip_hole(&mut self) -> u64;
}

/// Contents without holes.
pub(crate) struct Dense<R>(pub(crate) R);

impl<R: Read> Read for Dense<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl<R: Read> Source for Dense<R> {
    fn skip_hole(&mut self) -> u64 {
        0
    }
}

/// An unlinked temporary file that holds the contents of all files of a tree.
#[derive(Debug)]
pub struct Spool {
    file: File,
    len: u64,
    chunk: Vec<u8>,
}

impl Spool {
    /// A spool in `dir`, which should have room for all contents; the space is given back when the spool is dropped.
    ///
    /// # Errors
    /// When no temporary file can be created there.
    pub fn in_dir(dir: &Path) -> io::Result<Self> {
        Ok(Self { file: tempfile::tempfile_in(dir)?, len: 0, chunk: vec![0; CHUNK] })
    }

    /// A spool that writes to this file, which is empty.
    pub(crate) fn over(file: File) -> Spool {
        Spool { file, len: 0, chunk: vec![0; CHUNK] }
    }

    /// Goes to the next block boundary, and returns the number of blocks before it.
    pub(crate) fn fill_block(&mut self) -> io::Result<u32> {
        self.len = self.len.next_multiple_of(BLOCK);
        // A hole, also where the last bytes were zeros.
        self.file.set_len(self.len)?;
        u32::try_from(self.len / BLOCK).map_err(|_| io::ErrorKind::FileTooLarge.into())
    }

    /// Number of bytes appended so far.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Appends all of `reader`. Chunks of zeros stay holes: a sparse disk image inside an archive costs no space here,
    /// and no time where the archive says where the holes are.
    pub(crate) fn append(&mut self, reader: &mut impl Source) -> io::Result<Extent> {
        let offset = self.len;
        loop {
            self.len = self.len.checked_add(reader.skip_hole()).ok_or(io::ErrorKind::FileTooLarge)?;
            let filled = read_up_to(reader, &mut self.chunk)?;
            let data = self.chunk.get(..filled).unwrap_or_default();
            if !is_zero(data) {
                self.file.write_all_at(data, self.len)?;
            }
            self.len += filled as u64;
            if filled < CHUNK {
                return Ok(Extent { place: Place::Spool, offset, len: self.len - offset });
            }
        }
    }

    /// A file of zeros, without reading gigabytes.
    #[cfg(test)]
    pub(crate) fn append_zeros(&mut self, len: u64) -> Extent {
        let offset = self.len;
        self.len += len;
        Extent { place: Place::Spool, offset, len }
    }

    /// Fills `buf` with the contents of `extent` from `position` on. What was never written is a hole, also at the end
    /// of the file, and reads as zeros.
    pub(crate) fn read(&self, extent: Extent, position: u64, buf: &mut [u8]) -> io::Result<()> {
        let within = extent.place == Place::Spool
            && position.checked_add(buf.len() as u64).is_some_and(|end| end <= extent.len);
        if !within {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "read past the end of a spooled file"));
        }
        let mut at = extent.offset + position;
        let mut rest = buf;
        while !rest.is_empty() {
            match self.file.read_at(rest, at) {
                Ok(0) => {
                    rest.fill(0);
                    return Ok(());
                }
                Ok(n) => {
                    at += n as u64;
                    rest = rest.split_at_mut_checked(n).map(|(_, tail)| tail).unwrap_or_default();
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// Whether there are only zeros. Compares blocks, which is fast in debug builds too.
pub(crate) fn is_zero(data: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    data.chunks(ZEROS.len()).all(|chunk| ZEROS.starts_with(chunk))
}

/// Reads until `buf` is full or the reader ends; returns the number of bytes.
pub(crate) fn read_up_to(reader: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spool() -> Spool {
        Spool::in_dir(&std::env::temp_dir()).unwrap()
    }

    #[test]
    fn contents_come_back() {
        let mut spool = spool();
        let first = spool.append(&mut Dense(&b"hello"[..])).unwrap();
        let big: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
        let second = spool.append(&mut Dense(big.as_slice())).unwrap();
        let mut buf = vec![0; 5];
        spool.read(first, 0, &mut buf).unwrap();
        assert_eq!(buf, b"hello");
        let mut buf = vec![0; 199_990];
        spool.read(second, 10, &mut buf).unwrap();
        assert_eq!(buf, big[10..]);
        assert!(spool.read(first, 1, &mut [0; 5]).is_err(), "past the end of the extent");
    }

    #[test]
    fn zeros_take_no_space_and_read_as_zeros() {
        let mut spool = spool();
        let extent = spool.append(&mut Dense(io::repeat(0).take(10 << 20))).unwrap();
        assert_eq!(extent.len(), 10 << 20);
        assert_eq!(spool.file.metadata().unwrap().len(), 0, "all a hole");
        let mut buf = vec![1; 4096];
        spool.read(extent, (10 << 20) - 4096, &mut buf).unwrap();
        assert_eq!(buf, vec![0; 4096]);
    }
}
