//! Directories in which programs keep overlays of their own. The guest's root is an overlay itself, and overlayfs takes none
//! for its changes: there these directories are of the instance's disk alone.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use crate::trees;

/// Docker's images and containers, those of podman, buildah and CRI-O, and those of containerd.
const STORES: [&str; 3] = ["/var/lib/docker", "/var/lib/containers", "/var/lib/containerd"];
/// Where they are on the instance's disk.
const DIR: &str = "stores";

/// Directories of the instance's disk, each with its place in the root, which is entered later.
#[derive(Debug, Default)]
pub(crate) struct Stores(Vec<(OwnedFd, &'static str)>);

impl Stores {
    /// Those that the root has a place for, or that were in use before. `disk` is where the instance's disk is mounted, `root`
    /// what will be the root. What is in a place already stays to be seen.
    pub(crate) fn open(disk: &Path, root: &Path) -> Stores {
        let found = STORES.iter().filter_map(|at| {
            let place = root.join(at.trim_start_matches('/'));
            // Without following links: they lead elsewhere before the root is entered.
            let is_dir = fs::symlink_metadata(&place).is_ok_and(|meta| meta.is_dir());
            let is_empty = || fs::read_dir(&place).is_ok_and(|mut entries| entries.next().is_none());
            (is_dir && is_empty()).then(|| Some((tree(disk, at).ok()?, *at)))?
        });
        Stores(found.collect())
    }

    /// Shows them in the root, which has been entered.
    pub(crate) fn show(self) -> io::Result<()> {
        self.0.iter().try_for_each(|(tree, at)| trees::put(tree, Path::new(at)))
    }
}

fn tree(disk: &Path, at: &str) -> io::Result<OwnedFd> {
    let name = Path::new(at).file_name().unwrap_or_default();
    let dir = disk.join(DIR).join(name);
    // As the programs themselves make them: for root alone, and to pass through.
    fs::DirBuilder::new().recursive(true).mode(0o711).create(&dir)?;
    trees::take(&dir)
}
