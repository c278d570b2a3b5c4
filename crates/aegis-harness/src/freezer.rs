//! Makes all processes of the guest but the harness stand still, with control groups.
//!
//! Processes start in the group that the harness is in, which it cannot freeze, and are moved only here, to a group below
//! it: joining a group waits for a grace period of the kernel (14 ms under emulation), which no start should pay for.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::cgroup::GUEST;

/// Where processes of the harness's group and of the root group are moved to, below the former.
const FROZEN: &str = "frozen";
/// How often processes are looked for: those that appear while others are moved are found by the next pass. Who is moved
/// stands still at once, so only a fork bomb needs more, and it keeps no promises about clocks.
const PASSES: usize = 8;

/// What stands still.
#[derive(Debug)]
pub(crate) struct CgroupFreezer {
    /// Where the control groups are.
    root: PathBuf,
    /// The groups that this has frozen; the guest may have frozen others itself.
    frozen: Vec<PathBuf>,
}

impl CgroupFreezer {
    pub(crate) fn new(root: &Path) -> CgroupFreezer {
        CgroupFreezer { root: root.to_owned(), frozen: Vec::new() }
    }

    /// Makes every process of a user stand still before its next instruction, unnoticed by it and by its parent.
    pub(crate) fn freeze(&mut self) {
        let own = self.root.join(GUEST);
        let still = own.join(FROZEN);
        let _there = fs::create_dir_all(&still);
        let beside = groups_in(&self.root).into_iter().filter(|group| *group != own);
        for group in beside.chain(groups_in(&own)).collect::<Vec<_>>() {
            let switch = group.join("cgroup.freeze");
            let runs = fs::read(&switch).is_ok_and(|state| state.starts_with(b"0"));
            if runs && fs::write(&switch, "1").is_ok() {
                self.frozen.push(group);
            }
        }
        for _ in 0..PASSES {
            let outside = self.outside();
            // One that has ended meanwhile cannot be moved and need not be.
            let moved = |pid: &u32| fs::write(still.join("cgroup.procs"), pid.to_string()).is_ok();
            if outside.iter().filter(|pid| moved(pid)).count() == 0 {
                break;
            }
        }
    }

    /// Lets go on what [`freeze`](Freezer::freeze) has stopped.
    pub(crate) fn thaw(&mut self) {
        for group in self.frozen.drain(..) {
            let _gone = fs::write(group.join("cgroup.freeze"), "0");
        }
    }

    /// The processes of users that are in the root group or in that of the harness, but for the harness.
    fn outside(&self) -> BTreeSet<u32> {
        let own = std::process::id();
        let members = [self.root.clone(), self.root.join(GUEST)]
            .map(|group| fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default());
        // A kernel thread has no program.
        let is_user = |pid: &u32| *pid != own && fs::read_link(format!("/proc/{pid}/exe")).is_ok();
        members.concat().lines().filter_map(|line| line.parse().ok()).filter(is_user).collect()
    }
}

/// The groups right below this one.
fn groups_in(group: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(group) else { return Vec::new() };
    let is_group = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    entries.flatten().filter(is_group).map(|entry| entry.path()).collect()
}
