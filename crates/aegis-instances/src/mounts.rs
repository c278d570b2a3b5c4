//! Directories of the host that an instance sees.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use aegis_guest_protocol::messages::Share;
use aegis_paths::Identity;
use aegis_store::home::Home;
use aegis_workspace::{ExportSpec, Limit};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::host_directory::{self, DirectoryError};
use crate::spec::SpecError;

/// Where an instance's workspace is.
pub const WORKSPACE: &str = "/workspace";
/// Most directories of one instance.
pub const MOST_MOUNTS: usize = 16;
/// Number of the first directory's descriptor in the server of an instance's files; the others follow.
const FIRST_DESCRIPTOR: i32 = 10;
/// Least limit that anything fits below, bytes.
const LEAST_LIMIT: u64 = 1 << 20;

/// A directory of the host and its place in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// The directory.
    pub source: Source,
    /// Where it is in the guest: absolute, without `.` and `..`.
    pub at: String,
    /// Whether the guest may only read.
    pub read_only: bool,
    /// How much may be in it, bytes.
    pub limit: Option<u64>,
    /// Which directory it was when its path was named; none of a workspace that Aegis keeps. What is at the path later
    /// is used only if it is that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
}

/// A directory of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A workspace that Aegis keeps, by name.
    Named(String),
    /// Any directory, absolute.
    Path(PathBuf),
}

impl Source {
    /// Where it is. For people, and for what is not opened: see [`crate::host_directory`].
    #[must_use]
    pub fn path(&self, home: &Home) -> PathBuf {
        match self {
            Source::Named(name) => home.workspaces().join(name),
            Source::Path(path) => path.clone(),
        }
    }
}

/// Checks an instance's mounts.
///
/// # Errors
/// [`SpecError`] for the first that cannot be.
pub fn check(mounts: &[Mount]) -> Result<(), SpecError> {
    let fail = |text: String| Err(SpecError(text));
    if mounts.len() > MOST_MOUNTS {
        return fail(format!("{} directories of the host; at most {MOST_MOUNTS} are possible", mounts.len()));
    }
    let mut taken: BTreeMap<&str, ()> = BTreeMap::new();
    for mount in mounts {
        if let Some(why) = unfit(&mount.at) {
            return fail(format!("{:?} is no place for a directory of the host: {why}", mount.at));
        }
        if taken.insert(&mount.at, ()).is_some() {
            return fail(format!("{} is given twice", mount.at));
        }
        if mount.limit.is_some_and(|limit| limit < LEAST_LIMIT) {
            return fail(format!("a limit of {} bytes is too little", mount.limit.unwrap_or(0)));
        }
        if mount.limit.is_some() && mount.read_only {
            return fail(format!("a limit on {}, which can only be read", mount.at));
        }
    }
    Ok(())
}

fn unfit(at: &str) -> Option<&'static str> {
    let Some(relative) = at.strip_prefix('/') else { return Some("it is not absolute") };
    if relative.is_empty() {
        return Some("that is the root");
    }
    if at.len() > 1024 || at.contains(['\0', '\n', ',']) {
        return Some("it is too long, or has characters that mounts cannot have");
    }
    if relative.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Some("it has empty parts, . or ..");
    }
    let system = ["proc", "sys", "dev", "run", "mnt"];
    let first = relative.split('/').next().unwrap_or_default();
    system.contains(&first).then_some("the system's own file systems are there")
}

/// Mounts in the order in which they can be made: none hides one that was made before.
fn ordered(mounts: &[Mount]) -> Vec<&Mount> {
    let mut all: Vec<&Mount> = mounts.iter().collect();
    all.sort_by_key(|mount| mount.at.split('/').count());
    all
}

/// The mounts as the guest is told of them.
pub(crate) fn shares(mounts: &[Mount]) -> Vec<Share> {
    ordered(mounts).iter().map(|mount| Share { at: mount.at.clone(), read_only: mount.read_only }).collect()
}

/// Name of the directory of ledgers.
const LEDGERS: &str = "ledgers";

/// What the names of tables of open files end with.
const TABLE: &str = ".nodes";

/// Whether this is the name of such a table.
pub(crate) fn is_table(name: &str) -> bool {
    name.starts_with("files-") && name.ends_with(TABLE)
}

/// Where the server of an instance's files writes down what its guest knows by number, for each mount in their order.
pub(crate) fn tables(mounts: &[Mount], run_dir: &Path) -> Vec<PathBuf> {
    (0..mounts.len()).map(|index| run_dir.join(format!("files-{index}{TABLE}"))).collect()
}

/// The mounts as the server of their files is told of them, in the same order, with the directories open.
///
/// # Errors
/// For the first directory that is not what it was.
pub(crate) fn exports(
    mounts: &[Mount],
    home: &Home,
    run_dir: &Path,
) -> Result<Vec<(ExportSpec, OwnedFd)>, DirectoryError> {
    let one = |(mount, (journal, descriptor)): (&&Mount, (PathBuf, i32))| {
        let root = host_directory::open(mount, home)?;
        let failed = |source| DirectoryError::Unopened { path: mount.source.path(home), source };
        let ledger = ledger(&Identity::of(&root).map_err(failed)?, home);
        let limit = mount.limit.map(|bytes| Limit { bytes, ledger });
        let name = mount.source.path(home);
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

/// Where the servers of all directories keep count, made if it is not there.
pub(crate) fn ledgers(home: &Home) -> io::Result<PathBuf> {
    let path = home.cache().join(LEDGERS);
    std::fs::create_dir_all(&path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(at: &str) -> Mount {
        Mount {
            source: Source::Named("w".into()),
            at: at.into(),
            read_only: false,
            limit: None,
            identity: None,
        }
    }

    #[test]
    fn a_mount_never_hides_the_system_or_another_mount() {
        for bad in
            ["", "/", "work", "/a/../b", "/a//b", "/a/.", "/proc/x", "/dev", "/sys/fs", "/run/x", "/a,b"]
        {
            assert!(check(&[mount(bad)]).is_err(), "{bad}");
        }
        assert!(check(&[mount("/a"), mount("/a")]).is_err());
        assert_eq!(check(&[mount("/workspace/deep"), mount("/workspace")]), Ok(()));
        let shares = shares(&[mount("/workspace/deep"), mount("/workspace")]);
        assert_eq!(
            shares.iter().map(|share| share.at.as_str()).collect::<Vec<_>>(),
            ["/workspace", "/workspace/deep"]
        );
    }
}
