//! What a process may do: plain data, no I/O.

use std::path::{Path, PathBuf};

use crate::cgroup::GroupBounds;
use crate::seccomp::Call;

/// To act as the owner of files needs no ownership (`CAP_FOWNER` of `linux/capability.h`).
pub const CAP_FOWNER: u64 = 1 << 3;
/// Permissions of files do not count (`CAP_DAC_OVERRIDE` of `linux/capability.h`).
pub const CAP_DAC_OVERRIDE: u64 = 1 << 1;

/// What may be done with a file, or with everything below a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read and list.
    Read,
    /// Read, list, map and execute: programs and their libraries.
    Execute,
    /// Read, write and truncate; nothing is made or removed.
    Write,
    /// Read, write and use the `ioctl`s of a device.
    Device,
    /// All that a file system offers but devices and execution.
    Tree,
    /// Of a directory that is the program's own: make sockets in it, and remove them.
    Sockets,
}

/// A file or directory, and what may be done with it. One that is not there grants nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRule {
    /// Opened once, when the jail is made, following links: only paths that no guest can change may stand here. A
    /// path that a guest may change is passed as `/proc/self/fd/N` of a descriptor that has been checked.
    pub path: PathBuf,
    /// What may be done.
    pub access: Access,
}

impl FileRule {
    /// A rule.
    pub fn new(path: impl Into<PathBuf>, access: Access) -> FileRule {
        FileRule { path: path.into(), access }
    }
}

/// Where programs, libraries and firmware are, and what the C library reads when a program starts. Nothing of a user's is
/// there.
const SYSTEM: [&str; 11] = [
    "/usr/lib",
    "/usr/lib64",
    "/usr/share",
    "/usr/local/lib",
    "/usr/local/share",
    "/lib",
    "/lib64",
    "/nix/store",
    "/gnu/store",
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
];

/// Where a program's libraries and firmware are beside its `bin`, if it was installed elsewhere than the system's.
const BESIDE: [&str; 4] = ["lib", "lib64", "libexec", "share"];

/// The rules that a program takes to start.
pub fn program(path: &Path) -> impl Iterator<Item = FileRule> {
    let system = SYSTEM.iter().map(PathBuf::from).chain([path.to_owned()]);
    let prefix = path.canonicalize().ok().and_then(|path| prefix(&path).map(Path::to_owned));
    let beside = prefix.into_iter().flat_map(|prefix| BESIDE.map(|name| prefix.join(name)));
    system.chain(beside).map(|path| FileRule::new(path, Access::Execute))
}

/// The prefix that a program was installed below: `/opt/qemu` of `/opt/qemu/bin/qemu`.
fn prefix(program: &Path) -> Option<&Path> {
    let bin = program.parent()?;
    let prefix = bin.parent().filter(|prefix| prefix.parent().is_some())?;
    (bin.ends_with("bin") || bin.ends_with("libexec")).then_some(prefix)
}

/// The first user of an instance's own, and how many there are. No account or container has these: systemd allocates
/// below (`UIDS-GIDS.md` of systemd), and the kernel's own special numbers are above.
const FIRST_USER: u32 = 1_900_000_000;
const USERS: u32 = 100_000_000;

/// The user that an instance's processes are where the daemon is root's. It follows from the name alone, so that nothing has
/// to be kept; two of a hundred have the same one with a chance of 1 to 20,000, and then share what this one wall gives.
#[must_use]
pub fn instance_user(name: &str) -> u32 {
    // FNV-1a, 64 bits.
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    FIRST_USER + u32::try_from(hash % u64::from(USERS)).unwrap_or(0)
}

/// Bounds on what a process takes (`getrlimit(2)`). There are never core files: memory of a guest may hold secrets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Largest file that it writes, bytes.
    pub file_size: Option<u64>,
    /// Memory that it has for itself, bytes (`RLIMIT_DATA`).
    pub data: Option<u64>,
    /// Addresses that it uses, bytes (`RLIMIT_AS`).
    pub addresses: Option<u64>,
    /// Open descriptors.
    pub descriptors: Option<u64>,
    /// Processes and threads of its user, if that is its own; others are not counted apart.
    pub threads: Option<u64>,
}

/// Namespaces of a process's own, where the host allows that: of mounts, IPC and names always.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Isolation {
    /// Whether it has one of users, in which it is the only one. It can then do nothing to files of others, whatever
    /// capabilities it has; without it these namespaces are made by a daemon of root's alone.
    pub users: bool,
    /// Whether its network is its own, with nothing in it.
    pub network: bool,
    /// Who it is if the daemon is root's, see [`instance_user`]: then its files that may be written are made that user's.
    pub user: Option<u32>,
    /// An empty directory on which the root of its own is mounted, in which there are the files of its rules, `/proc`,
    /// and nothing else.
    pub root: PathBuf,
    /// Directories that it has open, by the numbers of their descriptors, and where they are on the host: they are shown in
    /// its root and opened there anew, so that nothing leads up and out from them.
    pub kept: Vec<Served>,
    /// The control group that it is in together with others of its instance, where one can be made.
    pub group: Group,
}

/// A directory that a program has open, and is shown in its root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// The number of its descriptor.
    pub number: i32,
    /// Where it is on the host.
    pub path: PathBuf,
    /// Whether it is only read, modes and owners included.
    pub read_only: bool,
}

/// A control group of an instance's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name, unique on this host among those of one daemon.
    pub name: String,
    /// What all in it take at most, if this process is the one to say.
    pub bounds: Option<GroupBounds>,
}

/// A confinement.
#[derive(Debug, Clone)]
pub struct Profile {
    /// The only files that can be opened.
    pub files: Vec<FileRule>,
    /// Its namespaces, if it is confined by whoever starts it.
    pub isolation: Option<Isolation>,
    /// Whether connections of TCP can be made. None can be listened for.
    pub tcp: bool,
    /// The only system calls that can be made; others fail with `EPERM`.
    pub calls: Vec<Call>,
    /// Bounds.
    pub limits: Limits,
    /// What is left of root's capabilities, if the process is root's: a bit each, as of `capabilities(7)`.
    pub capabilities: u64,
}
