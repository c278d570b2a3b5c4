//! What the fuzz targets of several crates share. For fuzzing and tests only: a failure is a panic.
//!
//! A crate that parses untrusted bytes has a module `fuzz` with a function for each parser, [`Target`], and a table of them
//! by name. `fuzz/` drives these functions with libFuzzer; `cargo test` feeds them the committed seeds, see [`replay`].

mod archive;
mod containment;

use std::fs;
use std::path::{Path, PathBuf};

pub use archive::mend_archive;
pub use containment::Fence;

/// A function that takes any bytes, and panics if an invariant does not hold.
pub type Target = fn(&[u8]);

/// Where the seeds of a target are, those that once made it fail included.
#[must_use]
pub fn seeds(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target)
}

/// Where targets make files: in memory, where there is a file system for that.
#[must_use]
pub fn scratch() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() }
}

/// Feeds each target its seeds, whole and cut short.
///
/// # Panics
/// If a target does, or has no seeds.
#[expect(clippy::print_stderr, reason = "whoever reads of a panic wants to know the input")]
pub fn replay(targets: &[(&str, Target)]) {
    for (name, target) in targets {
        let dir = seeds(name);
        let files = fs::read_dir(&dir).into_iter().flatten().flatten();
        let mut files: Vec<PathBuf> = files.map(|entry| entry.path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{} has no seeds", dir.display());
        for file in files {
            let bytes = fs::read(&file).unwrap_or_default();
            eprintln!("{}", file.display());
            target(&bytes);
            for cut in [bytes.len() / 2, bytes.len().saturating_sub(1)] {
                target(bytes.get(..cut).unwrap_or_default());
            }
        }
    }
}

/// Takes numbers from the front of a target's bytes; zeros when they are used up.
#[derive(Debug, Clone)]
pub struct Bytes<'b>(pub &'b [u8]);

impl<'b> Bytes<'b> {
    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    /// The next two bytes as a number.
    pub fn short(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// So many bytes, or as many as are left.
    pub fn take(&mut self, count: usize) -> &'b [u8] {
        let (taken, rest) = self.0.split_at_checked(count).unwrap_or((self.0, &[]));
        self.0 = rest;
        taken
    }

    /// Pieces, each preceded by its length as two bytes.
    pub fn pieces(mut self) -> impl Iterator<Item = &'b [u8]> {
        std::iter::from_fn(move || {
            let count = usize::from(self.short());
            (!self.0.is_empty()).then(|| self.take(count))
        })
    }
}
