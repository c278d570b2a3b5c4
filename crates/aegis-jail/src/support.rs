//! What the kernel of this host can enforce.

use std::ffi::CString;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use aegis_sys::confine::Isolation;
use landlock::{ABI, Access as _, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr};
use serde::{Deserialize, Serialize};

use crate::cgroup::{self, Controllers};
use crate::privilege::may_make_namespaces;
use crate::probe_program::find_true;
use crate::profile::{self, FileRule};
use crate::root;

/// A directory that every host has, and that is in nobody's way in a process that ends at once.
const EMPTY: &str = "/sys";
/// A mechanism that confines processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// An allowlist of system calls.
    Seccomp,
    /// Files, TCP, abstract sockets and signals.
    Landlock,
    /// Namespaces of a process's own: users, mounts, network, IPC and names.
    Namespaces,
    /// A control group that bounds memory, processes and processors.
    Cgroup,
}

impl Layer {
    /// All there are.
    pub const ALL: [Layer; 4] = [Layer::Seccomp, Layer::Landlock, Layer::Namespaces, Layer::Cgroup];
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Layer::Seccomp => "seccomp",
            Layer::Landlock => "landlock",
            Layer::Namespaces => "namespaces",
            Layer::Cgroup => "cgroup",
        })
    }
}

/// What this host's kernel can enforce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Support {
    /// Whether it filters system calls.
    pub seccomp: bool,
    /// The version of Landlock's interface that is used; none without Landlock.
    pub landlock: Option<u32>,
    /// Whether this user may make namespaces.
    pub namespaces: bool,
    /// Whether this user may make one of processes, too.
    pub processes: bool,
    /// Whether this user may make one of users, too: hosts forbid those to all (`user.max_user_namespaces`), and nobody makes them
    /// in a changed root (`chroot(2)`). Without privileges there are no others without it.
    pub users: bool,
    /// What can be bounded by the control group that is delegated to this process; `None` if none is.
    pub cgroup: Option<Controllers>,
}

impl Support {
    /// Asks the kernel, once: what is found holds as long as it runs. A control group is there from [`crate::claim`] on.
    #[must_use]
    pub fn of_host() -> Support {
        static FOUND: OnceLock<Support> = OnceLock::new();
        let find = || {
            // Root's makes them without one of users.
            let privileged = may_make_namespaces();
            let namespaces = has_namespaces(false, !privileged);
            Support {
                seccomp: has_seccomp(),
                landlock: landlock_version(),
                namespaces,
                processes: namespaces && has_namespaces(true, !privileged),
                users: namespaces && (!privileged || has_namespaces(false, true)),
                cgroup: None,
            }
        };
        Support { cgroup: cgroup::claimed(), ..*FOUND.get_or_init(find) }
    }

    /// Whether a mechanism is there.
    #[must_use]
    pub fn has(&self, layer: Layer) -> bool {
        match layer {
            Layer::Seccomp => self.seccomp,
            Layer::Landlock => self.landlock.is_some(),
            Layer::Namespaces => self.namespaces,
            Layer::Cgroup => self.cgroup.is_some_and(Controllers::are_all),
        }
    }

    /// Those of `required` that are not there.
    #[must_use]
    pub fn missing(&self, required: &[Layer]) -> Vec<Layer> {
        required.iter().copied().filter(|layer| !self.has(*layer)).collect()
    }
}

impl fmt::Display for Support {
    /// One word for each mechanism: `seccomp, landlock 6, namespaces, cgroup –`; a dash behind one that is missing, and what is
    /// missing of one in parentheses.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = |is_there: bool| if is_there { "" } else { " –" };
        let landlock = self.landlock.map_or_else(|| "–".to_owned(), |version| version.to_string());
        let (seccomp, namespaces) = (mark(self.seccomp), mark(self.namespaces));
        let without = match (self.processes, self.users) {
            _ if !self.namespaces => "",
            (true, true) => "",
            (false, true) => " (without pid)",
            (true, false) => " (without user)",
            (false, false) => " (without pid and user)",
        };
        write!(f, "seccomp{seccomp}, landlock {landlock}, namespaces{namespaces}{without}, cgroup ")?;
        match self.cgroup {
            Some(all) if all.are_all() => f.write_str("memory pids cpu"),
            Some(some) => write!(f, "({some})"),
            None => f.write_str("–"),
        }
    }
}

