//! Confining a child between `fork` and `exec`.
//!
//! As in [`crate::child`], only async-signal-safe calls may happen there: the closure makes system calls on values that
//! were prepared before the fork, and never allocates, locks or formats.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::check;
use crate::child::PLACED_BELOW;
use crate::namespace::ProgramPid;

/// One instruction of a filter, as `linux/filter.h` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// What it does.
    pub code: u16,
    /// How many instructions to skip if its condition holds.
    pub jt: u8,
    /// How many to skip if it does not.
    pub jf: u8,
    /// Its operand.
    pub k: u32,
}

/// What a child gives up.
#[derive(Debug)]
pub struct Confinement {
    /// Rules of Landlock, where the kernel has that.
    pub landlock: Option<OwnedFd>,
    /// Filters of system calls (`seccomp(2)`), in the order of their installation. The last has to allow `execve`, and
    /// those before it have to allow `seccomp`.
    pub filters: Vec<Vec<Instruction>>,
    /// Resources by number (`getrlimit(2)`), and the most of each.
    pub limits: Vec<(u32, u64)>,
    /// In the filters, what stands for the child's own process id, which nobody knows before.
    pub own_process: u32,
    /// Capabilities that are kept where the child has them, a bit each (`capabilities(7)`).
    pub capabilities: u64,
}

/// A step in making a root of a child's own. Targets are relative to that root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make a directory, unless it is there.
    Directory(CString),
    /// Make an empty file.
    File(CString),
    /// Show at a target what is at a path of the host, without what may not be there: devices but where they are
    /// wanted, set-user-id bits, and, if it is only read, changes.
    Bind {
        /// The path on the host.
        source: CString,
        /// Where it is shown, a directory or file that has been made.
        target: CString,
        /// Whether it is only read.
        read_only: bool,
        /// Whether it is a device.
        device: bool,
    },
    /// Mount what tells of processes (`proc(5)`) on a directory that has been made: in a namespace of processes of its
    /// own, of those in it only; else, or where the host does not allow that, the host's.
    Processes(CString),
}

/// A directory that a child has open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The number of its descriptor.
    pub descriptor: RawFd,
    /// Its path on the host, without links.
    pub path: CString,
    /// The path on the host of the directory of the child's root on which it is shown, which a step makes.
    pub target: CString,
    /// Whether it, and all that is mounted below it, is only read: then modes and owners cannot be changed either.
    pub read_only: bool,
}

/// Namespaces of a child's own (`namespaces(7)`): of mounts if it has a root of its own, and always of IPC and of the
/// host's name.
#[derive(Debug)]
pub struct Isolation {
    /// Whether it has one of users, in which it is the only one. Without that root alone may make the others.
    pub users: bool,
    /// Whether it has a network of its own, with nothing in it.
    pub network: bool,
    /// Whether it is the only process that it knows of.
    pub processes: bool,
    /// A directory that is in nobody's way, on which its root is mounted, and how that is made.
    pub root: Option<(CString, Vec<Step>)>,
    /// Directories that it has open and keeps, with a root of its own: through a descriptor of the host's a process would
    /// climb (`..`) out of any root.
    pub kept: Vec<Kept>,
    /// The user and group that it becomes when all that is done, and its other groups; only root's may.
    pub user: Option<(u32, Vec<u32>)>,
}

