//! Confines a process that handles hostile input: what it may open, call, take and own.
//!
//! A [`Profile`] describes a confinement; it is plain data, and each program that is confined keeps its own profile
//! beside its code. A [`Jail`] is a profile made ready for the kernel, and is applied in one of two ways:
//!
//! ```text
//!   Jail::attach(command)   between fork and exec: a program of others (QEMU) never runs one instruction outside
//!   Jail::enter()           to this process: our own helpers, as the first thing that they do
//! ```
//!
//! What its processes take together is bounded by a control group, where one is delegated ([`claim`]).
//!
//! What the kernel of this host can enforce is found by trying ([`Support::of_host`]) and reported, never assumed: see
//! `landlock(7)`, `seccomp(2)`, `capabilities(7)` and `getrlimit(2)`.

mod cgroup;
mod files;
mod jail;
mod privilege;
mod probe_program;
mod profile;
mod root;
mod seccomp;
mod support;

pub use aegis_sys::namespace::ProgramPid;
pub use cgroup::{Controllers, GroupBounds, claim, controllers, remove_empty_groups, remove_group};
pub use jail::{Isolated, Jail, JailError, isolate};
pub use profile::{
    Access, CAP_DAC_OVERRIDE, CAP_FOWNER, FileRule, Group, Isolation, Limits, Profile, Served, instance_user,
    program,
};
pub use seccomp::{Argument, Call, THREADS_ONLY};
pub use support::{Layer, Support};
