//! What a monitor is confined to that makes its sockets itself: the files of one machine, its own threads, and a directory in
//! which it makes its sockets and nothing else.

use std::path::{Path, PathBuf};

use aegis_jail::{
    Access, Argument, Call, FileRule, Group, GroupBounds, Isolation, Limits, Profile, Served, THREADS_ONLY,
    instance_user,
};

use super::SOCKETS_FD;
use crate::MachineSpec;

/// What it reads of the host beside its own files: what it finds out about the processor.
const READ: [&str; 1] = ["/sys/devices/system/cpu"];
const KVM: &str = "/dev/kvm";

/// Name of the directory on which its root is mounted, in the run-time directory.
const ROOT: &str = "root";

/// Memory of its own beside the guest's, bytes.
const DATA: u64 = 256 << 20;
/// Addresses beside the guest's memory, bytes.
const ADDRESSES: u64 = 4 << 30;
/// Open descriptors. It has some forty, and one for each connection to the guest.
const DESCRIPTORS: u64 = 4096;
/// Threads beside its processors.
const THREADS: u64 = 16;
/// What an instance's processes take together beside its guest's memory, bytes, threads and processors: the monitor's own
/// needs, a copy of the memory while it is saved, and those of the file server and the gateway.
const GROUP_MEMORY: u64 = 1 << 30;
const GROUP_TASKS: u64 = 64;
const GROUP_CPUS: u64 = 2;

/// The profile of a machine whose sockets are made in this directory, by a monitor that makes these system calls.
pub(crate) fn profile(program: &Path, spec: &MachineSpec, sockets: &Path, calls: Vec<Call>) -> Profile {
    let disk = std::fs::metadata(&spec.data_disk).map_or(0, |status| status.len());
    let memory = u64::from(spec.memory_mib) << 20;
    Profile {
        files: files(program, spec, sockets),
        isolation: Some(Isolation {
            users: true,
            network: true,
            user: Some(instance_user(&spec.name)),
            root: spec.run_dir.join(ROOT),
            kept: vec![Served { number: SOCKETS_FD, path: sockets.to_owned(), read_only: false }],
            group: Group {
                name: spec.name.clone(),
                bounds: Some(GroupBounds {
                    memory: memory.saturating_mul(2).saturating_add(GROUP_MEMORY),
                    tasks: THREADS + u64::from(spec.vcpus) + GROUP_TASKS,
                    cpus: u64::from(spec.vcpus) + GROUP_CPUS,
                }),
            },
        }),
        tcp: false,
        calls,
        limits: Limits {
            file_size: Some(disk.max(memory)),
            data: Some(memory.saturating_add(DATA)),
            addresses: Some(memory.saturating_add(ADDRESSES)),
            descriptors: Some(DESCRIPTORS),
            threads: Some(THREADS + u64::from(spec.vcpus)),
        },
        capabilities: 0,
    }
}

fn files(program: &Path, spec: &MachineSpec, sockets: &Path) -> Vec<FileRule> {
    let parts = spec.root_disk.iter().chain(&spec.modules);
    let read = READ.iter().map(PathBuf::from).chain([spec.kernel.clone(), spec.initramfs.clone()]);
    let read = read.chain(parts.cloned()).map(|path| FileRule::new(path, Access::Read));
    aegis_jail::program(program)
        .chain(read)
        .chain([
            FileRule::new(&spec.data_disk, Access::Write),
            FileRule::new(KVM, Access::Device),
            FileRule::new(sockets, Access::Sockets),
        ])
        .collect()
}

/// What every such monitor does with any arguments, and a C library. What connects a socket, starts a process, or looks into another
/// one is not among these.
const CALLS: &[i64] = &[
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_execve,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fallocate,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_fstat,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_futex,
    libc::SYS_getdents64,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_ioctl,
    libc::SYS_listen,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sendto,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_shutdown,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_uname,
    libc::SYS_unlinkat,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Older calls, which the architectures that came later do not have.
#[cfg(target_arch = "x86_64")]
const OLDER_CALLS: &[i64] = &[
    libc::SYS_arch_prctl,
    libc::SYS_epoll_wait,
    libc::SYS_open,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_stat,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER_CALLS: &[i64] = &[];

/// The calls of a monitor: its own with any arguments, these options of `prctl(2)`, and what every such monitor does with some
/// arguments alone.
pub(crate) fn calls(its_own: &[i64], process_options: &[i32]) -> Vec<Call> {
    let is = |number: u8, value: i32| Argument::Is(number, u64::try_from(value).unwrap_or_default());
    Call::all(CALLS)
        .chain(Call::all(OLDER_CALLS))
        .chain(Call::all(its_own))
        .chain([
            Call::with(libc::SYS_socket, [is(0, libc::AF_UNIX)]),
            Call::with(libc::SYS_clone, [Argument::Has(0, THREADS_ONLY)]),
            Call::with(libc::SYS_prlimit64, [is(0, 0)]),
            Call::with(libc::SYS_tgkill, [Argument::OwnProcess(0)]),
            Call::with(libc::SYS_prctl, process_options.iter().map(|option| is(0, *option))),
            Call::memory_of_its_own(),
        ])
        .collect()
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::vsock::testing::spec;

    /// Fails if a monitor that makes these calls is allowed what leads out of its jail.
    pub(crate) fn assert_nothing_leads_out(calls: Vec<Call>) {
        let dir = tempfile::tempdir().unwrap();
        let spec = spec(dir.path());
        let sockets = dir.path().join("run/sockets");
        let profile = profile(Path::new("/usr/bin/monitor"), &spec, &sockets, calls);
        let written: Vec<_> = profile
            .files
            .iter()
            .filter(|rule| !matches!(rule.access, Access::Read | Access::Execute))
            .map(|rule| rule.path.clone())
            .collect();
        assert_eq!(written, [spec.data_disk.clone(), KVM.into(), sockets], "it writes its own disk");
        assert!(!profile.tcp && profile.capabilities == 0);
        for call in [
            libc::SYS_socketpair,
            libc::SYS_connect,
            libc::SYS_kill,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_mount,
            libc::SYS_bpf,
            libc::SYS_io_uring_setup,
            libc::SYS_keyctl,
            libc::SYS_pidfd_getfd,
        ] {
            assert!(!profile.calls.iter().any(|allowed| allowed.number() == call), "system call {call}");
        }
    }
}
