//! What the kernel of this host can enforce.

use std::fmt;

use landlock::{ABI, Access as _, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr};
use serde::{Deserialize, Serialize};

/// A mechanism that confines processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// An allowlist of system calls.
    Seccomp,
    /// Files, TCP, abstract sockets and signals.
    Landlock,
}

impl Layer {
    /// All there are.
    pub const ALL: [Layer; 2] = [Layer::Seccomp, Layer::Landlock];
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Layer::Seccomp => "seccomp",
            Layer::Landlock => "landlock",
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
}

impl Support {
    /// Asks the kernel. What is found holds as long as it runs.
    #[must_use]
    pub fn of_host() -> Support {
        Support { seccomp: has_seccomp(), landlock: landlock_version() }
    }

    /// Whether a mechanism is there.
    #[must_use]
    pub fn has(&self, layer: Layer) -> bool {
        match layer {
            Layer::Seccomp => self.seccomp,
            Layer::Landlock => self.landlock.is_some(),
        }
    }

    /// Those of `required` that are not there.
    #[must_use]
    pub fn missing(&self, required: &[Layer]) -> Vec<Layer> {
        required.iter().copied().filter(|layer| !self.has(*layer)).collect()
    }
}

impl fmt::Display for Support {
    /// One word for each mechanism: `seccomp, landlock 6`; a dash behind one that is missing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seccomp{}, landlock ", if self.seccomp { "" } else { " –" })?;
        match self.landlock {
            Some(version) => write!(f, "{version}"),
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
        let all = Support { seccomp: true, landlock: Some(6) };
        assert_eq!(all.to_string(), "seccomp, landlock 6");
        assert_eq!(all.missing(&Layer::ALL), []);
        let none = Support { seccomp: false, landlock: None };
        assert_eq!(none.to_string(), "seccomp –, landlock –");
        assert_eq!(none.missing(&Layer::ALL), Layer::ALL);
    }
}
