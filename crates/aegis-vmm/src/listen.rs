//! Listening sockets in a machine's run-time directory.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;

/// A listening socket at this path, whatever was there before.
///
/// # Errors
/// The system's.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(path)
}
