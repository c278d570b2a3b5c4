//! Confines this process: no file, no new privilege, and no system call but those that it makes.

use std::collections::BTreeMap;
use std::io;

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetError, RulesetStatus,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Most memory of the process, bytes: more than its bounds add up to.
const MOST_MEMORY: u64 = 2 << 30;

/// Gives up what the gateway does not need. From here on it opens no file, and no socket but those of IP.
///
/// # Errors
/// If the kernel refuses the filter of system calls. A kernel without Landlock is no error.
pub(crate) fn confine() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    // With fewer descriptors there are fewer flows.
    let _fewer = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let most = Some(MOST_MEMORY);
    let _unbounded = setrlimit(Resource::Data, Rlimit { current: most, maximum: most });
    rustix::thread::set_no_new_privs(true)?;
    // Best effort: the filter below forbids opening files as well.
    let _unconfined = forbid_files();
    forbid_calls()
}

fn forbid_files() -> Result<RulesetStatus, RulesetError> {
    let all = AccessFs::from_all(ABI::V5);
    let rules = Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(all)?.create()?;
    rules.restrict_self().map(|status| status.ruleset)
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
    libc::SYS_mmap,
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
    libc::SYS_tgkill,
    libc::SYS_write,
    libc::SYS_writev,
];

/// `FIONBIO` of `asm-generic/ioctls.h`.
const FIONBIO: u64 = 0x5421;

fn forbid_calls() -> io::Result<()> {
    let rules = rules().map_err(io::Error::other)?;
    let forbidden = SeccompAction::Errno(u32::try_from(libc::EPERM).unwrap_or(1));
    let arch = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
    let filter =
        SeccompFilter::new(rules, forbidden, SeccompAction::Allow, arch).map_err(io::Error::other)?;
    let program: BpfProgram = filter.try_into().map_err(io::Error::other)?;
    seccompiler::apply_filter(&program).map_err(io::Error::other)
}

fn rules() -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError> {
    let first = |value: u64| {
        let condition = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?;
        SeccompRule::new(vec![condition])
    };
    let request = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, FIONBIO)?;
    let families = [libc::AF_INET, libc::AF_INET6].map(|family| first(u64::try_from(family).unwrap_or(0)));
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = CALLS.iter().map(|call| (*call, Vec::new())).collect();
    // A pair has no name that anybody could find it by.
    rules.insert(libc::SYS_socketpair, vec![first(u64::try_from(libc::AF_UNIX).unwrap_or(0))?]);
    rules.insert(libc::SYS_socket, families.into_iter().collect::<Result<_, _>>()?);
    rules.insert(libc::SYS_ioctl, vec![SeccompRule::new(vec![request])?]);
    Ok(rules)
}

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
