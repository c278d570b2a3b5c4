//! The part of a profile that Landlock enforces: files, TCP, abstract sockets and signals (`landlock(7)`).

use std::os::fd::OwnedFd;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, Scope,
};

use crate::profile::{Access, FileRule, Profile};

/// The newest version of the kernel's interface that is asked for; an older kernel enforces what it knows.
pub(crate) const NEWEST: ABI = ABI::V6;

/// The rights of the kernel's that an access stands for.
fn rights(access: Access) -> BitFlags<AccessFs> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate;
    let never = AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::Execute | AccessFs::IoctlDev;
    match access {
        Access::Read => read,
        Access::Execute => read | AccessFs::Execute,
        Access::Write => write,
        Access::Device => write | AccessFs::IoctlDev,
        Access::Sockets => AccessFs::ReadDir | AccessFs::MakeSock | AccessFs::RemoveFile,
        Access::Tree => AccessFs::from_all(NEWEST) & !never,
    }
}

/// The rights that make sense for what is open: those of directories are refused for files.
fn fitting(file: &PathFd, access: Access) -> BitFlags<AccessFs> {
    use std::os::fd::AsFd;
    let is_directory = rustix::fs::fstat(file.as_fd())
        .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir());
    if is_directory { rights(access) } else { rights(access) & AccessFs::from_file(NEWEST) }
}

fn rule(rule: &FileRule) -> Option<Result<PathBeneath<PathFd>, RulesetError>> {
    // One that is not there grants nothing, and is of no harm.
    let file = PathFd::new(&rule.path).ok()?;
    let rights = fitting(&file, rule.access);
    Some(Ok(PathBeneath::new(file, rights)))
}

/// The rules of a profile, made ready.
pub(crate) fn ruleset(profile: &Profile) -> Result<RulesetCreated, RulesetError> {
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?;
    let denied = if profile.tcp { AccessNet::BindTcp.into() } else { AccessNet::from_all(NEWEST) };
    ruleset.handle_access(denied)?.create()?.add_rules(profile.files.iter().filter_map(rule))
}

/// The descriptor of the rules, for whoever restricts itself by system calls alone; `None` where the kernel has no
/// Landlock.
pub(crate) fn descriptor(profile: &Profile) -> Result<Option<OwnedFd>, RulesetError> {
    ruleset(profile).map(Into::into)
}
