//! System calls that somebody who has taken a process over would make, and those that need nothing of the host's.

use std::path::Path;

use nix::libc;

use super::process::Argument;

/// A try to get out, and what it asks for.
pub(super) struct Try {
    pub(super) what: String,
    pub(super) number: i64,
    pub(super) arguments: Vec<Argument>,
    /// A gateway may: it is what it is for.
    pub(super) of_gateways: bool,
}

pub(super) fn attempt(
    what: impl Into<String>,
    number: i64,
    arguments: impl IntoIterator<Item = Argument>,
) -> Try {
    Try { what: what.into(), number, arguments: arguments.into_iter().collect(), of_gateways: false }
}

pub(super) const HERE: i64 = libc::AT_FDCWD as i64;

pub(super) fn open(what: &str, path: &Path, flags: i32) -> Try {
    let arguments = [HERE.into(), path.to_str().unwrap().into(), i64::from(flags).into(), 0o600.into()];
    attempt(what, libc::SYS_openat, arguments)
}

pub(super) fn number(value: i32) -> Argument {
    i64::from(value).into()
}

/// `F_NOTIFY` of `linux/fcntl.h`.
const F_NOTIFY: i32 = 1026;

/// What others need, kept from them: by a lock on a file that is open here for reading, and by memory.
pub(super) fn keeping_from_others(descriptor: i32) -> Vec<Try> {
    // `struct flock` of zeroes: all of it, for reading.
    let whole = [0u8; 32];
    let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    vec![
        attempt(
            "lock a file that others read",
            libc::SYS_fcntl,
            [number(descriptor), number(libc::F_OFD_SETLK), whole.as_slice().into()],
        ),
        attempt(
            "take a lease on a file that others read",
            libc::SYS_fcntl,
            [number(descriptor), number(libc::F_SETLEASE), number(libc::F_RDLCK)],
        ),
        attempt(
            "be told of what others do in a directory",
            libc::SYS_fcntl,
            [number(descriptor), number(F_NOTIFY), number(0)],
        ),
        attempt(
            "memory that no bound counts",
            libc::SYS_mmap,
            [0.into(), 4096.into(), number(access), number(flags), number(-1), 0.into()],
        ),
    ]
}

/// The host's kernel.
pub(super) fn kernel() -> Vec<Try> {
    let room = [0u8; 128];
    let calls = [
        ("make namespaces", libc::SYS_unshare, i64::from(libc::CLONE_NEWUSER)),
        ("enter a namespace", libc::SYS_setns, 3),
        ("io_uring", libc::SYS_io_uring_setup, 8),
        ("load a program into the kernel", libc::SYS_bpf, 0),
        ("the kernel's keyring", libc::SYS_keyctl, 0),
        ("count the kernel's events", libc::SYS_perf_event_open, 0),
        ("handle page faults", libc::SYS_userfaultfd, 0),
        ("mount", libc::SYS_mount, 0),
        ("change the root", libc::SYS_chroot, 0),
        ("load a kernel module", libc::SYS_finit_module, 3),
        ("a file without a name to execute", libc::SYS_memfd_create, 0),
        ("set the clock", libc::SYS_clock_settime, 0),
    ];
    let pair = [i64::from(libc::AF_UNIX), i64::from(libc::SOCK_DGRAM), 0].map(Into::into);
    let [family, kind, protocol] = pair;
    calls
        .into_iter()
        .map(|(what, call, first)| attempt(what, call, [first.into(), room.as_slice().into(), 0.into()]))
        .chain([
            attempt(
                "a socket for datagrams, to be connected to a path",
                libc::SYS_socketpair,
                [family, kind, protocol, room.as_slice().into()],
            ),
            attempt(
                "a socket of MPTCP, which no rule for TCP binds",
                libc::SYS_socket,
                [
                    number(libc::AF_INET),
                    i64::from(libc::SOCK_STREAM).into(),
                    i64::from(libc::IPPROTO_MPTCP).into(),
                ],
            ),
        ])
        .collect()
}

/// Programs. The last of all: QEMU's own filter ends it for that.
pub(super) fn programs() -> Vec<Try> {
    let nobody = [0u8; 8];
    vec![
        attempt("start a process", libc::SYS_clone, [i64::from(libc::SIGCHLD).into(), 0.into()]),
        attempt("be another user", libc::SYS_setuid, [65_534.into()]),
        attempt(
            "execute a program",
            libc::SYS_execve,
            ["/bin/true".into(), nobody.as_slice().into(), nobody.as_slice().into()],
        ),
    ]
}
