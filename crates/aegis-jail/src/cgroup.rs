//! Control groups: bounds on what an instance's helpers take together (`cgroups(7)`, version 2).
//!
//! Groups can be made below one that is delegated to the daemon: the daemon's own, if whoever manages the host says so
//! (systemd's `Delegate=`), or one that is named in the configuration. Nothing else of the hierarchy is touched.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use rustix::fs::getxattr;

use crate::probe_program::find_true;

/// Where the hierarchy is mounted, alone or beside those of version 1.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
/// By which systemd marks a group that is its user's to divide (`systemd.resource-control(5)`).
const DELEGATED: [&str; 2] = ["trusted.delegate", "user.delegate"];
/// What is bounded, where the delegated group has the controller.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];
/// The daemon's own, in a group that it was started in: one that has groups below may have no processes.
const DAEMON: &str = "daemon";
/// The period of the processor's time, microseconds.
const PERIOD_US: u64 = 100_000;

/// Which of `memory`, `pids` and `cpu` can be bounded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Controllers([bool; CONTROLLERS.len()]);

impl Controllers {
    fn of(words: &str) -> Controllers {
        Controllers(CONTROLLERS.map(|one| words.split_ascii_whitespace().any(|word| word == one)))
    }

    /// Whether all can.
    #[must_use]
    pub fn are_all(self) -> bool {
        self.0.iter().all(|one| *one)
    }

    fn has(self, name: &str) -> bool {
        CONTROLLERS.iter().zip(self.0).any(|(one, is_there)| is_there && *one == name)
    }
}

impl fmt::Display for Controllers {
    /// Those that are there, with commas; `none`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let there: Vec<&str> = CONTROLLERS.into_iter().filter(|one| self.has(one)).collect();
        f.write_str(if there.is_empty() { "none".to_owned() } else { there.join(", ") }.as_str())
    }
}

/// What the processes of a group take at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupBounds {
    /// Memory, bytes. What several groups use is counted for the first.
    pub memory: u64,
    /// Processes and threads.
    pub tasks: u64,
    /// Processors.
    pub cpus: u64,
}

/// The group in which groups are made.
#[derive(Debug)]
struct Delegated {
    path: PathBuf,
    controllers: Controllers,
}

static DELEGATED_GROUP: OnceLock<Option<Delegated>> = OnceLock::new();

/// Takes the group that is delegated to this process, `configured` or else its own if that is, for the rest of its life; if
/// there is one.
///
/// # Errors
/// If one was configured and cannot be used.
pub fn claim(configured: Option<&Path>) -> io::Result<()> {
    let group = match configured {
        Some(path) => Some(Delegated::configured(path)?),
        None => Delegated::own(),
    };
    // Only the first counts.
    let _claimed = DELEGATED_GROUP.set(group);
    Ok(())
}

/// What could be bounded by a daemon that is started from here with this setting; `None` if there is no group for it.
#[must_use]
pub fn controllers(configured: Option<&Path>) -> Option<Controllers> {
    let own = || std::fs::read_to_string("/proc/self/cgroup").ok().and_then(|groups| own_group(&groups));
    let group = configured.map(Path::to_owned).or_else(own)?;
    Some(Controllers::of(&std::fs::read_to_string(group.join("cgroup.controllers")).ok()?))
}

/// What can be bounded by this process.
pub(crate) fn claimed() -> Option<Controllers> {
    DELEGATED_GROUP.get()?.as_ref().map(|group| group.controllers)
}

/// A group for the processes of this name, open for a process to join. Nothing where none can be made: that is told, and no
/// reason not to start.
pub(crate) fn join(name: &str, bounds: Option<GroupBounds>) -> Option<OwnedFd> {
    DELEGATED_GROUP.get()?.as_ref()?.open(name, bounds).ok()
}

/// Removes the group of this name, if it has no processes any more.
pub fn remove_group(name: &str) {
    if let Some(Some(group)) = DELEGATED_GROUP.get() {
        // Whoever is still in it removes it at its end, and the next daemon what is left.
        let _in_use = std::fs::remove_dir(group.child(name));
    }
}

/// Removes all groups that have no processes any more, as an earlier daemon may have left.
pub fn remove_empty_groups() {
    let Some(Some(group)) = DELEGATED_GROUP.get() else { return };
    for entry in std::fs::read_dir(&group.path).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            let _in_use = std::fs::remove_dir(entry.path());
        }
    }
}

/// What the names of instances' groups begin with.
const PREFIX: &str = "aegis-";

impl Delegated {
    /// One that the configuration names. It may have no processes, or no bounds can be set.
    fn configured(path: &Path) -> io::Result<Delegated> {
        let path = path.canonicalize()?;
        if !path.join("cgroup.procs").is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no control group of version 2"));
        }
        Delegated::at(path)
    }

    /// The group that this process is in, if that is delegated: it then moves into one below.
    fn own() -> Option<Delegated> {
        let path = own_group(&std::fs::read_to_string("/proc/self/cgroup").ok()?)?;
        let daemon = path.join(DAEMON);
        make(&daemon).ok()?;
        std::fs::write(daemon.join("cgroup.procs"), "0").ok()?;
        Delegated::at(path).ok()
    }

    /// Lets groups below have the controllers that this one has, and sees by one what that gives: a kernel may have a
    /// controller without this bound.
    fn at(path: PathBuf) -> io::Result<Delegated> {
        for controller in CONTROLLERS {
            // One that is not there, or not allowed, is no bound.
            let _missing = std::fs::write(path.join("cgroup.subtree_control"), format!("+{controller}"));
        }
        let group = Delegated { path, controllers: Controllers::default() };
        let probe = group.child("probe");
        std::fs::create_dir(&probe)?;
        let controllers = Controllers(CONTROLLERS.map(|one| probe.join(format!("{one}.max")).exists()));
        let joined = try_to_join(&probe);
        std::fs::remove_dir(&probe)?;
        joined.map(|()| Delegated { controllers, ..group })
    }

    fn child(&self, name: &str) -> PathBuf {
        self.path.join(format!("{PREFIX}{name}"))
    }

    fn open(&self, name: &str, bounds: Option<GroupBounds>) -> io::Result<OwnedFd> {
        let path = self.child(name);
        make(&path)?;
        for (file, value) in bounds.iter().flat_map(settings) {
            let file = path.join(file);
            // Each is there with its controller only; what is there, is told.
            if file.exists() {
                std::fs::write(file, value)?;
            }
        }
        let joined: File = OpenOptions::new().write(true).open(path.join("cgroup.procs"))?;
        Ok(joined.into())
    }
}

