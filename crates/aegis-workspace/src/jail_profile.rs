//! Confines this process to the directories that it serves: whoever takes it over from inside a guest gets no further.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use aegis_jail::{Access, Argument, CAP_DAC_OVERRIDE, CAP_FOWNER, Call, FileRule, Jail, Limits, Profile};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Most memory of the process, bytes: its tables of nodes and listings are bounded far below.
const MOST_MEMORY: u64 = 2 << 30;

/// Gives up what serving files does not take. These directories, and those of them that may be written, are all that
/// can be reached from then on; no connection is made, no process started or spoken to.
///
/// # Errors
/// If the kernel refuses the filter of system calls. A kernel without Landlock is no error.
pub(crate) fn confine<'a>(roots: impl Iterator<Item = (BorrowedFd<'a>, bool)>) -> io::Result<()> {
    // Permissions are those that the guest asks for.
    rustix::process::umask(rustix::fs::Mode::empty());
    let limit = getrlimit(Resource::Nofile);
    // With fewer descriptors fewer files are kept open.
    let _fewer = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    Ok(Jail::new(profile(roots))?.enter()?)
}

fn profile<'a>(roots: impl Iterator<Item = (BorrowedFd<'a>, bool)>) -> Profile {
    let rule = |(root, writable): (BorrowedFd<'_>, bool)| {
        let access = if writable { Access::Tree } else { Access::Read };
        FileRule::new(format!("/proc/self/fd/{}", root.as_raw_fd()), access)
    };
    let roots: Vec<_> = roots.collect();
    let is_written = roots.iter().any(|(_, writable)| *writable);
    // Where nothing is written no mode is changed either; Landlock does not know of modes.
    let changes_modes = |number: i64| {
        number == libc::SYS_fchmod || number == libc::SYS_fchmodat || OLDER_CHMOD.contains(&number)
    };
    let with_mode = CALLS_WITH_MODE.iter().chain(OLDER_CALLS_WITH_MODE);
    let with_mode = with_mode.filter(|(number, _)| is_written || !changes_modes(*number));
    Profile {
        files: roots.into_iter().map(rule).collect(),
        // Made by whoever starts it.
        isolation: None,
        tcp: false,
        calls: Call::all(CALLS)
            // Where nothing is written nothing is counted, and a lock would keep the host from its own.
            .chain(is_written.then(|| Call::any(libc::SYS_flock)))
            .chain(Call::all(OLDER_CALLS))
            .chain(
                with_mode.map(|(number, argument)| {
                    Call::with(*number, [Argument::Lacks(*argument, SPECIAL_BITS)])
                }),
            )
            .chain([
                Call::with(libc::SYS_tgkill, [Argument::OwnProcess(0)]),
                // It makes a device in the place of what is renamed.
                Call::with(libc::SYS_renameat2, [Argument::Lacks(4, libc::RENAME_WHITEOUT as u64)]),
                Call::memory_of_its_own(),
            ])
            .collect(),
        limits: Limits { data: Some(MOST_MEMORY), ..Limits::default() },
        // Of root's process: what the directories hold may belong to others, as it may for root himself.
        capabilities: CAP_DAC_OVERRIDE | CAP_FOWNER,
    }
}

/// Calls that are made with any arguments.
const CALLS: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fallocate,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_futex,
    libc::SYS_getdents64,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    // What others change in its directories is told to the guest. What it could watch it could as well look at.
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_rm_watch,
    libc::SYS_linkat,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_newfstatat,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sendto,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Older calls, which the architectures that came later do not have.
#[cfg(target_arch = "x86_64")]
const OLDER_CALLS: &[i64] = &[libc::SYS_poll, libc::SYS_renameat];
#[cfg(not(target_arch = "x86_64"))]
const OLDER_CALLS: &[i64] = &[];

/// Older calls that change a mode by a path.
#[cfg(target_arch = "x86_64")]
const OLDER_CHMOD: &[i64] = &[libc::SYS_chmod];
#[cfg(not(target_arch = "x86_64"))]
const OLDER_CHMOD: &[i64] = &[];

