//! Where a copy goes.

use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use aegis_paths::Dir;

use crate::CopyError;

/// A place for the root of a tree. What the user typed was opened, with links in it followed as they are his; the last
/// name is not, unless it is a directory's that he typed.
#[derive(Debug)]
pub struct Target {
    pub(crate) shown: PathBuf,
    pub(crate) at: At,
}

#[derive(Debug)]
pub(crate) enum At {
    /// The directory itself, to be filled.
    Directory(Dir),
    /// A name in a directory, whatever is there.
    Name(Dir, OsString),
}

/// Whether a path can only be a directory's.
fn says_directory(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    bytes.ends_with(b"/") || matches!(bytes.rsplit(|byte| *byte == b'/').next(), Some(b"." | b".."))
}

impl Target {
    /// Where something of this name goes that is copied to `destination`: into it if it is a directory, else it becomes
    /// it. Without a name its contents go there.
    ///
    /// # Errors
    /// If there is no directory where one is to be, or it cannot be opened.
    pub fn open(destination: &Path, name: Option<&OsStr>) -> Result<Target, CopyError> {
        let dir = match Dir::open_root(destination) {
            Ok(dir) => dir,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return if says_directory(destination) {
                    Err(CopyError::NoDirectory(destination.to_owned()))
                } else {
                    Target::exactly(destination)
                };
            }
            Err(error) => return Err(CopyError::file(destination)(error)),
        };
        Ok(match name {
            Some(name) => Target { shown: destination.join(name), at: At::Name(dir, name.into()) },
            None => Target { shown: destination.to_owned(), at: At::Directory(dir) },
        })
    }

    /// The directory that it is, or is in, and its name there.
    #[must_use]
    pub fn place(&self) -> (&Dir, Option<&OsStr>) {
        match &self.at {
            At::Directory(dir) => (dir, None),
            At::Name(dir, name) => (dir, Some(name)),
        }
    }

    /// What is at a path below a directory that is open: no link on it is followed, and its last name is that of the
    /// directory itself if the path can only be a directory's.
    pub(crate) fn beneath(dir: &Dir, path: &Path) -> Result<Target, CopyError> {
        let shown = path.to_owned();
        let at = if path.as_os_str().is_empty() || says_directory(path) {
            dir.dir_beneath(path).map(At::Directory)
        } else {
            dir.parent_of(path).map(|(parent, name)| At::Name(parent, name.to_owned()))
        };
        Ok(Target { at: at.map_err(CopyError::file(path))?, shown })
    }

    /// This very place.
    ///
    /// # Errors
    /// If there is no directory for it, or it cannot be opened.
    pub fn exactly(path: &Path) -> Result<Target, CopyError> {
        let shown = path.to_owned();
        let Some(name) = path.file_name().filter(|_| !says_directory(path)) else {
            let dir = Dir::open_root(path).map_err(CopyError::file(path))?;
            return Ok(Target { shown, at: At::Directory(dir) });
        };
        let parent = path.parent().filter(|parent| *parent != OsStr::new("")).unwrap_or(Path::new("."));
        let dir = Dir::open_root(parent).map_err(CopyError::file(parent))?;
        Ok(Target { shown, at: At::Name(dir, name.to_owned()) })
    }
}
