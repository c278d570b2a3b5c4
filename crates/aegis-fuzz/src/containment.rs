//! A directory with a fence around it: whatever a target does in it must leave its surroundings as they were.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// What a file outside says. A target that shows it has read outside its directory.
const SECRET: &[u8] = b"the contents of a file outside";

/// A directory `inside` with links that lead out of it, beside files that nobody may touch.
#[derive(Debug)]
pub struct Fence {
    root: TempDir,
    before: BTreeMap<PathBuf, Fingerprint>,
}

/// What of a file shows that it was changed.
#[derive(Debug, PartialEq, Eq)]
struct Fingerprint {
    inode: u64,
    mode: u32,
    owner: (u32, u32),
    links: u64,
    size: u64,
    modified: (i64, i64),
    contents: Vec<u8>,
}

impl Fingerprint {
    fn of(path: &Path) -> std::io::Result<Fingerprint> {
        let meta = path.symlink_metadata()?;
        let contents = match meta.file_type() {
            kind if kind.is_file() => fs::read(path)?,
            kind if kind.is_symlink() => fs::read_link(path)?.as_os_str().as_bytes().to_vec(),
            _ => Vec::new(),
        };
        Ok(Fingerprint {
            inode: meta.ino(),
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            links: meta.nlink(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            contents,
        })
    }
}

impl Fence {
    /// Makes one.
    ///
    /// # Panics
    /// If there is no room.
    #[must_use]
    pub fn new() -> Fence {
        Fence::build().unwrap_or_else(|error| panic!("no directory to work in: {error}"))
    }

    fn build() -> std::io::Result<Fence> {
        let root = TempDir::new_in(crate::scratch())?;
        let at = |path: &str| root.path().join(path);
        fs::create_dir_all(at("outside/d"))?;
        fs::write(at("outside/f"), SECRET)?;
        fs::write(at("outside/d/f"), SECRET)?;
        symlink("f", at("outside/l"))?;
        fs::create_dir_all(at("inside/d"))?;
        fs::write(at("inside/f"), "a file")?;
        symlink("../outside", at("inside/l"))?;
        symlink("../outside/f", at("inside/m"))?;
        symlink("../../outside/d", at("inside/d/l"))?;
        let mut fence = Fence { root, before: BTreeMap::new() };
        fence.before = fence.all();
        Ok(fence)
    }

    /// The directory that may be used.
    #[must_use]
    pub fn inside(&self) -> PathBuf {
        self.root.path().join("inside")
    }

    /// All that there is.
    fn all(&self) -> BTreeMap<PathBuf, Fingerprint> {
        let mut found = BTreeMap::new();
        let mut pending = vec![self.root.path().to_owned()];
        while let Some(dir) = pending.pop() {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                let path = entry.path();
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    pending.push(path.clone());
                }
                if let Ok(fingerprint) = Fingerprint::of(&path) {
                    found.insert(path, fingerprint);
                }
            }
        }
        found
    }

    /// Checks that nothing around the directory has changed.
    ///
    /// # Panics
    /// If something has.
    pub fn check(&self) {
        let inside = self.inside();
        self.compare(|path| !path.starts_with(&inside));
    }

    /// Checks that nothing at all has changed.
    ///
    /// # Panics
    /// If something has.
    pub fn check_untouched(&self) {
        self.compare(|_| true);
    }

    fn compare(&self, of: impl Fn(&Path) -> bool) {
        let now = self.all();
        let before = self.before.iter().filter(|(path, _)| of(path));
        let now = now.iter().filter(|(path, _)| of(path));
        for ((path, before), (now_path, now)) in before.clone().zip(now.clone()) {
            assert_eq!((path, before), (now_path, now), "{} was changed", path.display());
        }
        assert_eq!(now.count(), before.count(), "there is something new, or something is gone");
    }

    /// Checks that what a target says shows nothing of what is outside.
    ///
    /// # Panics
    /// If it does.
    pub fn check_shown(&self, shown: &[u8]) {
        assert!(!shown.windows(SECRET.len()).any(|part| part == SECRET), "it shows what is outside");
    }
}

impl Default for Fence {
    fn default() -> Fence {
        Fence::new()
    }
}

impl Drop for Fence {
    fn drop(&mut self) {
        // What a target made without permissions is to go as well.
        let mut pending = vec![self.root.path().to_owned()];
        while let Some(dir) = pending.pop() {
            let _absent = fs::set_permissions(&dir, fs::Permissions::from_mode(0o700));
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    pending.push(entry.path());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_inside_is_nobodys_business() {
        let fence = Fence::new();
        fence.check_untouched();
        fs::remove_dir_all(fence.inside().join("d")).unwrap();
        fs::write(fence.inside().join("new"), "x").unwrap();
        fence.check();
        fence.check_shown(b"a file");
        assert!(std::panic::catch_unwind(|| fence.check_untouched()).is_err());
    }

    #[test]
    fn each_change_outside_is_noticed() {
        let changes: [fn(&Path); 5] = [
            |outside| fs::write(outside.join("new"), "x").unwrap(),
            |outside| fs::write(outside.join("f"), "x").unwrap(),
            |outside| fs::remove_file(outside.join("l")).unwrap(),
            |outside| fs::set_permissions(outside.join("d"), fs::Permissions::from_mode(0o700)).unwrap(),
            |outside| fs::hard_link(outside.join("d/f"), outside.join("../inside/n")).unwrap(),
        ];
        for change in changes {
            let fence = Fence::new();
            change(&fence.inside().join("../outside"));
            assert!(std::panic::catch_unwind(|| fence.check()).is_err());
        }
    }
}
