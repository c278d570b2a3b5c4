//! Storage of programs that mount overlays of their own, such as `/var/lib/docker`. The guest's root is an overlay itself, and
//! overlayfs takes none as its upper layer: these directories are of the instance's disk alone.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{Dir, Mode, OFlags, ResolveFlags, mkdirat, open, openat, openat2};
use rustix::io::Errno;

use crate::detached_mounts;

/// Docker's images and containers, those of podman, buildah and CRI-O, and those of containerd.
pub(crate) const STORES: [&str; 3] = ["/var/lib/docker", "/var/lib/containers", "/var/lib/containerd"];
/// Their mode, as the programs themselves make them: for root alone, and to pass through.
pub(crate) const PRIVATE: Mode = Mode::from_raw_mode(0o711);
/// Where they are on the instance's disk.
const DIR: &str = "stores";

/// Directories of the instance's disk, each with its place in the root, which is entered later.
#[derive(Debug, Default)]
pub(crate) struct OverlayStorage(Vec<(OwnedFd, &'static str)>);

impl OverlayStorage {
    /// Those that the root has a place for: where it has a `/var/lib` one is made. `disk` is where the instance's disk is
    /// mounted, `root` what will be the root. What is in a place already stays to be seen.
    pub(crate) fn open(disk: &Path, root: &Path) -> OverlayStorage {
        let found = STORES.iter().filter_map(|at| {
            let is_free = is_free(root, Path::new(at)).unwrap_or(false);
            is_free.then(|| Some((tree(disk, at).ok()?, *at)))?
        });
        OverlayStorage(found.collect())
    }

    /// Shows them in the root, which has been entered.
    pub(crate) fn show(self) -> io::Result<()> {
        self.0.iter().try_for_each(|(tree, at)| detached_mounts::put(tree, Path::new(at)))
    }
}

/// Whether there is an empty directory at `place` of the root; where nothing is, one is made. Without following links: they lead
/// elsewhere before the root is entered.
fn is_free(root: &Path, place: &Path) -> io::Result<bool> {
    let (Some(parent), Some(name)) = (place.parent(), place.file_name()) else { return Ok(false) };
    let (flags, within) =
        (OFlags::DIRECTORY | OFlags::CLOEXEC, ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS);
    let root = open(root, OFlags::PATH | flags, Mode::empty())?;
    let parent = openat2(&root, parent, OFlags::PATH | flags, Mode::empty(), within)?;
    match mkdirat(&parent, name, PRIVATE) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let place = openat(&parent, name, OFlags::RDONLY | OFlags::NOFOLLOW | flags, Mode::empty())?;
    let mut entries = Dir::new(place)?.filter(|entry| {
        entry.as_ref().map_or(true, |entry| !matches!(entry.file_name().to_bytes(), b"." | b".."))
    });
    Ok(entries.next().is_none())
}

fn tree(disk: &Path, at: &str) -> io::Result<OwnedFd> {
    let name = Path::new(at).file_name().unwrap_or_default();
    let dir = disk.join(DIR).join(name);
    fs::DirBuilder::new().recursive(true).mode(PRIVATE.bits()).create(&dir)?;
    detached_mounts::take(&dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_has_a_place_where_the_image_has_one_or_a_parent_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        fs::create_dir_all(root.join("var/lib/full")).unwrap();
        fs::create_dir_all(outside.join("lib")).unwrap();
        fs::write(root.join("var/lib/full/entry"), "").unwrap();
        fs::write(root.join("var/lib/file"), "").unwrap();
        std::os::unix::fs::symlink("full", root.join("var/lib/link")).unwrap();
        std::os::unix::fs::symlink(&outside, root.join("led")).unwrap();
        let free = |place: &str| is_free(&root, Path::new(place)).unwrap_or(false);
        assert!(free("/var/lib/docker") && free("/var/lib/docker"), "made, and found");
        for place in
            ["/var/lib/full", "/var/lib/file", "/var/lib/link", "/opt/none/docker", "/led/lib/docker"]
        {
            assert!(!free(place), "{place}");
        }
        assert!(fs::read_dir(outside.join("lib")).unwrap().next().is_none(), "nothing is made elsewhere");
    }
}
