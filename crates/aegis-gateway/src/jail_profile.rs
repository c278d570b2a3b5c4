//! Confines this process: no file, no new privilege, and no system call but those that it makes.

use std::io;

use aegis_jail::{Argument, Call, Jail, Limits, Profile};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Most memory of the process, bytes: more than its bounds add up to.
const MOST_MEMORY: u64 = 2 << 30;

/// Longest file that it writes, bytes: what it says, mostly nothing.
const MOST_LOG: u64 = 1 << 20;

/// Gives up what the gateway does not need. From here on it opens no file, and no socket but those of IP.
///
/// # Errors
/// If the kernel refuses the filter of system calls. A kernel without Landlock is no error: the filter forbids opening
/// files as well.
pub(crate) fn confine() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    // With fewer descriptors there are fewer flows.
    let _fewer = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    Ok(Jail::new(profile())?.enter()?)
}

fn profile() -> Profile {
    Profile {
        files: Vec::new(),
        // Made by whoever starts it.
        isolation: None,
        tcp: true,
        calls: Call::all(CALLS)
            .chain([
                Call::with(libc::SYS_socketpair, [Argument::All(STREAM_PAIR)]),
                Call::with(libc::SYS_socket, SOCKETS.iter().map(|socket| Argument::All(socket))),
                Call::memory_of_its_own(),
                Call::with(libc::SYS_tgkill, [Argument::OwnProcess(0)]),
                Call::with(libc::SYS_ioctl, [Argument::Is(1, FIONBIO)]),
            ])
            .collect(),
        limits: Limits { data: Some(MOST_MEMORY), file_size: Some(MOST_LOG), ..Limits::default() },
        capabilities: 0,
    }
}

/// A pair has no name that anybody could find it by, and one that is a stream cannot be connected to anything else: an end of a
/// pair for datagrams can, to any path. Their types have this bit in common (`SOCK_DGRAM`, and `SOCK_RAW`, which is the same
/// here: `unix_create` of the kernel).
const STREAM_PAIR: &[Argument] =
    &[Argument::Is(0, libc::AF_UNIX as u64), Argument::Lacks(1, libc::SOCK_DGRAM as u64)];

/// Sockets that the gateway makes: TCP, UDP and echoes, of either IP version. Others would have the kernel load code that nobody
/// uses here.
const SOCKETS: &[&[Argument]] = &[
    &ip(libc::AF_INET, 0),
    &ip(libc::AF_INET, libc::IPPROTO_TCP),
    &ip(libc::AF_INET, libc::IPPROTO_UDP),
    &ip(libc::AF_INET, libc::IPPROTO_ICMP),
    &ip(libc::AF_INET6, 0),
    &ip(libc::AF_INET6, libc::IPPROTO_TCP),
    &ip(libc::AF_INET6, libc::IPPROTO_UDP),
    &ip(libc::AF_INET6, libc::IPPROTO_ICMPV6),
];

/// A socket of this family and protocol.
#[expect(clippy::cast_sign_loss, reason = "constants of the system, none of them negative")]
const fn ip(family: libc::c_int, protocol: libc::c_int) -> [Argument; 2] {
    [Argument::Is(0, family as u64), Argument::Is(2, protocol as u64)]
}

/// Calls that are made with any arguments.
const CALLS: &[i64] = &[
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_close,
    libc::SYS_connect,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fcntl,
    libc::SYS_futex,
    libc::SYS_getpeername,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_sigaltstack,
    libc::SYS_write,
    libc::SYS_writev,
];

/// `FIONBIO` of `asm-generic/ioctls.h`.
const FIONBIO: u64 = 0x5421;

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    #[test]
    fn a_confined_process_opens_no_file_and_no_socket_but_those_of_ip() {
        // It holds for one thread and what that starts.
        let confined = std::thread::spawn(|| {
            confine().unwrap();
            let denied = |result: io::Result<()>| {
                result.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
            };
            let tries = [
                denied(std::fs::read("/etc/passwd").map(drop)),
                denied(std::fs::write("/tmp/aegis-gateway-test", "x")),
                denied(std::process::Command::new("/bin/true").status().map(drop)),
                denied(std::os::unix::net::UnixDatagram::unbound().map(drop)),
            ];
            (tries, std::net::UdpSocket::bind("127.0.0.1:0").is_ok())
        });
        assert_eq!(confined.join().unwrap(), ([true; 4], true));
    }
}
