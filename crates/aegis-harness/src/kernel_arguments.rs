//! The kernel's command line.

use std::sync::OnceLock;

use aegis_harness::machine_parts::MachineParts;

/// What it says of the machine; read once, when `/proc` is there.
pub(crate) fn machine_parts() -> &'static MachineParts {
    static PARTS: OnceLock<MachineParts> = OnceLock::new();
    PARTS.get_or_init(|| MachineParts::parse(&std::fs::read_to_string("/proc/cmdline").unwrap_or_default()))
}
