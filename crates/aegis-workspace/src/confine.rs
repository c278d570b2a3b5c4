//! Confines this process to the directories that it serves: whoever takes it over from inside a guest gets no further.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, RestrictionStatus, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Gives up what serving files does not take. `writable` and `readable` are the only directories that can be reached
/// from then on, where the kernel knows Landlock; elsewhere only new privileges are given up.
pub(crate) fn confine(writable: &[PathBuf], readable: &[PathBuf]) {
    // Permissions are those that the guest asks for.
    rustix::process::umask(rustix::fs::Mode::empty());
    let limit = getrlimit(Resource::Nofile);
    // With fewer descriptors fewer files are kept open.
    let _fewer = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    // Best effort: a kernel without it offers nothing in its place.
    let _unconfined = rustix::thread::set_no_new_privs(true);
    let _unconfined = restrict(writable, readable);
}

fn restrict(writable: &[PathBuf], readable: &[PathBuf]) -> Result<RestrictionStatus, RulesetError> {
    let abi = ABI::V5;
    let devices = AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::Execute | AccessFs::IoctlDev;
    let write = AccessFs::from_all(abi) & !devices;
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .create()?
        .add_rules(rules(writable, write))?
        .add_rules(rules(readable, AccessFs::ReadFile | AccessFs::ReadDir))?;
    rules.restrict_self()
}

fn rules(
    paths: &[PathBuf],
    access: landlock::BitFlags<AccessFs>,
) -> impl Iterator<Item = Result<PathBeneath<PathFd>, RulesetError>> {
    let opened = paths.iter().filter_map(|path: &PathBuf| PathFd::new(Path::new(path)).ok());
    opened.map(move |fd| Ok(PathBeneath::new(fd, access)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::ErrorKind;

    use landlock::RulesetStatus;

    use super::*;

    #[test]
    fn a_confined_thread_reaches_its_directories_and_nothing_else_where_the_kernel_can() {
        let dir = tempfile::tempdir().unwrap();
        let [writable, readable, outside] = ["w", "r", "o"].map(|name| dir.path().join(name));
        for path in [&writable, &readable, &outside] {
            fs::create_dir(path).unwrap();
            fs::write(path.join("f"), "x").unwrap();
        }
        // It holds for one thread and what that starts.
        let confined = std::thread::spawn(move || {
            rustix::thread::set_no_new_privs(true).unwrap();
            let status = restrict(std::slice::from_ref(&writable), std::slice::from_ref(&readable)).unwrap();
            fs::write(writable.join("new"), "y").unwrap();
            fs::read(readable.join("f")).unwrap();
            let denied = |result: std::io::Result<()>| {
                result.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
            };
            let tries = [
                denied(fs::read(outside.join("f")).map(drop)),
                denied(fs::write(outside.join("new"), "y")),
                denied(fs::write(readable.join("new"), "y")),
                denied(fs::read("/etc/passwd").map(drop)),
            ];
            (status.ruleset, tries)
        });
        let (ruleset, tries) = confined.join().unwrap();
        let enforced = ruleset != RulesetStatus::NotEnforced;
        assert_eq!(tries, [enforced; 4], "{ruleset:?}");
    }
}
