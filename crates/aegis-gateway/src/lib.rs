//! An instance's network: the other end of its network interface, answered in user space.
//!
//! One process for each machine. It reads the guest's frames from QEMU's stream, ends every flow in a stack of its own,
//! and opens an ordinary socket of the host for each that the policy allows: no root, no device, no route and no
//! firewall rule of the host is touched. What comes from the guest is hostile, so the process sees no file, gains no
//! privilege and makes no system call that it does not need. The daemon may come and go meanwhile.

pub mod addressing;
pub mod control;
mod decision_log;
mod event_loop;
pub mod fd_passing;
mod flow;
mod frame_stream;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod gateway;
mod groups;
mod host_addresses;
mod host_proxy;
mod inspect;
mod jail_profile;
mod limit_events;
mod packet;
mod policy_engine;
mod resolver;
mod settings;
mod tcp_checksum;
mod token_bucket;

pub use decision_log::{DecisionEntry, EntryKind};
pub use event_loop::{GatewayError, serve};
pub use flow::member_stream::ConnectOutcome;
pub use gateway::Counters;
pub use groups::Group;
pub use host_proxy::Proxy;
pub use limit_events::LimitKind;
pub use settings::Settings;

use std::net::SocketAddr;
use std::time::Instant;

use aegis_policy::{Name, Protocol, Verdict};

/// What a gateway with these settings would decide about a flow of its guest, on this host at this moment; with a name,
/// as if the guest had asked for that before.
#[must_use]
pub fn check(settings: &Settings, protocol: Protocol, to: SocketAddr, name: Option<Name>) -> Verdict {
    let mut engine = policy_engine::PolicyEngine::new();
    engine.set(settings.policy.clone(), settings.host_ports.clone(), groups::Groups::new(&settings.groups));
    let now = Instant::now();
    if let Some(name) = &name {
        engine.pins.add(to.ip(), name, std::time::Duration::ZERO, now);
    }
    let mut decision = engine.evaluate(protocol, to.ip(), to.port(), now);
    if name.is_some() && decision.verdict.allows() {
        engine.named(&mut decision, name);
    }
    decision.verdict
}
