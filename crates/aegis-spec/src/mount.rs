//! Directories of the host that an instance sees.

use std::collections::BTreeMap;
use std::path::PathBuf;

use aegis_paths::Identity;
use serde::{Deserialize, Serialize};

use crate::error::SpecError;

/// Where an instance's workspace is.
pub const WORKSPACE: &str = "/workspace";
/// Most directories of one instance.
pub const MOST_MOUNTS: usize = 16;
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
    }
}