/// `_LINUX_CAPABILITY_VERSION_3` of `linux/capability.h`, and its two structures.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Default, Clone, Copy)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Makes `command` start in namespaces of its own. To be called before [`confine`]. With one of processes, another process
/// than the one that `spawn` returns becomes the program.
///
/// # Errors
/// If there is no memory.
pub fn isolate(command: &mut Command, isolation: Isolation) -> io::Result<Option<ProgramPid>> {
    let Isolation { users, network, processes, root, kept, user } = isolation;
    let program = processes.then(ProgramPid::new).transpose()?;
    let mut flags = libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    if users {
        flags |= libc::CLONE_NEWUSER;
    }
    if network {
        flags |= libc::CLONE_NEWNET;
    }
    if root.is_some() {
        flags |= libc::CLONE_NEWNS;
    }
    if processes {
        flags |= libc::CLONE_NEWPID;
    }
    let made = program.clone();
    let watches = if users { watches() } else { None };
    // SAFETY: these take nothing and cannot fail.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    let maps = [format!("{uid} {uid} 1"), format!("{gid} {gid} 1")];
    let setup = move || {
        // SAFETY: takes integers only.
        check(unsafe { libc::unshare(flags) })?;
        if users {
            let [uids, gids] = &maps;
            write(c"/proc/self/setgroups", b"deny")?;
            write(c"/proc/self/uid_map", uids.as_bytes())?;
            write(c"/proc/self/gid_map", gids.as_bytes())?;
            if let Some(most) = &watches {
                // Where this is not to be said there is the bound of the whole user.
                let _unbounded = write(c"/proc/sys/user/max_inotify_watches", most.as_bytes());
            }
        }
        if let Some(made) = &made {
            made.pass_on()?;
        }
        if let Some((at, steps)) = &root {
            change_root(at, steps, &kept)?;
        }
        match &user {
            Some((user, groups)) => become_user(*user, groups),
            None => Ok(()),
        }
    };
    // SAFETY: the closure is async-signal-safe, see the module's head.
    unsafe { command.pre_exec(setup) };
    Ok(program)
}

/// What part of the files and directories that a user may watch (`inotify(7)`) one namespace of users gets.
const SHARE_OF_WATCHES: u64 = 4;

/// How many files and directories a namespace of users may watch.
fn watches() -> Option<String> {
    let all = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_watches").ok()?;
    Some((all.trim().parse::<u64>().ok()? / SHARE_OF_WATCHES).to_string())
}

/// Makes `command` start in a control group, whose `cgroup.procs` is open here for writing. To be called before [`isolate`].
pub fn join_group(command: &mut Command, group: OwnedFd) {
    let setup = move || {
        // SAFETY: the byte outlives the call; the descriptor is owned by this closure and open.
        let written = unsafe { libc::write(group.as_raw_fd(), c"0".as_ptr().cast(), 1) };
        if written == 1 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: the closure is async-signal-safe, see the module's head.
    unsafe { command.pre_exec(setup) };
}

/// Becomes a user for good: real, effective and saved ids.
fn become_user(user: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: these take integers, and a list that outlives the call, with its length.
    unsafe {
        check(libc::setgroups(groups.len(), groups.as_ptr()))?;
        check(libc::setresgid(user, user, user))?;
        check(libc::setresuid(user, user, user))
    }
}

/// Writes a file that is there, with one call.
fn write(path: &CStr, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: the path ends with a zero byte and outlives the call.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    check(fd)?;
    // SAFETY: the bytes outlive the call; the descriptor is this function's own, and closed once.
    let (written, error) = unsafe {
        let written = libc::write(fd, bytes.as_ptr().cast(), bytes.len());
        let error = io::Error::last_os_error();
        libc::close(fd);
        (written, error)
    };
    if written == -1 { Err(error) } else { Ok(()) }
}

fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: libc::c_ulong, data: &CStr) -> io::Result<()> {
    // SAFETY: all texts end with a zero byte and outlive the call.
    check(unsafe {
        libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast())
    })
}

fn change_root(at: &CStr, steps: &[Step], kept: &[Kept]) -> io::Result<()> {
    // Others than the daemon's user are to get through the directories that are made here.
    // SAFETY: takes an integer and cannot fail.
    let mask = unsafe { libc::umask(0) };
    mount(c"none", c"/", c"none", libc::MS_REC | libc::MS_PRIVATE, c"")?;
    let limits = c"mode=0755,size=64k,nr_inodes=1k";
    mount(c"none", at, c"tmpfs", libc::MS_NOSUID | libc::MS_NODEV, limits)?;
    // SAFETY: the path ends with a zero byte and outlives the call.
    check(unsafe { libc::chdir(at.as_ptr()) })?;
    steps.iter().try_for_each(make)?;
    kept.iter().try_for_each(|one| show(one, at))?;
    // SAFETY: as above.
    unsafe { libc::umask(mask) };
    // The new root on top of the old one, which is then taken away from below (`pivot_root(2)`).
    // SAFETY: as above.
    let changed = unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) };
    if changed != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as above.
    check(unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) })?;
    // SAFETY: as above.
    check(unsafe { libc::chdir(c"/".as_ptr()) })?;
    let closed = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV;
    mount(c"none", c"/", c"none", closed, c"")
}

