//! What QEMU is confined to: the files of one machine, its own threads, and the descriptors that it was given.
//!
//! All that QEMU parses is hostile: the guest's kicks, queues and frames. With code of its own in it a guest reaches
//! what is listed here and nothing else. Its sockets come ready made, so that it makes none; the disk that a spare
//! machine is given and the file that its devices are saved to are passed as descriptors.

use std::path::Path;

use aegis_jail::{
    Access, Argument, Call, FileRule, Group, GroupBounds, Isolation, Jail, JailError, Limits, Profile,
    THREADS_ONLY,
};

use super::arguments;
use crate::MachineSpec;
use crate::accelerator::Accelerator;

/// What it reads of the host beside its own files.
const READ: [&str; 3] =
    ["/sys/devices/system/cpu/online", "/sys/devices/system/cpu/possible", "/dev/urandom"];
/// What it writes to beside its disk: QEMU finds out there how files can be locked.
const NULL: &str = "/dev/null";

/// Name of the directory on which its root is mounted, in the run-time directory.
const ROOT: &str = "root";

/// Memory of its own beside the guest's, bytes: translated code, heaps, and stacks of threads.
const DATA: u64 = 3 << 30;
/// Addresses beside the guest's memory, bytes: that, program and libraries, and what the C library sets aside for the heap of
/// each thread and never touches.
const ADDRESSES: u64 = 16 << 30;
/// Open descriptors. It has some thirty.
const DESCRIPTORS: u64 = 512;
/// Threads beside its processors, the gateway's included: one for each request of a disk that is under way.
const THREADS: u64 = 256;
/// What an instance's processes take together, beside its guest's memory, bytes, beside QEMU's threads, and beside its
/// processors: QEMU's own needs, and those of the file server and the gateway.
const GROUP_MEMORY: u64 = 4 << 30;
const GROUP_TASKS: u64 = 64;
const GROUP_CPUS: u64 = 2;
/// Largest file beside its disk and its memory, bytes: its log.
const LEAST_FILE: u64 = 16 << 20;

/// The jail of a machine.
pub(super) fn of(program: &Path, spec: &MachineSpec, accelerator: Accelerator) -> Result<Jail, JailError> {
    Jail::new(profile(program, spec, accelerator))
}

fn profile(program: &Path, spec: &MachineSpec, accelerator: Accelerator) -> Profile {
    let disk = std::fs::metadata(&spec.data_disk).map_or(0, |status| status.len());
    let memory = u64::from(spec.memory_mib) << 20;
    Profile {
        files: files(program, spec, accelerator),
        isolation: Some(Isolation {
            users: true,
            network: true,
            user: Some(aegis_jail::instance_user(&spec.name)),
            root: spec.run_dir.join(ROOT),
            kept: Vec::new(),
            group: Group {
                name: spec.name.clone(),
                bounds: Some(GroupBounds {
                    memory: memory.saturating_add(GROUP_MEMORY),
                    tasks: THREADS + u64::from(spec.vcpus) + GROUP_TASKS,
                    cpus: u64::from(spec.vcpus) + GROUP_CPUS,
                }),
            },
        }),
        tcp: false,
        calls: calls(),
        limits: Limits {
            file_size: Some(disk.max(memory).max(LEAST_FILE)),
            // A machine from a template has the guest's memory for itself.
            data: Some(memory.saturating_add(DATA)),
            addresses: Some(memory.saturating_add(ADDRESSES)),
            descriptors: Some(DESCRIPTORS),
            threads: Some(THREADS + u64::from(spec.vcpus)),
        },
        capabilities: 0,
    }
}

fn files(program: &Path, spec: &MachineSpec, accelerator: Accelerator) -> Vec<FileRule> {
    let joined = arguments::joined_root(spec);
    let read = READ.iter().map(Path::new).chain([&*spec.kernel, &*spec.initramfs, &*joined]);
    let read = read.chain(arguments::root_parts(spec));
    let device = (accelerator == Accelerator::Kvm).then(|| Path::new("/dev/kvm"));
    let rules = |access| move |path: &Path| FileRule::new(path, access);
    aegis_jail::program(program)
        .chain(read.map(rules(Access::Read)))
        .chain([FileRule::new(&spec.data_disk, Access::Write), FileRule::new(NULL, Access::Write)])
        .chain(device.into_iter().map(rules(Access::Device)))
        .collect()
}

