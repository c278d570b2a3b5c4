//! What the guest prints on its console: kept, within bounds, for the day the boot fails.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{oneshot, watch};

/// When the file has this size it becomes the `.1` file, and a new one begins.
const HALF: u64 = 128 << 10;
/// What a kernel's last words begin with.
const PANIC: &[u8] = b"Kernel panic - not syncing";
/// Longest line that is looked at as a whole.
const LONGEST_LINE: usize = 512;

/// A console being read, until this is dropped.
#[derive(Debug)]
pub struct Console {
    panic: watch::Receiver<Option<String>>,
    _wanted: oneshot::Sender<()>,
}

impl Console {
    /// Copies `stream` to the file until it ends, and looks for a panic in it.
    #[must_use]
    pub fn record(stream: impl AsyncRead + Unpin + Send + 'static, file: PathBuf) -> Console {
        let (tell, panic) = watch::channel(None);
        let (_wanted, mut unwanted) = oneshot::channel::<()>();
        // Owned by what is returned, and by the stream: ends with either.
        tokio::spawn(async move {
            tokio::select! {
                () = record(stream, file, tell) => {}
                _dropped = &mut unwanted => {}
            }
        });
        Console { panic, _wanted }
    }

    /// The panic's line, once there is one.
    #[must_use]
    pub fn panic(&self) -> Option<String> {
        self.panic.borrow().clone()
    }

    /// Waits for a panic; returns `None` when the console ends without one.
    pub async fn panicked(&self) -> Option<String> {
        let mut panic = self.panic.clone();
        panic.wait_for(Option::is_some).await.ok().and_then(|line| line.clone())
    }
}

async fn record(mut stream: impl AsyncRead + Unpin, path: PathBuf, tell: watch::Sender<Option<String>>) {
    let mut file = BoundedFile::open(path);
    let mut scanner = Scanner::default();
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        let bytes = buffer.get(..count).unwrap_or_default();
        // A full disk costs the copy, nothing else.
        let _lost = file.write(bytes);
        if let Some(line) = scanner.feed(bytes) {
            tell.send_replace(Some(line));
        }
    }
    if let Some(line) = scanner.finish() {
        tell.send_replace(Some(line));
    }
}

/// Finds the panic's line in a stream of bytes.
#[derive(Debug, Default)]
struct Scanner {
    line: Vec<u8>,
}

impl Scanner {
    fn feed(&mut self, bytes: &[u8]) -> Option<String> {
        let mut found = None;
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = LONGEST_LINE - self.line.len().min(LONGEST_LINE);
            self.line.extend_from_slice(part.get(..room.min(part.len())).unwrap_or_default());
            if part.ends_with(b"\n") {
                found = found.or(self.finish());
            }
        }
        found
    }

    fn finish(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.line);
        let at = line.windows(PANIC.len()).position(|window| window == PANIC)?;
        Some(printable(line.get(at..).unwrap_or_default()))
    }
}

/// Guest text for a host's terminal: no control characters.
fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).collect()
}

#[derive(Debug)]
struct BoundedFile {
    path: PathBuf,
    file: Option<File>,
    size: u64,
}

impl BoundedFile {
    fn open(path: PathBuf) -> BoundedFile {
        let file = File::options().append(true).create(true).open(&path).ok();
        let size = file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |meta| meta.len());
        BoundedFile { path, file, size }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.size >= HALF {
            fs::rename(&self.path, older(&self.path))?;
            self.file = Some(File::create(&self.path)?);
            self.size = 0;
        }
        if let Some(file) = &mut self.file {
            file.write_all(bytes)?;
            self.size += bytes.len() as u64;
        }
        Ok(())
    }
}

fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// The last `lines` lines of a recorded console, printable; empty if there is none.
#[must_use]
pub fn tail(path: &Path, lines: usize) -> Vec<String> {
    let mut bytes = fs::read(older(path)).unwrap_or_default();
    bytes.extend(fs::read(path).unwrap_or_default());
    last_lines(&bytes, lines)
}

/// The last lines that hold anything, printable.
pub(crate) fn last_lines(bytes: &[u8], lines: usize) -> Vec<String> {
    let all: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    all.iter().skip(all.len().saturating_sub(lines)).map(|line| printable(line)).collect()
}

/// Pieces of what a guest prints, as [`crate::fuzz`] has them.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn fuzz<'p>(pieces: impl Iterator<Item = &'p [u8]>) {
    let (mut scanner, mut whole) = (Scanner::default(), Vec::new());
    let mut found = None;
    for piece in pieces {
        whole.extend_from_slice(piece);
        found = found.or(scanner.feed(piece));
        assert!(scanner.line.len() <= LONGEST_LINE);
    }
    found = found.or(scanner.finish());
    if let Some(line) = &found {
        assert!(line.starts_with("Kernel panic") && !line.chars().any(char::is_control), "{line:?}");
    }
    let mut scanner = Scanner::default();
    let at_once = scanner.feed(&whole).or_else(|| scanner.finish());
    assert_eq!(found, at_once, "it depends on how it is cut");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_panic_is_found_however_it_is_cut(before in "[a-z\n]{0,40}", cut in 1usize..20) {
            let text = format!("{before}\n[    1.0] Kernel panic - not syncing: sysrq\x07 triggered\nmore\n");
            let mut scanner = Scanner::default();
            let found = text.as_bytes().chunks(cut).filter_map(|chunk| scanner.feed(chunk)).next();
            prop_assert_eq!(found.as_deref(), Some("Kernel panic - not syncing: sysrq triggered"));
        }

        #[test]
        fn arbitrary_bytes_stay_bounded(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..900), 0..8)) {
            let mut scanner = Scanner::default();
            for chunk in chunks {
                scanner.feed(&chunk);
                prop_assert!(scanner.line.len() <= LONGEST_LINE);
            }
        }
    }

    #[tokio::test]
    async fn a_flood_stays_within_bounds_and_its_end_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        let mut file = BoundedFile::open(path.clone());
        for number in 0..60_000 {
            file.write(format!("line {number}\n").as_bytes()).unwrap();
        }
        let total = fs::metadata(&path).unwrap().len() + fs::metadata(older(&path)).unwrap().len();
        assert!(total <= 2 * HALF + 100);
        assert_eq!(tail(&path, 2), ["line 59998", "line 59999"]);
    }
}
