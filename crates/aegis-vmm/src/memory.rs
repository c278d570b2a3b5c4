//! The memory of a machine, outside of it: in a file that has no name.
//!
//! A machine that is started from a [`Memory`] maps it privately: it reads what is there until it writes, and others
//! see nothing of that. That is sound only while nobody changes the file, so a `Memory` is sealed by the kernel before
//! anybody may have it: a hostile guest whose monitor it takes over cannot change what its siblings read.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, SeekFrom, fallocate, fcntl_add_seals, ftruncate, memfd_create,
    seek,
};
use rustix::io::Errno;

/// Name of the file, as `/proc/PID/maps` shows it.
pub(crate) const NAME: &str = "aegis-memory";

/// Unit in which zeroes are left out, bytes.
pub const PAGE: usize = 4096;

/// Memory that is still being filled.
#[derive(Debug)]
pub struct MemoryBuilder {
    file: File,
    bytes: u64,
}

/// Memory that nobody can change any more.
#[derive(Debug)]
pub struct Memory {
    file: File,
    bytes: u64,
}

impl MemoryBuilder {
    /// So many bytes of zeroes, which take no room.
    ///
    /// # Errors
    /// The system's.
    pub fn new(bytes: u64) -> io::Result<MemoryBuilder> {
        let file = memfd_create(NAME, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, bytes)?;
        // Whoever takes the monitor over makes it no larger than the machine.
        fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK)?;
        Ok(MemoryBuilder { file: file.into(), bytes })
    }

    /// How much it is, bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes room for a part that is about to be filled, which is half of the time that filling takes. It still counts
    /// as zeroes.
    pub(crate) fn reserve(&self, part: Range<u64>) -> io::Result<()> {
        Ok(fallocate(&self.file, FallocateFlags::empty(), part.start, part.end - part.start)?)
    }

    /// Fills a part, leaving out pages of zeroes. Several threads may do so at once.
    ///
    /// # Errors
    /// The system's; `InvalidInput` if the part is beyond the end.
    pub fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let end = u64::try_from(bytes.len()).ok().and_then(|len| at.checked_add(len));
        if end.is_none_or(|end| end > self.bytes) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for run in runs(bytes) {
            let part = bytes.get(run.clone()).unwrap_or_default();
            self.file.write_all_at(part, at + run.start as u64)?;
        }
        Ok(())
    }

    /// Seals it.
    ///
    /// `FUTURE_WRITE` is as strong as `WRITE` for a file that was never mapped, and nobody has mapped a draft. `WRITE`
    /// also walks all pages, and fails with `EBUSY` while the kernel itself holds one, as it does when it moves memory
    /// together.
    ///
    /// # Errors
    /// The system's.
    pub fn seal(self) -> io::Result<Memory> {
        fcntl_add_seals(
            &self.file,
            SealFlags::FUTURE_WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
        )?;
        Ok(Memory { file: self.file, bytes: self.bytes })
    }
}

impl AsFd for MemoryBuilder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Memory {
    /// How much it is, bytes; most of it may be zeroes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where there is something other than zeroes, in order.
    ///
    /// # Errors
    /// The system's.
    pub fn extents(&self) -> io::Result<Vec<Range<u64>>> {
        extents(&self.file, self.bytes)
    }

    /// Reads a part.
    ///
    /// # Errors
    /// The system's.
    pub fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, at)
    }
}

impl AsFd for Memory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Where the first `bytes` of a file are no holes, in order.
pub(crate) fn extents(file: impl AsFd, bytes: u64) -> io::Result<Vec<Range<u64>>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes {
        let start = match seek(&file, SeekFrom::Data(at)) {
            Ok(start) => start,
            // There is nothing but a hole.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        at = seek(&file, SeekFrom::Hole(start))?.min(bytes);
        if start >= at {
            break;
        }
        found.push(start..at);
    }
    Ok(found)
}

