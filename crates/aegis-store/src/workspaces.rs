//! Workspaces by name: directories of the home that instances see as `/workspace`.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aegis_paths::remove_tree;
use thiserror::Error;

/// What a directory that is being removed begins with; no name does.
const LEAVING: &str = ".removing-";

/// A workspace's failure.
#[derive(Debug, Error)]
pub enum WorkspaceError {
    /// No such workspace.
    #[error("there is no workspace {0:?}")]
    NotFound(String),
    /// It exists already.
    #[error("there is a workspace {0:?} already")]
    Exists(String),
    /// An instance sees it, or is about to.
    #[error("workspace {name:?} is in use by {user}")]
    InUse {
        /// Its name.
        name: String,
        /// By whom.
        user: String,
    },
    /// The file system failed.
    #[error("workspace {name:?}: {source}")]
    Io {
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// What a workspace holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Contents {
    /// Files, directories and all else.
    pub entries: u64,
    /// What they take on disk, bytes.
    pub bytes: u64,
}

/// All workspaces of a home. Clones share them.
#[derive(Debug, Clone)]
pub struct Workspaces {
    root: PathBuf,
    /// How many are about to record that they need one, by name.
    claims: Arc<Mutex<HashMap<String, usize>>>,
}

/// Keeps a workspace from being removed until whoever needs it has recorded that.
#[derive(Debug)]
pub struct Claim {
    name: String,
    claims: Arc<Mutex<HashMap<String, usize>>>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claims = lock(&self.claims);
        if let Some(count) = claims.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                claims.remove(&self.name);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(name: &str) -> impl Fn(io::Error) -> WorkspaceError {
    move |source| WorkspaceError::Io { name: name.to_owned(), source }
}

impl Workspaces {
    /// The workspaces in `root`, without what an earlier daemon had begun to remove.
    #[must_use]
    pub fn open(root: PathBuf) -> Workspaces {
        for entry in fs::read_dir(&root).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(LEAVING) {
                // It is tried again the next time.
                let _left = remove_tree(&entry.path());
            }
        }
        Workspaces { root, claims: Arc::default() }
    }

    /// Where a workspace is, or would be. The caller has checked the name: it is one component, and begins with no dot.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn make(&self, name: &str) -> Result<bool, WorkspaceError> {
        match fs::DirBuilder::new().mode(0o755).create(self.path(name)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(failed(name)(error)),
        }
    }

    /// Makes an empty workspace.
    ///
    /// # Errors
    /// [`WorkspaceError`].
    pub fn create(&self, name: &str) -> Result<(), WorkspaceError> {
        if self.make(name)? { Ok(()) } else { Err(WorkspaceError::Exists(name.to_owned())) }
    }

    /// Makes a workspace if there is none, and keeps it from being removed as long as the claim is held.
    ///
    /// # Errors
    /// [`WorkspaceError::Io`].
    pub fn claim(&self, name: &str) -> Result<Claim, WorkspaceError> {
        let mut claims = lock(&self.claims);
        self.make(name)?;
        *claims.entry(name.to_owned()).or_default() += 1;
        Ok(Claim { name: name.to_owned(), claims: Arc::clone(&self.claims) })
    }

    /// Names of all, sorted.
    #[must_use]
    pub fn names(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let names = directories.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| !name.starts_with('.')).collect()
    }

    /// What is in a workspace. Takes as long as its files are many.
    ///
    /// # Errors
    /// [`WorkspaceError::NotFound`].
    pub fn contents(&self, name: &str) -> Result<Contents, WorkspaceError> {
        let path = self.existing(name)?;
        let mut all = Contents::default();
        let mut linked = HashSet::new();
        let mut open = vec![path];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
                all.entries += 1;
                // Somebody may be writing there.
                let Ok(status) = entry.metadata() else { continue };
                if status.is_dir() {
                    open.push(entry.path());
                }
                if status.nlink() == 1 || status.is_dir() || linked.insert((status.dev(), status.ino())) {
                    all.bytes += status.blocks() * 512;
                }
            }
        }
        Ok(all)
    }

    fn existing(&self, name: &str) -> Result<PathBuf, WorkspaceError> {
        let path = self.path(name);
        if path.is_dir() { Ok(path) } else { Err(WorkspaceError::NotFound(name.to_owned())) }
    }

    /// Removes a workspace with all that is in it, unless somebody needs it.
    ///
    /// # Errors
    /// [`WorkspaceError`].
    pub fn remove(&self, name: &str, user: impl FnOnce() -> Option<String>) -> Result<(), WorkspaceError> {
        let leaving = self.root.join(format!("{LEAVING}{}", ulid::Ulid::generate()));
        {
            let claims = lock(&self.claims);
            let path = self.existing(name)?;
            let soon = claims.contains_key(name).then(|| "an instance that is being created".to_owned());
            if let Some(user) = soon.or_else(user) {
                return Err(WorkspaceError::InUse { name: name.to_owned(), user });
            }
            fs::rename(path, &leaving).map_err(failed(name))?;
        }
        remove_tree(&leaving).map_err(failed(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_is_made_at_its_first_use_and_not_removed_while_it_is_needed() {
        let dir = tempfile::tempdir().unwrap();
        let all = Workspaces::open(dir.path().to_owned());
        let claim = all.claim("w").unwrap();
        assert!(matches!(all.remove("w", || None), Err(WorkspaceError::InUse { .. })));
        drop(claim);
        let used = all.remove("w", || Some("web".into()));
        assert!(matches!(used, Err(WorkspaceError::InUse { user, .. }) if user == "web"));
        assert!(matches!(all.create("w"), Err(WorkspaceError::Exists(_))));
        fs::write(all.path("w").join("f"), "x").unwrap();
        assert_eq!(all.contents("w").unwrap().entries, 1);
        all.remove("w", || None).unwrap();
        assert!(all.names().is_empty());
        assert!(matches!(all.remove("w", || None), Err(WorkspaceError::NotFound(_))));
    }

    #[test]
    fn what_was_being_removed_when_the_daemon_died_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join(".removing-x/deep")).unwrap();
        fs::create_dir(dir.path().join("w")).unwrap();
        let all = Workspaces::open(dir.path().to_owned());
        assert_eq!(all.names().into_iter().collect::<Vec<_>>(), ["w"]);
        assert!(!dir.path().join(".removing-x").exists());
    }
}
