//! What a worker of libkrun's is confined to.

use std::path::Path;

use aegis_jail::{Call, Jail, JailError};

use crate::MachineSpec;
use crate::vsock::jail_profile;

/// The jail of a machine whose sockets are made in this directory.
pub(super) fn of(program: &Path, spec: &MachineSpec, sockets: &Path) -> Result<Jail, JailError> {
    Jail::new(jail_profile::profile(program, spec, sockets, calls()))
}

/// Calls of its own, as `strace` has seen them of libkrun 1.19.
const CALLS: &[i64] = &[libc::SYS_accept, libc::SYS_fstatfs];

/// Older calls, which the architectures that came later do not have.
#[cfg(target_arch = "x86_64")]
const OLDER_CALLS: &[i64] = &[libc::SYS_access];
#[cfg(not(target_arch = "x86_64"))]
const OLDER_CALLS: &[i64] = &[];

/// What may be said with `prctl(2)`: names of threads and regions (`PR_SET_VMA`).
const PROCESS_OPTIONS: [i32; 2] = [libc::PR_SET_NAME, 0x5356_4d41];

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