/// Bits of a mode that let a file do more than whoever executes it may, or that only its owner may set (`inode(7)`). Nobody
/// who takes the server over leaves a program on the host that runs as the daemon's user, who may be root.
const SPECIAL_BITS: u64 = 0o7000;

/// Calls with a mode, by the number of that argument. One that makes nothing is given none, so that it is 0.
const CALLS_WITH_MODE: &[(i64, u8)] = &[
    (libc::SYS_fchmod, 1),
    (libc::SYS_fchmodat, 2),
    (libc::SYS_mkdirat, 2),
    (libc::SYS_mknodat, 2),
    (libc::SYS_openat, 3),
];

/// The same of the older ones.
#[cfg(target_arch = "x86_64")]
const OLDER_CALLS_WITH_MODE: &[(i64, u8)] = &[(libc::SYS_chmod, 1), (libc::SYS_open, 2)];
#[cfg(not(target_arch = "x86_64"))]
const OLDER_CALLS_WITH_MODE: &[(i64, u8)] = &[];

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::ErrorKind;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_confined_thread_reaches_its_directories_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let [writable, readable, outside] = ["w", "r", "o"].map(|name| dir.path().join(name));
        for path in [&writable, &readable, &outside] {
            fs::create_dir(path).unwrap();
            fs::write(path.join("f"), "x").unwrap();
        }
        let listener = std::os::unix::net::UnixListener::bind(dir.path().join("sock")).unwrap();
        let (files, calls) = std::thread::spawn(move || {
            // It holds for one thread and what that starts.
            let roots =
                [(fs::File::open(&writable).unwrap(), true), (fs::File::open(&readable).unwrap(), false)];
            confine(roots.iter().map(|(root, writable)| (root.as_fd(), *writable))).unwrap();
            fs::write(writable.join("new"), "y").unwrap();
            fs::read(readable.join("f")).unwrap();
            let denied = |result: io::Result<()>| {
                result.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
            };
            let files = [
                denied(fs::read(outside.join("f")).map(drop)),
                denied(fs::write(outside.join("new"), "y")),
                denied(fs::write(readable.join("new"), "y")),
                denied(fs::read("/etc/passwd").map(drop)),
            ];
            // A program that runs as its owner, by all ways to make one; the rest of a mode is the guest's affair.
            let mode = |bits: u32| rustix::fs::Mode::from_raw_mode(bits);
            let (path, new) = (writable.join("new"), writable.join("newer"));
            for special in [0o4755, 0o2755, 0o1755] {
                let made = [
                    rustix::fs::chmod(&path, mode(special)),
                    rustix::fs::fchmod(fs::File::open(&path).unwrap(), mode(special)),
                    rustix::fs::mkdir(&new, mode(special)),
                    rustix::fs::open(
                        &new,
                        rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY,
                        mode(special),
                    )
                    .map(drop),
                    rustix::fs::mknodat(
                        rustix::fs::CWD,
                        &new,
                        rustix::fs::FileType::RegularFile,
                        mode(special),
                        0,
                    ),
                ];
                assert_eq!(made, [Err(rustix::io::Errno::PERM); 5], "{special:o}");
            }
            rustix::fs::chmod(&path, mode(0o755)).unwrap();
            rustix::fs::mkdir(&new, mode(0o777)).unwrap();
            let calls = [
                denied(std::os::unix::net::UnixStream::connect(dir.path().join("sock")).map(drop)),
                denied(std::net::TcpStream::connect("127.0.0.1:9").map(drop)),
                denied(std::process::Command::new("/bin/true").status().map(drop)),
                denied(std::thread::Builder::new().spawn(|| {}).map(drop)),
            ];
            (files, calls)
        })
        .join()
        .unwrap();
        drop(listener);
        assert_eq!(calls, [true; 4]);
        assert_eq!(files, [aegis_jail::Support::of_host().landlock.is_some(); 4]);
    }
}
