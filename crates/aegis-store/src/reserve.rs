//! Room that is kept so that it can be given up: with it a daemon on a full disk starts, stores and deletes.
//!
//! ```text
//! data/reserve/space      allocated blocks
//! data/reserve/0 … 31     empty files, for inodes
//! ```

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::free_space::Room;
use crate::orphans::PARTIAL;

/// Most that is kept, bytes: several times what the registry's log takes.
const MOST_BYTES: u64 = 32 << 20;
/// Least, bytes.
const LEAST_BYTES: u64 = 1 << 20;
/// Inodes that are kept.
const INODES: u64 = 32;
/// Zeroes are written in pieces of that size, bytes.
const PIECE: usize = 1 << 20;

/// The reserve of one home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reserve {
    dir: PathBuf,
}

/// How much is kept on a file system of this size, bytes.
#[must_use]
pub fn size(room: &Room) -> u64 {
    (room.total_bytes / 100).clamp(LEAST_BYTES, MOST_BYTES)
}

impl Reserve {
    /// The reserve in this directory, which need not exist.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Reserve {
        Reserve { dir: dir.into() }
    }

    fn space(&self) -> PathBuf {
        self.dir.join("space")
    }

    /// Bytes that are kept; `None` if none are.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        fs::metadata(self.space()).ok().map(|meta| meta.len())
    }

    /// Gives it up, and returns whether there was one.
    ///
    /// # Errors
    /// The system's, if there is one and it stays.
    pub fn release(&self) -> io::Result<bool> {
        match fs::remove_dir_all(&self.dir) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Gives it up if so little is left that a daemon could not begin its work, and returns whether it did.
    ///
    /// # Errors
    /// The system's.
    pub fn release_if_full(&self) -> io::Result<bool> {
        let room = Room::at(&self.dir)?;
        let no_inodes = room.total_inodes > 0 && room.free_inodes < INODES;
        if room.free_bytes < size(&room) || no_inodes { self.release() } else { Ok(false) }
    }

    /// Makes it, if there is none. The caller has made sure that there is room. Blocks.
    ///
    /// # Errors
    /// The system's; then there is none.
    pub fn keep(&self) -> io::Result<()> {
        if self.bytes().is_some() {
            return Ok(());
        }
        self.make(size(&Room::at(&self.dir)?)).inspect_err(|_| {
            // Half a reserve is room that is gone for nothing.
            let _left = self.release();
        })
    }

    fn make(&self, bytes: u64) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        for number in 1..INODES {
            File::create(self.dir.join(number.to_string()))?;
        }
        let partial = self.dir.join(format!("space{PARTIAL}"));
        fill(&File::create(&partial)?, bytes)?;
        fs::rename(partial, self.space())
    }
}

/// Gives a file blocks of its own. One with a hole in it would keep nothing.
fn fill(file: &File, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
        allocated => return Ok(allocated?),
    }
    let zeroes = vec![0; PIECE];
    let mut left = bytes;
    while left > 0 {
        let piece = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        let mut file = file;
        file.write_all(zeroes.get(..piece).unwrap_or_default())?;
        left -= piece as u64;
    }
    file.sync_all()
}

/// The reserve of the home whose data are in this directory.
#[must_use]
pub fn in_data(data: &Path) -> Reserve {
    Reserve::new(data.join("reserve"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_what_it_says_and_gives_it_back() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = in_data(dir.path());
        assert_eq!((reserve.bytes(), reserve.release().unwrap()), (None, false));
        reserve.keep().unwrap();
        let bytes = reserve.bytes().unwrap();
        assert!((LEAST_BYTES..=MOST_BYTES).contains(&bytes));
        assert!(crate::free_space::allocated(&reserve.space()) >= bytes, "a sparse file keeps nothing");
        assert_eq!(fs::read_dir(&reserve.dir).unwrap().count() as u64, INODES);
        reserve.keep().unwrap();
        assert!(!reserve.release_if_full().unwrap() && reserve.bytes() == Some(bytes));
        assert!(reserve.release().unwrap());
        assert_eq!((reserve.bytes(), reserve.release().unwrap()), (None, false));
    }

    #[test]
    fn what_cannot_be_made_whole_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = in_data(dir.path());
        // Something that cannot be replaced is in the way.
        fs::create_dir_all(reserve.dir.join(format!("space{PARTIAL}"))).unwrap();
        reserve.keep().unwrap_err();
        assert!(!reserve.dir.exists());
    }

    #[test]
    fn it_fits_the_file_system() {
        let of = |total_bytes| size(&Room { total_bytes, free_bytes: 0, total_inodes: 0, free_inodes: 0 });
        assert_eq!((of(10 << 40), of(500 << 20), of(10 << 20)), (MOST_BYTES, 5 << 20, LEAST_BYTES));
    }
}
