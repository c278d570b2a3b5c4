//! What the fuzzer drives; see `fuzz/`.

use aegis_policy::{Policy, Preset};
use mio::Poll;

use crate::gateway::Gateway;
use crate::settings::Settings;

/// Feeds a stream of QEMU's to a gateway that lets nothing pass: no socket is opened, whatever the bytes.
///
/// # Panics
/// If a flow is open afterwards, or more waits for the guest than may.
pub fn frames(bytes: &[u8]) {
    let Ok(poll) = Poll::new() else { return };
    let Ok(registry) = poll.registry().try_clone() else { return };
    let mut gateway = Gateway::new(registry);
    let rules = "deny bad.example".parse().into_iter().collect();
    gateway.set(Settings { policy: Policy { default: Preset::None, rules }, ..Settings::default() });
    let mut stream = bytes;
    let _machine = gateway.read(&mut stream);
    gateway.work();
    let mut sent = Vec::new();
    let _sent = gateway.send(&mut sent);
    assert_eq!(gateway.counters().flows, 0);
    assert!(sent.len() <= bytes.len() * 64 + 4096);
}
