//! A profile made ready for the kernel, and its application.

use std::ffi::CString;
use std::fs::Permissions;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use aegis_sys::confine::{Confinement, Instruction, Kept, Step};
use aegis_sys::namespace::ProgramPid;
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::BpfProgram;
use thiserror::Error;

use crate::privilege::may_make_namespaces;
use crate::profile::{Access, FileRule, Isolation, Limits, Profile, Served};
use crate::support::Support;
use crate::{cgroup, files, root, seccomp};

/// A process cannot be confined.
#[derive(Debug, Error)]
pub enum JailError {
    /// The kernel does not take the rules for files.
    #[error("the rules for files: {0}")]
    Files(#[from] landlock::RulesetError),
    /// The calls make no filter.
    #[error("the filter of system calls: {0}")]
    Calls(#[from] seccompiler::BackendError),
    /// The kernel does not take the filter.
    #[error("the filter of system calls: {0}")]
    Filter(#[from] seccompiler::Error),
    /// The system refused.
    #[error(transparent)]
    System(#[from] io::Error),
}

impl From<JailError> for io::Error {
    fn from(error: JailError) -> io::Error {
        match error {
            JailError::System(error) => error,
            error => io::Error::other(error),
        }
    }
}

/// A confinement, made ready for the kernel.
#[derive(Debug)]
pub struct Jail {
    profile: Profile,
    filters: [BpfProgram; 2],
}

/// The bounds as the kernel has them.
fn resources(limits: &Limits) -> impl Iterator<Item = (Resource, u64)> {
    let bounds = [
        (Resource::Core, Some(0)),
        (Resource::Fsize, limits.file_size),
        (Resource::Data, limits.data),
        (Resource::As, limits.addresses),
        (Resource::Nofile, limits.descriptors),
        (Resource::Nproc, limits.threads),
    ];
    bounds.into_iter().filter_map(|(resource, bound)| Some((resource, bound?)))
}

/// The lower of a bound and what the process may have at most.
fn bounded(resource: Resource, bound: u64) -> Rlimit {
    let most = rustix::process::getrlimit(resource).maximum.map_or(bound, |most| most.min(bound));
    Rlimit { current: Some(most), maximum: Some(most) }
}

impl Jail {
    /// Makes a profile ready.
    ///
    /// # Errors
    /// If its calls make no filter.
    pub fn new(profile: Profile) -> Result<Jail, JailError> {
        let filters = seccomp::programs(&profile.calls)?;
        Ok(Jail { profile, filters })
    }

    /// The namespaces that it begins with.
    #[must_use]
    pub fn isolation(&self) -> Option<&Isolation> {
        self.profile.isolation.as_ref()
    }

    /// Confines what `command` executes, from its first instruction on. Other preparations of the command, such as
    /// placing its descriptors, have to be attached before: some of them are system calls that the filter forbids.
    ///
    /// The profile has to allow `execve`, with which the program begins. Where it gets a namespace of processes, the
    /// program is not the process that `spawn` returns, but the one of this number.
    ///
    /// # Errors
    /// If the kernel does not take the rules.
    pub fn attach(self, command: &mut Command) -> Result<Option<ProgramPid>, JailError> {
        let instructions = |program: BpfProgram| {
            let one =
                |op: seccompiler::sock_filter| Instruction { code: op.code, jt: op.jt, jf: op.jf, k: op.k };
            program.into_iter().map(one).collect()
        };
        let (isolated, program) = match &self.profile.isolation {
            Some(isolation) => isolate(command, &self.profile.files, isolation)?,
            None => (Isolated::Nothing, None),
        };
        let mut limits = self.profile.limits;
        if isolated != Isolated::WithUser {
            // They would be counted together with all that the daemon's user runs.
            limits.threads = None;
        }
        let confinement = Confinement {
            landlock: files::descriptor(&self.profile)?,
            filters: self.filters.map(instructions).into(),
            limits: resources(&limits)
                .map(|(resource, bound)| {
                    (number(resource), bounded(resource, bound).current.unwrap_or(bound))
                })
                .collect(),
            own_process: seccomp::OWN_PROCESS,
            capabilities: self.profile.capabilities,
        };
        aegis_sys::confine::confine(command, confinement)?;
        Ok(program)
    }

    /// Confines this thread, and all that it starts from here on. To be done while there is no other.
    ///
    /// # Errors
    /// If the kernel refuses. A kernel without Landlock is no error: [`crate::Support`] tells.
    pub fn enter(self) -> Result<(), JailError> {
        for (resource, bound) in resources(&self.profile.limits) {
            setrlimit(resource, bounded(resource, bound)).map_err(io::Error::from)?;
        }
        drop_capabilities(self.profile.capabilities)?;
        rustix::thread::set_no_new_privs(true).map_err(io::Error::from)?;
        files::ruleset(&self.profile)?.restrict_self()?;
        let own = rustix::process::getpid().as_raw_nonzero().get().cast_unsigned();
        for mut filter in self.filters {
            for instruction in filter.iter_mut().filter(|one| one.k == seccomp::OWN_PROCESS) {
                instruction.k = own;
            }
            seccompiler::apply_filter(&filter)?;
        }
        Ok(())
    }
}

/// How far a program is apart from the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolated {
    /// This host does not allow it.
    Nothing,
    /// It has namespaces of its own.
    Namespaces,
    /// It is another user besides.
    WithUser,
}

/// Puts what `command` executes into namespaces of its own, with a root in which there is what these rules name and
/// `/proc`; if this host allows that. Returns how far, and the program's number, see [`Jail::attach`].
///
/// # Errors
/// If a path of a rule cannot be looked at.
pub fn isolate(
    command: &mut Command,
    files: &[FileRule],
    isolation: &Isolation,
) -> io::Result<(Isolated, Option<ProgramPid>)> {
    let Isolation { users, network, root, user, kept, group } = isolation.clone();
    if let Some(joined) = cgroup::join(&group.name, group.bounds) {
        aegis_sys::confine::join_group(command, joined);
    }
    let privileged = may_make_namespaces();
    let groups = device_groups(files);
    // Root's makes them without one of users, and then becomes the user that it is to be.
    let user = user.filter(|user| privileged && is_mapped(*user)).zip(groups);
    let support = Support::of_host();
    let users = users && user.is_none() && support.users;
    if !support.namespaces || !(privileged || users) {
        return Ok((Isolated::Nothing, None));
    }
    if let Some((user, _)) = &user {
        files.iter().try_for_each(|rule| give(rule, *user))?;
    }
    std::fs::create_dir_all(&root)?;
    let mut steps = root::steps(files)?;
    let kept = kept.into_iter().map(|one| keep(one, &root, &mut steps)).collect::<io::Result<_>>()?;
    let isolated = if user.is_some() { Isolated::WithUser } else { Isolated::Namespaces };
    let root = Some((CString::new(root.into_os_string().into_vec())?, steps));
    let processes = support.processes;
    let namespaces = aegis_sys::confine::Isolation { users, network, processes, root, kept, user };
    Ok((isolated, aegis_sys::confine::isolate(command, namespaces)?))
}

/// Where a directory that a program has open is shown in its root: below one that no rule names.
fn keep(served: Served, root: &Path, steps: &mut Vec<Step>) -> io::Result<Kept> {
    let Served { number, path, read_only } = served;
    let name = format!("served-{number}");
    steps.push(Step::Directory(CString::new(name.as_str())?));
    let text = |path: PathBuf| CString::new(path.into_os_string().into_vec());
    Ok(Kept { descriptor: number, path: text(path)?, target: text(root.join(name))?, read_only })
}

/// The groups whose members may use the devices of a profile; `None` if another user could not, whatever his groups.
fn device_groups(files: &[FileRule]) -> Option<Vec<u32>> {
    let devices = files.iter().filter(|rule| rule.access == Access::Device);
    let found = devices.filter_map(|rule| std::fs::metadata(&rule.path).ok());
    found.filter(|found| found.mode() & 0o006 != 0o006).map(|found| device_group(&found)).collect()
}

fn device_group(found: &std::fs::Metadata) -> Option<u32> {
    (found.mode() & 0o060 == 0o060 && found.gid() != 0).then(|| found.gid())
}

/// Whether a user and a group of this number exist in this process's namespace (`user_namespaces(7)`).
fn is_mapped(number: u32) -> bool {
    let holds = |line: &str| {
        let mut words = line.split_ascii_whitespace().map(str::parse::<u64>);
        match (words.next(), words.next(), words.next()) {
            (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) => {
                (first..first.saturating_add(count)).contains(&number.into())
            }
            _ => false,
        }
    };
    ["/proc/self/uid_map", "/proc/self/gid_map"]
        .iter()
        .all(|map| std::fs::read_to_string(map).is_ok_and(|text| text.lines().any(holds)))
}

/// Lets a user do with a file of ours what a rule says: one that is written is made his, one that is read is made readable.
/// Nobody else gets to either, because the home is closed.
fn give(rule: &FileRule, user: u32) -> io::Result<()> {
    let Ok(found) = std::fs::metadata(&rule.path) else { return Ok(()) };
    if rule.access == Access::Sockets && found.is_dir() && found.uid() != user {
        return std::os::unix::fs::chown(&rule.path, Some(user), Some(user));
    }
    if !found.is_file() {
        return Ok(());
    }
    let mode = found.mode();
    match rule.access {
        Access::Write if found.uid() != user => std::os::unix::fs::chown(&rule.path, Some(user), Some(user)),
        Access::Read if mode & 0o004 == 0 => {
            std::fs::set_permissions(&rule.path, Permissions::from_mode(mode | 0o444))
        }
        Access::Execute if mode & 0o005 != 0o005 && mode & 0o100 != 0 => {
            std::fs::set_permissions(&rule.path, Permissions::from_mode(mode | 0o555))
        }
        _ => Ok(()),
    }
}

/// Keeps of root's capabilities only these. Without any there is nothing to drop.
fn drop_capabilities(kept: u64) -> io::Result<()> {
    let now = rustix::thread::capabilities(None)?;
    let kept = now.permitted & CapabilitySet::from_bits_retain(kept);
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// The kernel's number of a resource (`asm-generic/resource.h`).
fn number(resource: Resource) -> u32 {
    match resource {
        Resource::Core => libc::RLIMIT_CORE,
        Resource::Fsize => libc::RLIMIT_FSIZE,
        Resource::Data => libc::RLIMIT_DATA,
        Resource::As => libc::RLIMIT_AS,
        Resource::Nproc => libc::RLIMIT_NPROC,
        _ => libc::RLIMIT_NOFILE,
    }
}