fn is_zero(page: &[u8]) -> bool {
    // Sixteen bytes at a time: the compiler makes one comparison of each.
    let (chunks, rest) = page.as_chunks::<16>();
    chunks.iter().all(|chunk| *chunk == [0; 16]) && rest.iter().all(|byte| *byte == 0)
}

/// The runs of pages that are not all zeroes.
fn runs(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (index, page) in bytes.chunks(PAGE).enumerate() {
        let start = index * PAGE;
        match runs.last_mut() {
            _ if is_zero(page) => {}
            Some(last) if last.end == start => last.end = start + page.len(),
            _ => runs.push(start..start + page.len()),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn room_that_is_reserved_and_not_filled_counts_as_zeroes() {
        let draft = MemoryBuilder::new(1 << 20).unwrap();
        draft.reserve(0..500_000).unwrap();
        draft.write(8192, &[7; 4096]).unwrap();
        let memory = draft.seal().unwrap();
        let filled = 8192..12288;
        assert_eq!(memory.extents().unwrap(), std::slice::from_ref(&filled));
        let mut bytes = [1; 4096];
        memory.read(4096, &mut bytes).unwrap();
        assert_eq!(bytes, [0; 4096]);
    }

    #[test]
    fn what_is_sealed_can_be_neither_written_nor_punched_nor_cut() {
        let draft = MemoryBuilder::new(1 << 20).unwrap();
        draft.write(8192, &[7; 5000]).unwrap();
        let memory = draft.seal().unwrap();
        assert!(memory.file.write_all_at(b"x", 8192).is_err());
        let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        assert_eq!(rustix::fs::fallocate(&memory.file, punch, 8192, 4096), Err(Errno::PERM));
        assert!(ftruncate(&memory.file, 0).is_err());
        let mut read = [0; 5000];
        memory.read(8192, &mut read).unwrap();
        assert_eq!(read, [7; 5000]);
        let extents = memory.extents().unwrap();
        assert_eq!((extents.len(), extents[0].clone()), (1, 8192..16384));
    }

    #[test]
    fn a_page_that_somebody_holds_for_a_moment_does_not_keep_it_from_being_sealed() {
        let draft = MemoryBuilder::new(1 << 20).unwrap();
        draft.write(0, &[7; 4096]).unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        // A pipe that a page was spliced into holds the page itself, as the kernel does while it moves one.
        let spliced = rustix::pipe::splice(
            &draft.file,
            Some(&mut 0),
            &writer,
            None,
            4096,
            rustix::pipe::SpliceFlags::empty(),
        );
        assert_eq!(spliced, Ok(4096));
        let memory = draft.seal().unwrap();
        assert!(memory.file.write_all_at(b"x", 0).is_err());
        drop(reader);
    }

    #[test]
    fn nothing_is_written_beyond_the_end() {
        let draft = MemoryBuilder::new(4096).unwrap();
        assert!(draft.write(4000, &[1; 97]).is_err());
        assert!(draft.write(u64::MAX, &[1]).is_err());
        draft.write(4000, &[1; 96]).unwrap();
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_and_zeroes_take_no_room(
            pages in proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 1..40),
            tail in 0usize..PAGE,
        ) {
            let mut bytes: Vec<u8> = pages.iter().flat_map(|byte| vec![*byte; PAGE]).collect();
            bytes.truncate(bytes.len() - tail);
            let draft = MemoryBuilder::new(1 << 20).unwrap();
            draft.write(0, &bytes).unwrap();
            let memory = draft.seal().unwrap();
            let mut read = vec![0xAA; bytes.len()];
            memory.read(0, &mut read).unwrap();
            prop_assert_eq!(&read, &bytes);
            let used: u64 = memory.extents().unwrap().iter().map(|run| run.end - run.start).sum();
            let written = pages.iter().filter(|byte| **byte != 0).count();
            prop_assert!(used <= (written * PAGE) as u64);
        }
    }
}
