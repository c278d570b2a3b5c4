//! What Firecracker is confined to, beside the filters that it has itself.

use std::path::Path;

use aegis_jail::{Call, Jail, JailError};

use crate::MachineSpec;
use crate::vsock::jail_profile;

/// The jail of a machine whose sockets are made in this directory.
pub(super) fn of(program: &Path, spec: &MachineSpec, sockets: &Path) -> Result<Jail, JailError> {
    Jail::new(jail_profile::profile(program, spec, sockets, calls()))
}

/// Calls of its own, as `strace` has seen them of version 1.12. Two are wider than QEMU's: files without names (`memfd_create`),
/// which only a control group counts, and `tkill`, which reaches other processes where neither a namespace of processes nor
/// Landlock 6 is to be had.
const CALLS: &[i64] =
    &[libc::SYS_getcwd, libc::SYS_memfd_create, libc::SYS_msync, libc::SYS_seccomp, libc::SYS_tkill];

/// Older calls, which the architectures that came later do not have.
#[cfg(target_arch = "x86_64")]
const OLDER_CALLS: &[i64] = &[libc::SYS_dup2, libc::SYS_epoll_create, libc::SYS_pipe, libc::SYS_unlink];
#[cfg(not(target_arch = "x86_64"))]
const OLDER_CALLS: &[i64] = &[];

/// What may be said with `prctl(2)`: names of threads and regions, and what its own filters are made with.
const PROCESS_OPTIONS: [i32; 5] = [
    libc::PR_SET_NAME,
    libc::PR_SET_NO_NEW_PRIVS,
    libc::PR_SET_SECCOMP,
    libc::PR_CAPBSET_READ,
    // Names of anonymous memory (`PR_SET_VMA`).
    0x5356_4d41,
];

fn calls() -> Vec<Call> {
    jail_profile::calls(&[CALLS, OLDER_CALLS].concat(), &PROCESS_OPTIONS)
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_writes_its_own_disk_and_makes_no_call_that_leads_out() {
        crate::vsock::jail_profile::testing::assert_nothing_leads_out(super::calls());
    }
}
