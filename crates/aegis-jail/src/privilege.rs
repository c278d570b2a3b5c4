//! Privileges of this process.

use rustix::thread::CapabilitySet;

/// Whether this process may make namespaces without one of users, and become another user.
pub(crate) fn may_make_namespaces() -> bool {
    let needed =
        CapabilitySet::SYS_ADMIN | CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::CHOWN;
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(needed))
}
