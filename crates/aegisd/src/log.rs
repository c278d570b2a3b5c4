//! The daemon's own log: bounded in size, and never a reason to end.
//!
//! A write that fails, for instance because the disk is full, is counted and otherwise ignored. When the file has
//! reached its limit it becomes `aegisd.log.1`, in the place of an older one, and a new file begins.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::fmt::MakeWriter;

/// Size at which a new file begins, bytes. With the older file the log takes twice as much at most.
const LIMIT: u64 = 16 << 20;

/// Where the daemon's log goes. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct DaemonLog(Arc<Mutex<Target>>);

#[derive(Debug)]
enum Target {
    /// A terminal, a pipe, or a file that somebody else looks after.
    Stderr,
    Kept(Kept),
}

#[derive(Debug)]
struct Kept {
    path: PathBuf,
    file: File,
    size: u64,
    limit: u64,
    /// Lines that could not be written since the last one that was.
    lost: u64,
    /// Whether standard output and standard error lead to the file, and are to follow it.
    is_stderr: bool,
}

impl DaemonLog {
    /// The log at `path` if standard error leads there, as `aegis up` arranges it; otherwise standard error.
    pub(crate) fn open(path: PathBuf) -> DaemonLog {
        let kept = leads_to(&path).and_then(|()| Kept::open(path, LIMIT, true));
        DaemonLog(Arc::new(Mutex::new(kept.map_or(Target::Stderr, Target::Kept))))
    }
}

/// Whether standard error is this file.
fn leads_to(path: &Path) -> io::Result<()> {
    let (ours, named) = (rustix::fs::fstat(rustix::stdio::stderr())?, rustix::fs::stat(path)?);
    let same = (ours.st_dev, ours.st_ino) == (named.st_dev, named.st_ino);
    if same { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
}

fn append(path: &Path) -> io::Result<File> {
    File::options().append(true).create(true).open(path)
}

impl Kept {
    fn open(path: PathBuf, limit: u64, is_stderr: bool) -> io::Result<Kept> {
        let file = append(&path)?;
        let size = file.metadata()?.len();
        Ok(Kept { path, file, size, limit, lost: 0, is_stderr })
    }

    fn write(&mut self, line: &[u8]) {
        if self.size.saturating_add(line.len() as u64) > self.limit && self.size > 0 {
            self.begin_anew();
        }
        if self.lost > 0 {
            let told =
                format!("aegisd: {} lines of this log were lost: it could not be written\n", self.lost);
            if self.file.write_all(told.as_bytes()).is_err() {
                self.lost += 1;
                return;
            }
            self.lost = 0;
            self.size += told.len() as u64;
        }
        match self.file.write_all(line) {
            Ok(()) => self.size += line.len() as u64,
            Err(_) => self.lost += 1,
        }
    }

    fn begin_anew(&mut self) {
        let older = self.path.with_extension("log.1");
        self.size = 0;
        match fs::rename(&self.path, &older).and_then(|()| append(&self.path)) {
            Ok(file) => {
                if self.is_stderr {
                    // What is written there from now on would be in the older file otherwise, and no worse for that.
                    let _followed = (rustix::stdio::dup2_stdout(&file), rustix::stdio::dup2_stderr(&file));
                }
                self.file = file;
            }
            Err(_) => {
                // No room for another file. Without an emptied one the log would have no bound.
                let _back = fs::rename(&older, &self.path);
                let _emptied = self.file.set_len(0);
            }
        }
    }
}

/// Takes one line. Nothing that goes wrong with it is told to whoever logs.
#[derive(Debug)]
pub(crate) struct Line<'a>(&'a DaemonLog);

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match &mut *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Target::Kept(kept) => kept.write(line),
            // Nobody is left to tell if this fails.
            Target::Stderr => drop(io::stderr().write_all(line)),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for DaemonLog {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn log(path: &Path, limit: u64) -> DaemonLog {
        let kept = Kept::open(path.to_owned(), limit, false).unwrap();
        DaemonLog(Arc::new(Mutex::new(Target::Kept(kept))))
    }

    #[test]
    fn a_log_that_cannot_be_written_is_no_failure_and_says_so_later() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("aegisd.log");
        let full = DaemonLog(Arc::new(Mutex::new(Target::Kept(Kept {
            file: File::options().write(true).open("/dev/full").unwrap(),
            ..Kept::open(path.clone(), 1000, false).unwrap()
        }))));
        for _ in 0..3 {
            full.make_writer().write_all(b"lost\n").unwrap();
        }
        let Target::Kept(kept) = &mut *full.0.lock().unwrap() else { return };
        kept.file = append(&path).unwrap();
        kept.write(b"there\n");
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, "aegisd: 3 lines of this log were lost: it could not be written\nthere\n");
    }

    #[test]
    fn a_log_that_was_left_too_long_is_put_aside_at_the_first_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("aegisd.log");
        fs::write(&path, [b'x'; 200]).unwrap();
        log(&path, 100).make_writer().write_all(b"new\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new\n");
        assert_eq!(fs::read(dir.path().join("aegisd.log.1")).unwrap().len(), 200);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 50, ..ProptestConfig::default() })]

        #[test]
        fn a_flood_is_bounded_and_the_newest_lines_are_there(
            lengths in proptest::collection::vec(1usize..60, 1..80), limit in 60u64..300,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("aegisd.log");
            let log = log(&path, limit);
            let mut all = Vec::new();
            for (number, length) in lengths.into_iter().enumerate() {
                let line = format!("{}\n", (number % 10).to_string().repeat(length - 1));
                log.make_writer().write_all(line.as_bytes()).unwrap();
                all.extend(line.into_bytes());
                prop_assert!(fs::metadata(&path).unwrap().len() <= limit);
            }
            let older = fs::read(dir.path().join("aegisd.log.1")).unwrap_or_default();
            prop_assert!(older.len() as u64 <= limit);
            let kept = [older, fs::read(&path).unwrap()].concat();
            prop_assert!(all.ends_with(&kept) && !kept.is_empty());
        }
    }
}