/// The word `Seccomp` of `/proc/self/status` is there if the kernel filters system calls (`proc_pid_status(5)`).
fn has_seccomp() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        status.lines().any(|line| line.starts_with("Seccomp_filters:") || line.starts_with("Seccomp:"))
    })
}

/// Found by trying, with a root of its own: hosts forbid namespaces in many ways, and some of them only what one would
/// do in them. With one of processes it is not seen how the program ends, only that it begins.
fn has_namespaces(processes: bool, users: bool) -> bool {
    let Ok(root) = Path::new(EMPTY).canonicalize() else { return false };
    let Ok(at) = CString::new(root.as_os_str().as_bytes()) else { return false };
    let Some(program) = find_true() else { return false };
    let files: Vec<FileRule> = profile::program(&program).collect();
    let Ok(steps) = root::steps(&files) else { return false };
    let mut command = Command::new(&program);
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let root = Some((at, steps));
    let isolation = Isolation { users, network: true, processes, root, kept: Vec::new(), user: None };
    let Ok(program) = aegis_sys::confine::isolate(&mut command, isolation) else { return false };
    let begun = command.status().is_ok_and(|status| status.success());
    if let Some(program) = program {
        program.reap();
    }
    begun
}

/// The newest version whose rules the kernel takes whole, found by making rules of each; they are never applied.
fn landlock_version() -> Option<u32> {
    let versions = [(ABI::V6, 6), (ABI::V5, 5), (ABI::V4, 4), (ABI::V3, 3), (ABI::V2, 2), (ABI::V1, 1)];
    versions.into_iter().find(|(version, _)| takes(*version)).map(|(_, number)| number)
}

fn takes(version: ABI) -> bool {
    let hard = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let files = hard.handle_access(AccessFs::from_all(version));
    let net = files.and_then(|rules| match version {
        ABI::V4 | ABI::V5 | ABI::V6 => rules.handle_access(landlock::AccessNet::from_all(version)),
        _ => Ok(rules),
    });
    let scoped = net.and_then(|rules| match version {
        ABI::V6 => rules.scope(landlock::Scope::from_all(version)),
        _ => Ok(rules),
    });
    scoped.and_then(Ruleset::create).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said() {
        let all = Support {
            seccomp: true,
            landlock: Some(6),
            namespaces: true,
            processes: true,
            users: true,
            cgroup: None,
        };
        assert_eq!(all.to_string(), "seccomp, landlock 6, namespaces, cgroup –");
        assert_eq!(all.missing(&Layer::ALL), [Layer::Cgroup]);
        let some = Support { cgroup: Some(Controllers::default()), ..all };
        assert_eq!(some.to_string(), "seccomp, landlock 6, namespaces, cgroup (none)");
        assert_eq!(some.missing(&Layer::ALL), [Layer::Cgroup]);
        let without = Support { processes: false, ..all };
        assert_eq!(without.to_string(), "seccomp, landlock 6, namespaces (without pid), cgroup –");
        let without = Support { users: false, ..all };
        assert_eq!(without.to_string(), "seccomp, landlock 6, namespaces (without user), cgroup –");
        let none = Support {
            seccomp: false,
            landlock: None,
            namespaces: false,
            processes: false,
            users: false,
            cgroup: None,
        };
        assert_eq!(none.to_string(), "seccomp –, landlock –, namespaces –, cgroup –");
        assert_eq!(none.missing(&Layer::ALL), Layer::ALL);
    }
}
