//! Programs that lie beside this one.

use std::path::PathBuf;

/// The program that is the other end of guests' network interfaces.
pub(crate) const GATEWAY: &str = "aegis-gateway";
/// The program that is a machine of libkrun's.
pub(crate) const KRUN_WORKER: &str = "aegis-krun-worker";

/// Where a program of this name lies beside this one, if it does.
pub(crate) fn beside(name: &str) -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?.with_file_name(name);
    program.is_file().then_some(program)
}
