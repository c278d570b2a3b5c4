//! The standard error of a monitor, in a file that has no name and a bound: whoever takes it over fills no disk by it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

use crate::console;

/// Longest of all that it says, bytes. What goes beyond is refused, by a seal.
const MOST: usize = 64 << 10;

/// A file for it to write to, full of zeroes.
pub(crate) fn file() -> io::Result<File> {
    let file = memfd_create("aegis-monitor-log", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&file, MOST as u64)?;
    fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(file.into())
}

/// The last lines that it has written, printable.
pub(crate) fn last(file: &File, lines: usize) -> Vec<String> {
    let mut bytes = vec![0; MOST];
    let read = file.read_at(&mut bytes, 0).unwrap_or(0);
    bytes.truncate(read);
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    console::last_lines(bytes.get(..end).unwrap_or_default(), lines)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_is_said_is_read_and_is_bounded() {
        let mut log = file().unwrap();
        writeln!(log, "one\ntwo\x1b[0m\nthree").unwrap();
        assert_eq!(last(&log, 2).len(), 2);
        assert_eq!(last(&log, 1), ["three"]);
        let flood = vec![b'x'; MOST];
        assert!(log.write_all(&flood).is_err());
        assert_eq!(log.metadata().unwrap().len(), MOST as u64);
    }
}
