//! One daemon per home: an exclusive lock on a file, held for the life of the process.
//!
//! The kernel drops the lock with the process, however it ends, so a stale lock cannot exist and nobody has to
//! guess from a process id, which may long belong to somebody else.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::Home;

/// How often a held lock is tried again: a passing [`daemon_alive`] holds it shared for some microseconds.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(20);

/// Why a home could not be claimed, or its owner not be determined.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another daemon owns this home.
    #[error("another aegisd{} already owns this home ({} is locked)", in_words(*pid), path.display())]
    Held {
        /// The owner's process id, as its pid file says; `None` while that file is not written yet.
        pid: Option<u32>,
        /// The lock file.
        path: PathBuf,
    },
    /// The lock file could not be opened or locked.
    #[error("cannot lock {}", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn in_words(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

/// Ownership of a home. Dropping it removes the pid file, then gives the home up.
#[derive(Debug)]
pub struct DaemonLock {
    pid_file: PathBuf,
    // Closed after `drop` has removed the pid file; the lock goes with it.
    _file: File,
}

impl DaemonLock {
    /// Claims `home` for this process and writes its pid file, which is a hint: a home without room for one is claimed
    /// all the same. The home must exist ([`Home::create`]).
    ///
    /// Blocks for at most 0.1 s, when the home is owned by somebody else.
    ///
    /// # Errors
    /// [`LockError::Held`] if another daemon runs, [`LockError::Lock`].
    pub fn acquire(home: &Home) -> Result<Self, LockError> {
        let path = home.lock_file();
        let lock = |source| LockError::Lock { path: path.clone(), source };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(lock)?;
        if !try_exclusive(&file).map_err(lock)? {
            return Err(LockError::Held { pid: read_pid(&home.pid_file()), path });
        }
        let lock = Self { pid_file: home.pid_file(), _file: file };
        lock.tell_pid();
        Ok(lock)
    }

    /// Writes the pid file again. To be called where there may be room now that there was not before.
    pub fn tell_pid(&self) {
        if let Err(error) = write_pid(&self.pid_file) {
            tracing::warn!(path = %self.pid_file.display(), %error, "cannot write the pid file");
        }
    }
}

impl Drop for DaemonLock {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.pid_file)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.pid_file.display(), %error, "cannot remove the pid file");
        }
    }
}

/// Whether a daemon owns a home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DaemonLiveness {
    /// Nobody owns it.
    NotRunning,
    /// A daemon owns it.
    Running {
        /// Its process id, as its pid file says; `None` while that file is not written yet.
        pid: Option<u32>,
    },
}

/// Whether a daemon owns `home` right now, by trying its lock, never by a process id alone. Changes nothing:
/// a home that does not exist has no daemon and still does not exist afterwards.
///
/// # Errors
/// [`LockError::Lock`] if the lock file exists and cannot be tried.
pub fn daemon_alive(home: &Home) -> Result<DaemonLiveness, LockError> {
    let path = home.lock_file();
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(DaemonLiveness::NotRunning),
        Err(source) => return Err(LockError::Lock { path, source }),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(DaemonLiveness::NotRunning),
        Err(TryLockError::WouldBlock) => Ok(DaemonLiveness::Running { pid: read_pid(&home.pid_file()) }),
        Err(TryLockError::Error(source)) => Err(LockError::Lock { path, source }),
    }
}

fn try_exclusive(file: &File) -> io::Result<bool> {
    for attempt in 0..ATTEMPTS {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if attempt + 1 < ATTEMPTS => thread::sleep(PAUSE),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(false)
}

fn read_pid(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn write_pid(path: &Path) -> io::Result<()> {
    let temporary = path.with_extension("pid.partial");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    let written = writeln!(file, "{}", std::process::id()).and_then(|()| fs::rename(&temporary, path));
    written.inspect_err(|_| {
        // Without a number in it, it would be of no use to anybody. A stale one would be worse.
        let _absent = (fs::remove_file(&temporary), fs::remove_file(path));
    })
}