/// Shows a directory that is open in the root that is being made, and has its descriptor lead there. Its path is looked up
/// again, because a mount of the daemon's namespace cannot be shown in another one; it has to lead to the same directory.
fn show(kept: &Kept, at: &CStr) -> io::Result<()> {
    let again = reference(&kept.path)?;
    let (own, there) = (status(kept.descriptor)?, status(again)?);
    if (own.st_dev, own.st_ino) != (there.st_dev, there.st_ino) {
        return Err(io::Error::from_raw_os_error(libc::ESTALE));
    }
    // By way of the working directory, whose path nobody has to spell.
    // SAFETY: takes an integer only.
    check(unsafe { libc::fchdir(again) })?;
    mount(c".", &kept.target, c"none", libc::MS_BIND | libc::MS_REC, c"")?;
    if kept.read_only {
        close_for_writing(&kept.target)?;
    }
    // SAFETY: the path ends with a zero byte and outlives the call.
    check(unsafe { libc::chdir(at.as_ptr()) })?;
    let shown = reference(&kept.target)?;
    // SAFETY: takes integers only; the other descriptors are closed when the program starts.
    check(unsafe { libc::dup2(shown, kept.descriptor) })
}

/// `struct mount_attr` of `linux/mount.h`.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    namespace: u64,
}

/// `MOUNT_ATTR_RDONLY` of `linux/mount.h`.
const MOUNT_READ_ONLY: u64 = 1;

/// Has a mount, and all below it, only be read. A kernel before 5.12 closes the mount alone.
fn close_for_writing(target: &CStr) -> io::Result<()> {
    let attributes = MountAttributes { set: MOUNT_READ_ONLY, clear: 0, propagation: 0, namespace: 0 };
    // SAFETY: the path ends with a zero byte, the structure is of the length that is told, and both outlive the call.
    let closed = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            target.as_ptr(),
            libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    };
    if closed == 0 {
        return Ok(());
    }
    let flags = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY;
    remount(target, flags)
}

/// Mounts something anew with these flags. What the host has forbidden on it may not be allowed again, and these calls
/// would, but for the last.
fn remount(target: &CStr, flags: libc::c_ulong) -> io::Result<()> {
    let stricter = libc::MS_NOSUID | libc::MS_NODEV;
    let tries = [
        flags,
        flags | libc::MS_NOEXEC,
        flags | libc::MS_NOEXEC | libc::MS_NOATIME,
        flags | stricter,
        flags | stricter | libc::MS_NOEXEC | libc::MS_NOATIME,
    ];
    let mut last = Ok(());
    for flags in tries {
        last = mount(c"none", target, c"none", flags, c"");
        if last.is_ok() {
            break;
        }
    }
    last
}

/// Opens a directory for reference, until the program starts.
fn reference(path: &CStr) -> io::Result<RawFd> {
    // SAFETY: the path ends with a zero byte and outlives the call.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC) };
    check(fd)?;
    Ok(fd)
}

fn status(fd: RawFd) -> io::Result<libc::stat> {
    // SAFETY: all zeroes are a value of the structure, which outlives the call.
    unsafe {
        let mut status: libc::stat = std::mem::zeroed();
        check(libc::fstat(fd, &raw mut status))?;
        Ok(status)
    }
}

