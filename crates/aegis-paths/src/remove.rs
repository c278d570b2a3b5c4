//! Removing a tree that somebody else has made: as deep as he liked, without permissions, with links to anywhere.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, fchmod, openat, renameat, unlinkat};
use rustix::io::Errno;

/// Begins names of directories on their way out of a tree.
const LIFTED: &str = ".removing-";

/// Removes a directory with all that is in it. Links in it are removed and not followed; other file systems mounted in it
/// stay, and are an error.
///
/// Its depth costs neither stack nor descriptors: what is in a directory that is not empty is lifted to the top before the
/// directory is removed, as `rm` need not do and the recursion of the standard library cannot.
///
/// # Errors
/// The system's; `NotADirectory` if it is none, also if it is a link to one. What has been removed by then is gone.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let top = open(CWD, path)?;
    let mut lifted = 0;
    while let Some(name) = remove_files(&top)? {
        // Two at a time, however deep it is.
        let below = open(&top, name.as_c_str())?;
        while let Some(deeper) = remove_files(&below)? {
            lift(&top, &below, &deeper, &mut lifted)?;
        }
        drop(below);
        unlinkat(&top, name.as_c_str(), AtFlags::REMOVEDIR)?;
    }
    drop(top);
    Ok(unlinkat(CWD, path, AtFlags::REMOVEDIR)?)
}

/// Opens a directory so that its entries can be removed, whatever its owner has permitted.
fn open(at: impl std::os::fd::AsFd, name: impl rustix::path::Arg + Copy) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = match openat(&at, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            // Only its path can be told: without permission there is no descriptor that `fchmod` takes.
            rustix::fs::chmodat(&at, name, Mode::RWXU, AtFlags::empty())?;
            openat(&at, name, flags, Mode::empty())?
        }
        opened => opened?,
    };
    // Nobody but its owner can, and whoever is neither is told by what fails next.
    let _others = fchmod(&opened, Mode::RWXU);
    Ok(opened)
}

/// Removes what is in a directory and is none, and directories that are empty. Returns one that is not.
fn remove_files(directory: &OwnedFd) -> rustix::io::Result<Option<CString>> {
    let mut full = None;
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") || full.is_some() {
            continue;
        }
        if is_left(directory, name)? {
            full = Some(name.to_owned());
        }
    }
    Ok(full)
}

/// Removes an entry. Returns whether it is a directory that is not empty, and has been left.
fn is_left(directory: &OwnedFd, name: &CStr) -> rustix::io::Result<bool> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(false),
        // A directory, which is told in two ways (unlink(2)).
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    match unlinkat(directory, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(false),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Lifts a directory to the top, under a name that is free there.
fn lift(top: &OwnedFd, from: &OwnedFd, name: &CStr, lifted: &mut u64) -> io::Result<()> {
    // Each number is tried once: there are fewer entries that have one already.
    loop {
        let free = format!("{LIFTED}{lifted}");
        *lifted += 1;
        match rustix::fs::renameat_with(from, name, top, &free, rustix::fs::RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            // Who moves a directory writes into it: its parent is another one then.
            Err(Errno::ACCESS) => drop(open(from, name)?),
            // A file system without such a rename replaces nothing but an empty directory.
            Err(Errno::INVAL | Errno::NOSYS) => match renameat(from, name, top, &free) {
                Ok(()) => return Ok(()),
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
                Err(error) => return Err(error.into()),
            },
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// A chain of directories, deeper than any path is long.
    fn chain(root: &Path, depth: usize) {
        let mut at = open(CWD, root).unwrap();
        for level in 0..depth {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            if level % 1000 == 0 {
                openat(&at, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
            }
            at = open(&at, "d").unwrap();
        }
    }

    #[test]
    fn a_tree_of_any_depth_is_removed_with_a_small_stack() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("tree");
        fs::create_dir(&root).unwrap();
        chain(&root, 30_000);
        let removed = std::thread::Builder::new().stack_size(64 << 10).spawn(move || {
            remove_tree(&root).unwrap();
            root.exists()
        });
        assert!(!removed.unwrap().join().unwrap());
    }

    #[test]
    fn what_is_wide_odd_or_forbidden_is_removed_and_what_links_lead_to_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (root, kept) = (dir.path().join("tree"), dir.path().join("kept"));
        fs::create_dir_all(kept.join("inner")).unwrap();
        fs::write(kept.join("inner/file"), "x").unwrap();
        for wide in 0..40 {
            for deep in ["a/b/c", ".removing-0/x", ".removing-1/.removing-0/y"] {
                fs::create_dir_all(root.join(format!("w{wide}")).join(deep)).unwrap();
            }
            symlink(&kept, root.join(format!("w{wide}/a/link"))).unwrap();
            fs::write(root.join(format!("w{wide}/a/b/file")), "x").unwrap();
        }
        fs::create_dir(root.join(".removing-0")).unwrap();
        fs::write(root.join(".removing-0/full"), "x").unwrap();
        fs::write(root.join(".removing-1"), "x").unwrap();
        for closed in ["w1/a/b", "w1/a", "w2"] {
            fs::set_permissions(root.join(closed), fs::Permissions::from_mode(0o0)).unwrap();
        }
        remove_tree(&root).unwrap();
        assert!(!root.exists());
        assert_eq!(fs::read(kept.join("inner/file")).unwrap(), b"x");
    }

    #[test]
    fn what_is_no_directory_stays() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("real")).unwrap();
        symlink(at("real"), at("link")).unwrap();
        fs::write(at("file"), "x").unwrap();
        assert!(remove_tree(&at("link")).is_err() && remove_tree(&at("file")).is_err());
        assert_eq!(remove_tree(&at("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(at("real").is_dir() && at("file").is_file());
    }
}