/// Calls that are made with any arguments. What makes, names or connects a socket, starts a process, or looks into
/// another one is not among them.
const CALLS: &[i64] = &[
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_execve,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_futex,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpeername,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
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
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pselect6,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_seccomp,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_sigaltstack,
    libc::SYS_signalfd4,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_sync_file_range,
    libc::SYS_sysinfo,
    libc::SYS_timer_create,
    libc::SYS_timer_delete,
    libc::SYS_timer_settime,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_uname,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Older calls, which the architectures that came later do not have.
#[cfg(target_arch = "x86_64")]
const OLDER_CALLS: &[i64] = &[
    libc::SYS_access,
    libc::SYS_arch_prctl,
    libc::SYS_dup2,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_getrlimit,
    libc::SYS_lstat,
    libc::SYS_open,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_select,
    libc::SYS_stat,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER_CALLS: &[i64] = &[];

/// What may be said with `prctl(2)`: names of threads and regions, and what QEMU's own sandbox is made with.
const PROCESS_OPTIONS: [i32; 7] = [
    libc::PR_MCE_KILL,
    libc::PR_SET_NAME,
    libc::PR_SET_NO_NEW_PRIVS,
    libc::PR_SET_SECCOMP,
    libc::PR_SET_TIMERSLACK,
    libc::PR_CAPBSET_READ,
    // Names of anonymous memory (`PR_SET_VMA`).
    0x5356_4d41,
];

fn calls() -> Vec<Call> {
    let option = |option: i32| Argument::Is(0, u64::try_from(option).unwrap_or_default());
    let own_limits = Call::with(libc::SYS_prlimit64, [Argument::Is(0, 0)]);
    Call::all(CALLS)
        .chain(Call::all(OLDER_CALLS))
        .chain([
            Call::with(libc::SYS_clone, [Argument::Has(0, THREADS_ONLY)]),
            Call::with(libc::SYS_prctl, PROCESS_OPTIONS.map(option)),
            own_limits,
            Call::memory_of_its_own(),
            Call::with(libc::SYS_tgkill, [Argument::OwnProcess(0)]),
        ])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(dir: &Path) -> MachineSpec {
        MachineSpec {
            name: "inst-x".into(),
            run_dir: dir.join("run"),
            console_log: "/c".into(),
            kernel: dir.join("kernel"),
            initramfs: dir.join("initramfs"),
            root_disk: vec![dir.join("root")],
            modules: None,
            data_disk: dir.join("data"),
            memory_mib: 64,
            vcpus: 1,
            files: true,
            card: None,
        }
    }

    #[test]
    fn it_writes_its_own_disk_and_makes_no_call_that_leads_out() {
        let dir = tempfile::tempdir().unwrap();
        let spec = spec(dir.path());
        let profile = profile(Path::new("/usr/bin/qemu"), &spec, Accelerator::Tcg);
        let written: Vec<_> = profile
            .files
            .iter()
            .filter(|rule| !matches!(rule.access, Access::Read | Access::Execute))
            .map(|rule| rule.path.clone())
            .collect();
        assert_eq!(written, [spec.data_disk.clone(), NULL.into()]);
        assert!(!profile.tcp && profile.capabilities == 0);
        for call in [
            libc::SYS_socket,
            libc::SYS_socketpair,
            libc::SYS_connect,
            libc::SYS_bind,
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
            libc::SYS_memfd_create,
            libc::SYS_unlinkat,
        ] {
            assert!(!profile.calls.iter().any(|allowed| allowed.number() == call), "system call {call}");
        }
    }

    #[test]
    fn its_bounds_grow_with_the_machine() {
        let dir = tempfile::tempdir().unwrap();
        let small = spec(dir.path());
        std::fs::File::create(&small.data_disk).unwrap().set_len(1 << 30).unwrap();
        let large = MachineSpec { memory_mib: 4096, ..small.clone() };
        let limits = |spec: &MachineSpec| profile(Path::new("/q"), spec, Accelerator::Tcg).limits;
        assert_eq!(limits(&small).file_size, Some(1 << 30));
        assert_eq!(limits(&large).file_size, Some(4 << 30));
        assert!(limits(&large).data > limits(&small).data);
        assert!(limits(&large).addresses > limits(&large).data);
    }
}
