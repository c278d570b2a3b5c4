//! A profile made ready for the kernel, and its application.

use std::ffi::CString;
use std::fs::Permissions;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use aegis_sys::confine::{Confinement, Instruction};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::BpfProgram;
use thiserror::Error;

use crate::profile::{Access, FileRule, Isolation, Limits, Profile};
use crate::support::Support;
use crate::{files, filter, root};

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
        let filters = filter::programs(&profile.calls)?;
        Ok(Jail { profile, filters })
    }

    /// Confines what `command` executes, from its first instruction on. Other preparations of the command, such as
    /// placing its descriptors, have to be attached before: some of them are system calls that the filter forbids.
    ///
    /// The profile has to allow `execve`, with which the program begins.
    ///
    /// # Errors
    /// If the kernel does not take the rules.
    pub fn attach(self, command: &mut Command) -> Result<(), JailError> {
        let instructions = |program: BpfProgram| {
            let one =
                |op: seccompiler::sock_filter| Instruction { code: op.code, jt: op.jt, jf: op.jf, k: op.k };
            program.into_iter().map(one).collect()
        };
        if let Some(isolation) = &self.profile.isolation {
            isolate(command, &self.profile.files, isolation)?;
        }
        let confinement = Confinement {
            landlock: files::descriptor(&self.profile)?,
            filters: self.filters.map(instructions).into(),
            limits: resources(&self.profile.limits)
                .map(|(resource, bound)| {
                    (number(resource), bounded(resource, bound).current.unwrap_or(bound))
                })
                .collect(),
            capabilities: self.profile.capabilities,
        };
        Ok(aegis_sys::confine::confine(command, confinement)?)
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
        for filter in &self.filters {
            seccompiler::apply_filter(filter)?;
        }
        Ok(())
    }
}

/// Puts what `command` executes into namespaces of its own, with a root in which there is what these rules name and
/// `/proc`; if this host allows that.
///
/// # Errors
/// If a path of a rule cannot be looked at.
pub fn isolate(command: &mut Command, files: &[FileRule], isolation: &Isolation) -> io::Result<()> {
    let Isolation { users, network, root, user } = isolation.clone();
    let privileged = may_make_namespaces();
    // Root's makes them without one of users, and then becomes the user that it is to be.
    let user = user.filter(|_| privileged);
    let users = users && user.is_none();
    if !Support::of_host().namespaces || !(privileged || users) {
        return Ok(());
    }
    if let Some(user) = user {
        files.iter().try_for_each(|rule| give(rule, user))?;
    }
    let user = user.map(|user| (user, files.iter().filter_map(device_group).collect()));
    std::fs::create_dir_all(&root)?;
    let root = Some((CString::new(root.into_os_string().into_vec())?, root::steps(files)?));
    aegis_sys::confine::isolate(command, aegis_sys::confine::Isolation { users, network, root, user });
    Ok(())
}

/// The group whose members may use a device, if not everybody may.
fn device_group(rule: &FileRule) -> Option<u32> {
    let found = std::fs::metadata(&rule.path).ok().filter(|_| rule.access == Access::Device)?;
    (found.mode() & 0o006 != 0o006).then(|| found.gid())
}

/// Whether this process may make namespaces without one of users, and become another user.
pub(crate) fn may_make_namespaces() -> bool {
    let needed =
        CapabilitySet::SYS_ADMIN | CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::CHOWN;
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(needed))
}

/// Lets a user do with a file of ours what a rule says: one that is written is made his, one that is read is made readable.
/// Nobody else gets to either, because the home is closed.
fn give(rule: &FileRule, user: u32) -> io::Result<()> {
    let Ok(found) = std::fs::metadata(&rule.path) else { return Ok(()) };
    if !found.is_file() {
        return Ok(());
    }
    let mode = found.mode();
    match rule.access {
        Access::Write if found.uid() != user => std::os::unix::fs::chown(&rule.path, Some(user), Some(user)),
        Access::Read if mode & 0o004 == 0 => {
            std::fs::set_permissions(&rule.path, Permissions::from_mode(mode | 0o444))
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
