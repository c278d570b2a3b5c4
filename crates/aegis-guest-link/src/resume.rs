//! Where a session goes on after an earlier one.

#[cfg(doc)]
use aegis_guest_protocol::messages::Hello;

/// How far an earlier session got. All zero for a guest that has just booted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resume {
    /// Whether there was an earlier session with this guest.
    pub returning: bool,
    /// The last event dealt with.
    pub events_seen: u64,
    /// Bytes of the workload's standard output held.
    pub stdout_held: u64,
    /// Bytes of the workload's standard error held.
    pub stderr_held: u64,
    /// Whether the guest is to become another instance than it was, see [`Hello::another`].
    pub another: bool,
}
