//! Messages to the console, where they end up in front of the host's user if the boot fails.

use std::fs::File;
use std::io::Write;

/// Prints to the console, where it ends up in front of the host's user if the boot fails.
pub(crate) fn print(text: &str) {
    let console = File::options().write(true).open("/dev/console");
    let _mute = console.and_then(|mut console| writeln!(console, "{text}"));
}
