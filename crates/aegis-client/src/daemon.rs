//! Whether a daemon lives: told by its lock, never by its process id alone.

use std::fs::{File, TryLockError};
use std::path::Path;

/// Whether a daemon has this home, and its process id if it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// None.
    Dead,
    /// One.
    Alive(Option<u32>),
}

/// Looks at the lock of `home`.
///
/// # Errors
/// If the lock exists and cannot be looked at.
pub fn liveness(home: &Path) -> std::io::Result<Liveness> {
    let lock = match File::open(home.join("data/aegisd.lock")) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Liveness::Dead),
        opened => opened?,
    };
    match lock.try_lock_shared() {
        Ok(()) => Ok(Liveness::Dead),
        Err(TryLockError::WouldBlock) => {
            let pid = std::fs::read_to_string(home.join("data/aegisd.pid")).ok();
            Ok(Liveness::Alive(pid.and_then(|text| text.trim().parse().ok())))
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_decides_and_a_stale_pid_file_does_not() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(liveness(home.path()).unwrap(), Liveness::Dead);
        std::fs::create_dir(home.path().join("data")).unwrap();
        std::fs::write(home.path().join("data/aegisd.pid"), "1\n").unwrap();
        let lock = File::create(home.path().join("data/aegisd.lock")).unwrap();
        assert_eq!(liveness(home.path()).unwrap(), Liveness::Dead);
        lock.lock().unwrap();
        assert_eq!(liveness(home.path()).unwrap(), Liveness::Alive(Some(1)));
    }
}
