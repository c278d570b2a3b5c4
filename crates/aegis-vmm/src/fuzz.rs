//! What the fuzzer drives; see `fuzz/`.

use aegis_fuzz::{Bytes, Target};

use crate::console;
use crate::qemu::qmp;

/// Lines of the monitor's, which a guest may have taken over.
///
/// # Panics
/// If more than a few words of an error are told.
pub fn monitor(bytes: &[u8]) {
    qmp::fuzz(bytes);
}

/// What a guest prints on its console, in pieces.
///
/// # Panics
/// If more of it is kept than may be, or a panic is told with what a terminal would take as a command.
pub fn console(bytes: &[u8]) {
    console::fuzz(Bytes(bytes).pieces());
}

/// All of them by name; the seeds of each are in `fuzz/seeds/NAME`.
pub const TARGETS: [(&str, Target); 2] = [("vmm-monitor", monitor), ("vmm-console", console)];

#[cfg(test)]
mod tests {
    #[test]
    fn seeds() {
        aegis_fuzz::replay(&super::TARGETS);
    }
}
