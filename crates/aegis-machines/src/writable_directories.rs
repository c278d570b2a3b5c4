//! Which directories of the host guests could write, also guests that are no more. What is in one of them may be a symbolic
//! link that a guest put there, and leads where that guest likes.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aegis_paths::Identity;

/// Most that are remembered; a line of the file has some 70 bytes.
const MOST: usize = 1 << 16;
/// Longest file that is read, bytes.
const MOST_BYTES: u64 = 16 << 20;

/// What was shown for writing, each directory once. In a file of JSON lines, to which is only added.
#[derive(Debug)]
pub struct WritableDirectories {
    path: PathBuf,
    all: Mutex<HashSet<Identity>>,
}

impl WritableDirectories {
    /// Reads what an earlier daemon noted. Lines that are none, as after a crash, are left out.
    pub fn open(path: PathBuf) -> WritableDirectories {
        let all = File::open(&path).map(read).unwrap_or_default();
        WritableDirectories { path, all: Mutex::new(all) }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<Identity>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes directories before a guest sees them. What cannot be written down holds until the daemon ends.
    pub fn note(&self, directories: impl IntoIterator<Item = Identity>) {
        let mut all = self.lock();
        let fresh: Vec<Identity> =
            directories.into_iter().filter(|one| all.len() < MOST && all.insert(*one)).collect();
        if let Err(error) = self.write(&fresh) {
            tracing::warn!(%error, "cannot note which directories guests may write");
        }
    }

    fn write(&self, fresh: &[Identity]) -> io::Result<()> {
        if fresh.is_empty() {
            return Ok(());
        }
        let lines: Vec<String> = fresh.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
        // Behind a line that a crash has cut, too.
        file.write_all(format!("\n{}\n", lines.join("\n")).as_bytes())?;
        file.sync_data()
    }

    /// Whether one of these was shown: a directory and all above it.
    pub fn covers(&self, above: &[Identity]) -> bool {
        // The set cannot tell: the number of a device may be another one after a boot of the host.
        self.lock().iter().any(|shown| above.iter().any(|one| shown.is(one)))
    }
}

fn read(file: File) -> HashSet<Identity> {
    let lines = BufReader::new(io::Read::take(file, MOST_BYTES)).split(b'\n').map_while(Result::ok);
    lines.filter_map(|line| serde_json::from_slice(&line).ok()).take(MOST).collect()
}

/// A file for it in the directory of what is durable.
pub fn path_in(data: &Path) -> PathBuf {
    data.join("shown.jsonl")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_shown_is_known_to_the_next_daemon_whatever_a_crash_has_cut() {
        let dir = tempfile::tempdir().unwrap();
        let one = |ino| Identity { dev: 1, ino, birth: Some(7) };
        let path = path_in(dir.path());
        WritableDirectories::open(path.clone()).note([one(1), one(2), one(1)]);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, whole.get(..whole.len() - 5).unwrap()).unwrap();
        let shown = WritableDirectories::open(path.clone());
        assert!(shown.covers(&[one(9), one(1)]) && !shown.covers(&[one(2), one(3)]));
        shown.note([one(3)]);
        let moved = Identity { dev: 2, ..one(3) };
        assert!(WritableDirectories::open(path).covers(&[moved]), "after a boot that numbers devices anew");
    }
}