fn make(step: &Step) -> io::Result<()> {
    match step {
        Step::Directory(path) => {
            // SAFETY: the path ends with a zero byte and outlives the call.
            match check(unsafe { libc::mkdir(path.as_ptr(), 0o755) }) {
                Err(error) if error.raw_os_error() != Some(libc::EEXIST) => Err(error),
                _ => Ok(()),
            }
        }
        Step::File(path) => {
            // SAFETY: as above; the descriptor is this function's own, and closed once.
            let fd =
                unsafe { libc::open(path.as_ptr(), libc::O_CREAT | libc::O_WRONLY | libc::O_CLOEXEC, 0o644) };
            check(fd)?;
            // SAFETY: takes an integer only.
            check(unsafe { libc::close(fd) })
        }
        Step::Bind { source, target, read_only, device } => {
            mount(source, target, c"none", libc::MS_BIND | libc::MS_REC, c"")?;
            let mut flags = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_NOSUID;
            if *read_only {
                flags |= libc::MS_RDONLY;
            }
            if !*device {
                flags |= libc::MS_NODEV;
            }
            let closed = remount(target, flags).is_ok();
            if closed || !*read_only { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
        }
        Step::Processes(target) => {
            let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
            // Kernels before 5.8 know no subsets; and one that hides parts of the host's allows nobody to see more.
            let own =
                [c"subset=pid", c""].iter().any(|of| mount(c"proc", target, c"proc", flags, of).is_ok());
            if own { Ok(()) } else { mount(c"/proc", target, c"none", libc::MS_BIND | libc::MS_REC, c"") }
        }
    }
}

/// Makes `command` start confined. To be called after everything else that prepares the child.
///
/// # Errors
/// If there are no descriptors left.
pub fn confine(command: &mut Command, confinement: Confinement) -> io::Result<()> {
    let Confinement { landlock, filters, limits, own_process, capabilities } = confinement;
    let landlock = landlock.map(|fd| beyond(&fd)).transpose()?;
    let mut filters: Vec<Vec<libc::sock_filter>> = filters
        .into_iter()
        .map(|filter| {
            filter.into_iter().map(|Instruction { code, jt, jf, k }| libc::sock_filter { code, jt, jf, k })
        })
        .map(Iterator::collect)
        .collect();
    let setup = move || {
        for (resource, most) in &limits {
            let limit = libc::rlimit { rlim_cur: *most, rlim_max: *most };
            // SAFETY: the structure outlives the call.
            check(unsafe { libc::setrlimit(*resource, &raw const limit) })?;
        }
        keep_capabilities(capabilities)?;
        // SAFETY: takes integers only.
        check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
        if let Some(rules) = &landlock {
            // SAFETY: takes integers only; the descriptor is owned by this closure and open.
            let result = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0) };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // SAFETY: takes nothing and cannot fail.
        let process = unsafe { libc::getpid() }.cast_unsigned();
        for instruction in filters.iter_mut().flatten() {
            if instruction.k == own_process {
                instruction.k = process;
            }
        }
        filters.iter().try_for_each(|filter| install(filter))
    };
    // SAFETY: the closure is async-signal-safe, see the module's head.
    unsafe { command.pre_exec(setup) };
    Ok(())
}

/// The same descriptor under a number that no descriptor of a program has.
fn beyond(fd: &OwnedFd) -> io::Result<OwnedFd> {
    // SAFETY: takes integers only.
    let copy = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, PLACED_BELOW) };
    check(copy)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Keeps of the capabilities that the process has only these.
fn keep_capabilities(kept: u64) -> io::Result<()> {
    let mut header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    let mut data = [CapabilityData::default(); 2];
    // SAFETY: both structures are as the kernel has them for this version, and outlive the call.
    let read = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    if read != 0 {
        return Err(io::Error::last_os_error());
    }
    #[allow(clippy::cast_possible_truncation, reason = "the halves of the set")]
    let halves = [kept as u32, (kept >> 32) as u32];
    for (half, kept) in data.iter_mut().zip(halves) {
        half.permitted &= kept;
        half.effective = half.permitted;
        half.inheritable = 0;
    }
    // SAFETY: as above.
    let written = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) };
    if written == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn install(filter: &[libc::sock_filter]) -> io::Result<()> {
    // The kernel bounds the length of filters by 4096.
    let len = u16::try_from(filter.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the kernel copies the program and changes nothing; the instructions outlive the call.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_has_the_bounds_and_the_capabilities_that_it_was_left() {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -f; ulimit -c; grep -E '^(CapPrm|CapEff|NoNewPrivs)' /proc/self/status"]);
        let limits = vec![(libc::RLIMIT_FSIZE, 1 << 20), (libc::RLIMIT_CORE, 0)];
        let confinement = Confinement {
            landlock: None,
            filters: Vec::new(),
            limits,
            own_process: u32::MAX,
            capabilities: 0,
        };
        confine(&mut command, confinement).unwrap();
        let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let lines: Vec<&str> = output.lines().collect();
        // Blocks of 512 or 1024 bytes, as the shell likes.
        assert!(["1024", "2048"].contains(&lines[0]), "{output}");
        assert_eq!(lines[1], "0");
        assert_eq!(lines[2..], ["CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"]);
    }
}
