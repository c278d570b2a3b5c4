//! An instance's network: the other end of its card, answered in user space.
//!
//! One process for each machine. It reads the guest's frames from QEMU's stream, ends every flow in a stack of its own,
//! and opens an ordinary socket of the host for each that the policy allows: no root, no device, no route and no
//! firewall rule of the host is touched. What comes from the guest is hostile, so the process sees no file, gains no
//! privilege and makes no system call that it does not need. The daemon may come and go meanwhile.

pub mod addressing;
mod bounds;
mod confine;
pub mod control;
pub mod descriptors;
mod flow;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod gateway;
mod groups;
mod host;
mod inspect;
mod journal;
mod judge;
mod names;
mod packet;
mod proxy;
mod server;
mod settings;
mod shape;
mod wire;

pub use bounds::Bound;
pub use flow::member::Verdict;
pub use gateway::Counters;
pub use groups::Group;
pub use journal::{Entry, What};
pub use proxy::Proxy;
pub use server::{GatewayError, serve};
pub use settings::Settings;

use std::net::SocketAddr;
use std::time::Instant;

use aegis_policy::{Name, Protocol, Ruling};

/// What a gateway with these settings would decide about a flow of its guest, on this host at this moment; with a name,
/// as if the guest had asked for that before.
#[must_use]
pub fn check(settings: &Settings, protocol: Protocol, to: SocketAddr, name: Option<Name>) -> Ruling {
    let mut judge = judge::Judge::new();
    judge.set(settings.policy.clone(), settings.host_ports.clone(), groups::Groups::new(&settings.groups));
    let now = Instant::now();
    if let Some(name) = &name {
        judge.pins.add(to.ip(), name, std::time::Duration::ZERO, now);
    }
    let mut case = judge.case(protocol, to.ip(), to.port(), now);
    if name.is_some() && case.ruling.allows() {
        judge.named(&mut case, name);
    }
    case.ruling
}