/// Makes a group, unless it is there.
fn make(group: &Path) -> io::Result<()> {
    match std::fs::create_dir(group) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Whether processes of this one can be moved there: for that their user has to own what is above both groups, too.
fn try_to_join(group: &Path) -> io::Result<()> {
    let joined: File = OpenOptions::new().write(true).open(group.join("cgroup.procs"))?;
    let Some(program) = find_true() else { return Ok(()) };
    let mut command = Command::new(program);
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    aegis_sys::confine::join_group(&mut command, joined.into());
    command.status().map(drop)
}

/// What is written where, for bounds.
fn settings(bounds: &GroupBounds) -> [(&'static str, String); 3] {
    let quota = bounds.cpus.saturating_mul(PERIOD_US);
    [
        ("memory.max", bounds.memory.to_string()),
        ("pids.max", bounds.tasks.to_string()),
        ("cpu.max", format!("{quota} {PERIOD_US}")),
    ]
}

/// The path of version 2's group in `/proc/PID/cgroup` (`0::/path`), relative.
fn own_path(groups: &str) -> Option<&str> {
    groups.lines().find_map(|line| line.strip_prefix("0::/"))
}

/// The group of a process's `/proc/PID/cgroup`, if that is delegated.
fn own_group(groups: &str) -> Option<PathBuf> {
    let own = own_path(groups)?;
    MOUNTS.iter().map(|mount| Path::new(mount).join(own)).find(|path| is_delegated(path))
}

fn is_delegated(group: &Path) -> bool {
    DELEGATED.iter().any(|name| {
        let mut value = [0; 8];
        getxattr(group, *name, &mut value).is_ok_and(|len| value.get(..len) == Some(b"1".as_slice()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_group_is_the_one_of_version_2() {
        let both = "5:memory:/x\n1:name=systemd:/user.slice\n0::/user.slice/aegis.service\n";
        assert_eq!(own_path(both), Some("user.slice/aegis.service"));
        assert_eq!(own_path("5:memory:/x\n"), None);
        assert_eq!(own_path("0::/\n"), Some(""));
    }

    #[test]
    fn bounds_are_as_the_kernel_has_them() {
        let settings = settings(&GroupBounds { memory: 1 << 30, tasks: 300, cpus: 2 });
        assert_eq!(settings.map(|(_, value)| value), ["1073741824", "300", "200000 100000"]);
    }

    /// A group of this test's own, below the root of the hierarchy; `None` where that may not be made.
    fn scratch() -> Option<PathBuf> {
        let name = format!("aegis-test-{}", std::process::id());
        let root = MOUNTS.iter().map(Path::new).find(|path| path.join("cgroup.procs").is_file())?;
        for controller in CONTROLLERS {
            let _missing = std::fs::write(root.join("cgroup.subtree_control"), format!("+{controller}"));
        }
        let path = root.join(name);
        std::fs::create_dir(&path).ok().map(|()| path)
    }

    #[test]
    fn a_process_is_in_its_group_with_its_bounds_and_the_group_goes_with_it() {
        let Some(root) = scratch() else { return };
        let group = Delegated::configured(&root).unwrap();
        let bounds = GroupBounds { memory: 64 << 20, tasks: 20, cpus: 1 };
        let joined = group.open("x", Some(bounds)).unwrap();
        let mut command = Command::new("sleep");
        command.arg("1000").stdin(Stdio::null());
        aegis_sys::confine::join_group(&mut command, joined);
        let mut child = command.spawn().unwrap();
        let path = group.child("x");
        let members = std::fs::read_to_string(path.join("cgroup.procs")).unwrap();
        assert_eq!(members.trim(), child.id().to_string());
        for (file, value) in settings(&bounds) {
            let controller = file.split('.').next().unwrap();
            let there = std::fs::read_to_string(path.join(file)).ok();
            let expected = group.controllers.has(controller).then_some(value);
            assert_eq!(there.as_deref().map(str::trim), expected.as_deref(), "{file}");
        }
        assert!(std::fs::remove_dir(&path).is_err(), "there is somebody in it");
        child.kill().unwrap();
        child.wait().unwrap();
        std::fs::remove_dir(&path).unwrap();
        std::fs::remove_dir(&root).unwrap();
    }

    #[test]
    fn controllers_are_told_in_words() {
        assert_eq!(Controllers::of("cpuset cpu io memory hugetlb pids").to_string(), "memory, pids, cpu");
        assert!(Controllers::of("cpu memory pids").are_all());
        let some = Controllers::of("cpuset pids");
        assert!(!some.are_all() && some.to_string() == "pids");
        assert_eq!(Controllers::of("").to_string(), "none");
    }

    #[test]
    fn what_is_no_group_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Delegated::configured(dir.path()).is_err());
    }
}
