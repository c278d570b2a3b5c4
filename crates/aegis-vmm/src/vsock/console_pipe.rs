//! The pipe that a machine's serial console is.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags};
use tokio::net::unix::pipe::{OpenOptions, Receiver};

/// A pipe with a name, which a later daemon finds again: an end for the machine to write to, which never waits and is never
/// closed to it, and one to read from.
pub(super) fn make(path: &Path) -> io::Result<(File, Receiver)> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let written = rustix::fs::open(path, flags, Mode::empty())?;
    Ok((written.into(), open(path)?))
}

/// The end to read from, of one that is there.
pub(super) fn open(path: &Path) -> io::Result<Receiver> {
    OpenOptions::new().open_receiver(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_console_that_nobody_reads_stops_no_machine_and_one_that_is_read_later_is_heard() {
        use std::io::Write;
        use tokio::io::AsyncReadExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console");
        let (mut written, reading) = make(&path).unwrap();
        drop(reading);
        written.write_all(b"kept\n").unwrap();
        let full = (0..1000).find_map(|_| written.write(&[b'x'; 4096]).err()).unwrap();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        let mut heard = [0; 5];
        open(&path).unwrap().read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"kept\n");
    }
}
