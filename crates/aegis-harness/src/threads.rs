//! Threads beside the one that serves the host.

use std::io;

/// A thread here has next to nothing on its stack, and all of it is locked in memory.
const STACK: usize = 64 << 10;

/// A thread of its own, whose end is told on the console.
pub(crate) fn spawn(
    name: &'static str,
    work: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> io::Result<()> {
    let thread = std::thread::Builder::new().name(name.to_owned()).stack_size(STACK);
    let run = move || {
        if let Err(error) = work() {
            crate::console_log::print(&format!("aegis-harness: {name}: {error}"));
        }
    };
    // It ends with what it serves, or with the machine.
    thread.spawn(run).map(drop)
}
