//! The control group of everything that runs in the guest, which bounds how many processes there are: beyond it a program
//! that starts others without end is refused, and whoever looks after the machine still finds room.
//!
//! PID 1 is in it too, so that what it starts begins there: joining a group waits for a grace period of the kernel (14 ms
//! under emulation), which no start of a process should pay for.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where the control groups are.
pub(crate) const CGROUPS: &str = "/sys/fs/cgroup";
/// The group of what runs in the guest.
pub(crate) const GUEST: &str = "guest";
/// Where the host's commands start when that one is full.
const SPARE: &str = "spare";
/// Most processes there.
const MOST_SPARE: u64 = 128;
/// Most processes (threads count too) for each MiB of memory. A small one takes a quarter of a megabyte of it with what
/// the kernel keeps for it; a thread less.
const FOR_EACH_MIB: u64 = 2;
/// How many must be free for a command of the host to begin there: it may start others itself.
const ROOM: u64 = 32;
/// A machine with little memory still runs a build with its small processes.
const FEWEST: u64 = 256;
/// What the kernel numbers by default.
const MOST: u64 = 32_768;

/// Most processes of a machine with this much memory; the text of `/proc/meminfo`.
fn bound(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0);
    (kib / 1024 * FOR_EACH_MIB).clamp(FEWEST, MOST)
}

/// Enters the group, which is made, and bounds it; control groups are mounted. Where the kernel has no such groups nothing is bounded.
pub(crate) fn enter() -> io::Result<()> {
    let root = Path::new(CGROUPS);
    fs::write(root.join("cgroup.subtree_control"), "+pids")?;
    let guest = make(root, GUEST, bound(&fs::read_to_string("/proc/meminfo")?))?;
    fs::write(guest.join("cgroup.procs"), "0")
}

fn make(root: &Path, name: &str, most: u64) -> io::Result<PathBuf> {
    let group = root.join(name);
    match fs::create_dir(&group) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => fs::write(group.join("pids.max"), most.to_string())?,
    }
    Ok(group)
}

/// Whether there is hardly any room in the group.
fn is_crowded(group: &Path) -> bool {
    let number = |file: &str| fs::read_to_string(group.join(file)).ok()?.trim().parse::<u64>().ok();
    // Where nothing is bounded `max` is no number.
    let (Some(now), Some(most)) = (number("pids.current"), number("pids.max")) else { return false };
    now.saturating_add(ROOM) > most
}

/// Starts a process for the host: in the group where everything runs, or beside it if there are too many in there.
pub(crate) fn start(start: &mut dyn FnMut() -> io::Result<u32>) -> io::Result<u32> {
    if is_crowded(&Path::new(CGROUPS).join(GUEST)) {
        return beside(start);
    }
    match start() {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => beside(start),
        other => other,
    }
}

fn beside(start: &mut dyn FnMut() -> io::Result<u32>) -> io::Result<u32> {
    let root = Path::new(CGROUPS);
    fs::write(make(root, SPARE, MOST_SPARE)?.join("cgroup.procs"), "0")?;
    let started = start();
    // Whoever is root in the guest can undo all of this; then it stays where it is.
    let _stays = fs::write(root.join(GUEST).join("cgroup.procs"), "0");
    started
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_follows_the_memory_between_its_ends() {
        for (kib, most) in [("65536", 256), ("500000", 976), ("2097152", 4096), ("67108864", 32_768)] {
            assert_eq!(bound(&format!("MemTotal:  {kib} kB\nMemFree: 1 kB\n")), most);
        }
        assert_eq!(bound("nonsense"), 256);
    }

    #[test]
    fn a_group_is_crowded_before_it_is_full() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_crowded(dir.path()), "there is none");
        fs::write(dir.path().join("pids.current"), "990\n").unwrap();
        for (most, crowded) in [("max\n", false), ("1024\n", false), ("1021\n", true), ("10\n", true)] {
            fs::write(dir.path().join("pids.max"), most).unwrap();
            assert_eq!(is_crowded(dir.path()), crowded, "{most}");
        }
    }

    #[test]
    fn only_a_start_that_finds_no_room_is_tried_again() {
        let mut tries = 0;
        let mut fails = || {
            tries += 1;
            Err(io::ErrorKind::NotFound.into())
        };
        assert_eq!(start(&mut fails).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(tries, 1);
    }
}
