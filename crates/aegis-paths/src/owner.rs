//! Whose a file is: who owns it can change what is in it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::symlink_trace::trail;

/// The owner of a file, if that is neither this user nor root.
#[must_use]
pub fn foreign_owner(uid: u32) -> Option<u32> {
    (uid != 0 && uid != rustix::process::geteuid().as_raw()).then_some(uid)
}

/// The first link on the way to `path`, the path itself included, that somebody else has put there, and whose it is: it
/// leads where that user likes. What is not there yet is nobody's.
///
/// # Errors
/// The system's.
pub fn foreign_link(path: &Path) -> io::Result<Option<(PathBuf, u32)>> {
    let links = trail(path)?.links.into_iter();
    let mut foreign = links.filter_map(|link| Some((link.dir.join(link.name), foreign_owner(link.uid)?)));
    Ok(foreign.next())
}

/// The first link on the way to `path` that somebody else has put there, or else `path` itself, if it is there and somebody
/// else's; and whose.
///
/// # Errors
/// The system's, on the way.
pub fn foreign_part(path: &Path) -> io::Result<Option<(PathBuf, u32)>> {
    if let Some(link) = foreign_link(path)? {
        return Ok(Some(link));
    }
    let owner = fs::metadata(path).ok().and_then(|meta| foreign_owner(meta.uid()));
    Ok(owner.map(|uid| (path.to_owned(), uid)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{lchown, symlink};

    use super::*;

    #[test]
    fn links_of_others_are_found_wherever_they_are_on_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("real")).unwrap();
        symlink("real", at("link")).unwrap();
        symlink("link", at("own")).unwrap();
        for fine in ["real", "link", "link/x", "none/at/all"] {
            assert_eq!(foreign_link(&at(fine)).unwrap(), None, "{fine}");
        }
        if !rustix::process::geteuid().is_root() {
            return;
        }
        lchown(at("link"), Some(1234), None).unwrap();
        // Also behind one of one's own.
        for foreign in ["link", "link/x", "link/../real", "own", "own/x"] {
            let found = foreign_link(&at(foreign)).unwrap();
            assert_eq!(found, Some((dir.path().canonicalize().unwrap().join("link"), 1234)), "{foreign}");
        }
        assert_eq!((foreign_owner(1234), foreign_owner(0)), (Some(1234), None));
    }
}
