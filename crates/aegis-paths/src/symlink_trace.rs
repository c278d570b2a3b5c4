//! The way that a path takes: which symbolic links are followed on it, and in which directories they are.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::io::Errno;

/// Most links that are followed, as the kernel's (`path_resolution(7)`).
const MOST_LINKS: usize = 40;

/// A symbolic link on a way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The directory that it is in, without links.
    pub dir: PathBuf,
    /// Its name there.
    pub name: OsString,
    /// Whose it is.
    pub uid: u32,
}

/// The way of a path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trail {
    /// The links that are followed, in their order.
    pub links: Vec<Link>,
    /// Where it ends, without links. What is not there is named as it would be.
    pub end: PathBuf,
}

/// Follows a path. It is looked at name by name and opened by nobody: whoever can change what is on the way can do so
/// meanwhile.
///
/// # Errors
/// The system's; `ELOOP` if links lead in a circle.
pub fn trail(path: &Path) -> io::Result<Trail> {
    let whole = std::path::absolute(path)?;
    let mut found = Trail { links: Vec::new(), end: PathBuf::from("/") };
    let mut rest: VecDeque<OsString> = names(&whole);
    while let Some(name) = rest.pop_front() {
        if name == OsStr::new("..") {
            found.end.pop();
            continue;
        }
        let place = found.end.join(&name);
        match fs::symlink_metadata(&place) {
            Ok(meta) if meta.is_symlink() => {
                if found.links.len() >= MOST_LINKS {
                    return Err(Errno::LOOP.into());
                }
                let target = fs::read_link(&place)?;
                found.links.push(Link { dir: found.end.clone(), name, uid: meta.uid() });
                if target.is_absolute() {
                    found.end = PathBuf::from("/");
                }
                names(&target).into_iter().rev().for_each(|name| rest.push_front(name));
            }
            Ok(_) => found.end = place,
            // Nothing is behind it, as far as anybody can tell.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                found.end = place;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn names(path: &Path) -> VecDeque<OsString> {
    let name = |component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_link_on_the_way_is_told_with_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::create_dir(root.join("links")).unwrap();
        symlink("../links/second", root.join("a/first")).unwrap();
        symlink(root.join("a/b"), root.join("links/second")).unwrap();
        symlink("round", root.join("a/round")).unwrap();
        let found = trail(&root.join("a/b/../first/absent/x")).unwrap();
        let links: Vec<(PathBuf, &str)> =
            found.links.iter().map(|link| (link.dir.clone(), link.name.to_str().unwrap())).collect();
        assert_eq!(links, [(root.join("a"), "first"), (root.join("links"), "second")]);
        assert_eq!(found.end, root.join("a/b/absent/x"));
        assert_eq!(trail(&root.join("a")).unwrap(), Trail { links: Vec::new(), end: root.join("a") });
        assert_eq!(
            trail(&root.join("a/round")).unwrap_err().raw_os_error(),
            Some(Errno::LOOP.raw_os_error())
        );
    }

    proptest! {
        /// Where a path of arbitrary names and links ends is where the kernel says.
        #[test]
        fn it_ends_where_the_kernel_does(
            targets in proptest::collection::vec("(/|)((a|b|c|\\.\\.|\\.)/){0,3}(a|b|c|\\.\\.)", 0..6),
            path in "((a|b|c|\\.\\.)/){0,5}(a|b|c)",
        ) {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path().canonicalize().unwrap();
            fs::create_dir_all(root.join("a/b/c")).unwrap();
            fs::create_dir_all(root.join("b/a")).unwrap();
            for (at, target) in targets.iter().enumerate() {
                let place = ["c", "a/a", "a/b/a", "b/b", "b/a/c", "a/c"][at];
                let target = target.strip_prefix('/').map_or(PathBuf::from(target), |rest| root.join(rest));
                symlink(target, root.join(place)).unwrap();
            }
            match (fs::canonicalize(root.join(&path)), trail(&root.join(&path))) {
                (Ok(kernel), Ok(ours)) => prop_assert_eq!(kernel, ours.end),
                (Ok(kernel), Err(error)) => prop_assert!(false, "{}: {error}", kernel.display()),
                (Err(_), _) => {}
            }
        }
    }
}
