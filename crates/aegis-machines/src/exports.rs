//! Directories of the host as a machine's file server exports them, and as its guest is told of them.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use aegis_guest_protocol::messages::Share;
use aegis_paths::Identity;
use aegis_spec::mount::Mount;
#[cfg(test)]
use aegis_spec::mount::Source;
use aegis_store::home::Home;
use aegis_workspace::{ExportSpec, Limit};
use sha2::{Digest, Sha256};

use crate::host_directory::{self, DirectoryError};

/// Number of the first directory's descriptor in the server of an instance's files; the others follow.
const FIRST_DESCRIPTOR: i32 = 10;
/// Mounts in the order in which they can be made: none hides one that was made before.
fn ordered(mounts: &[Mount]) -> Vec<&Mount> {
    let mut all: Vec<&Mount> = mounts.iter().collect();
    all.sort_by_key(|mount| mount.at.split('/').count());
    all
}

/// The mounts as the guest is told of them.
pub fn shares(mounts: &[Mount]) -> Vec<Share> {
    ordered(mounts).iter().map(|mount| Share { at: mount.at.clone(), read_only: mount.read_only }).collect()
}

/// Name of the directory of ledgers.
const LEDGERS: &str = "ledgers";

/// What the names of tables of open files end with.
const TABLE: &str = ".nodes";

/// Whether this is the name of such a table.
pub fn is_table(name: &str) -> bool {
    name.starts_with("files-") && name.ends_with(TABLE)
}

/// The name of the table of a mount.
pub(crate) fn table_name(index: usize) -> String {
    format!("files-{index}{TABLE}")
}

/// Where the server of an instance's files writes down what its guest knows by number, for each mount in their order.
pub fn tables(mounts: &[Mount], run_dir: &Path) -> Vec<PathBuf> {
    (0..mounts.len()).map(|index| run_dir.join(table_name(index))).collect()
}

/// The mounts as the server of their files is told of them, in the same order, with the directories open.
///
/// # Errors
/// For the first directory that is not what it was.
pub fn exports(
    mounts: &[Mount],
    home: &Home,
    run_dir: &Path,
) -> Result<Vec<(ExportSpec, OwnedFd)>, DirectoryError> {
    let one = |(mount, (journal, descriptor)): (&&Mount, (PathBuf, i32))| {
        let root = host_directory::open(mount, home)?;
        let failed =
            |source| DirectoryError::Unopened { path: host_directory::path_of(&mount.source, home), source };
        let ledger = ledger(&Identity::of(&root).map_err(failed)?, home);
        let limit = mount.limit.map(|bytes| Limit { bytes, ledger });
        let name = host_directory::path_of(&mount.source, home);
        Ok((ExportSpec { name, descriptor, read_only: mount.read_only, limit, journal }, root))
    };
    ordered(mounts).iter().zip(tables(mounts, run_dir).into_iter().zip(FIRST_DESCRIPTOR..)).map(one).collect()
}

/// Where the servers of one directory keep count together: it is the directory that counts, whatever its names.
fn ledger(of: &Identity, home: &Home) -> PathBuf {
    let name: String = Sha256::digest(format!("{} {} {:?}", of.dev, of.ino, of.birth))
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    home.cache().join(LEDGERS).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_mounts_what_is_below_another_mount_after_that() {
        let mount = |at: &str| Mount {
            source: Source::Named("w".into()),
            at: at.into(),
            read_only: false,
            limit: None,
            identity: None,
        };
        let shares = shares(&[mount("/workspace/deep"), mount("/workspace")]);
        let places: Vec<&str> = shares.iter().map(|share| share.at.as_str()).collect();
        assert_eq!(places, ["/workspace", "/workspace/deep"]);
    }
}
