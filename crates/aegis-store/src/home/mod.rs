//! The layout of the home directory, and the lock that makes one daemon its owner.
//!
//! ```text
//! <root>/                    mode 0700, AEGIS_HOME or ~/.aegis
//!   aegisd.sock              the daemon's API
//!   data/aegis.db            the registry
//!   data/aegisd.{pid,lock,log}
//!   data/logs/<id>/          log segments and the console of one instance
//!   data/disks/<id>.ext4     its writable disk
//!   data/workspaces/         workspaces the daemon made itself
//!   run/<id>/                sockets of its VM (or a short directory below /tmp, see `run_dir`)
//!   cache/ images/ templates/
//!   kernel/ base-rootfs/     boot assets; a second home may share those of the default one
//!   <architecture>/          the same for guests of a foreign architecture
//! ```

mod assets;
mod lock;

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

pub use lock::{DaemonLiveness, DaemonLock, LockError, daemon_alive};

/// Sub-directories that [`Home::create`] makes.
const DIRECTORIES: [&str; 8] =
    ["data", "data/logs", "data/workspaces", "data/disks", "run", "cache", "images", "templates"];

/// The longest socket path used below the home. The kernel's limit is 107 bytes; the rest is margin.
const SOCKET_PATH_LIMIT: usize = 100;

/// Bytes kept free behind `control.sock`, for longer socket names beside it.
const SOCKET_NAME_SLACK: usize = 16;

/// The longest accepted instance id, in bytes.
const MAX_ID_BYTES: usize = 64;

/// What can go wrong with the home directory itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HomeError {
    /// A directory could not be made.
    #[error("cannot create the directory {}", path.display())]
    Create {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The mode of a directory could not be tightened to 0700.
    #[error("cannot make {} private (mode 0700)", path.display())]
    Permissions {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The home belongs to somebody else, who could replace all that is in it.
    #[error("{} belongs to another user (uid {uid}); set AEGIS_HOME to a directory of your own", path.display())]
    Foreign {
        /// The home.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
    },
    /// A part of what is trusted belongs to somebody else.
    #[error("{} belongs to another user (uid {uid}), who could change it; give it to yourself or to root", path.display())]
    ForeignPart {
        /// The file, directory or link.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
    },
    /// A directory could not be removed.
    #[error("cannot remove the directory {}", path.display())]
    Remove {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something else sits where the short run-time directory belongs, perhaps put there by another user.
    #[error("{} cannot hold sockets: {reason}", path.display())]
    UnsafeRunDir {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A boot asset is in none of the places it may be in.
    #[error("{what} is missing; looked for {}", list(looked))]
    AssetMissing {
        /// What was looked for, in words.
        what: &'static str,
        /// Every path that was tried, in order.
        looked: Vec<PathBuf>,
    },
    /// A name that must be one path component is not.
    #[error("{name:?} is not a valid {what}")]
    InvalidName {
        /// What the name stands for.
        what: &'static str,
        /// The name.
        name: String,
    },
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Whether `id` has the shape of an instance id: `inst-`, then digits and lower-case ASCII letters, at most
/// 64 bytes in all. Such an id is safe as a file name.
#[must_use]
pub fn is_instance_id(id: &str) -> bool {
    id.len() <= MAX_ID_BYTES
        && id.strip_prefix("inst-").is_some_and(|rest| {
            !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase())
        })
}

/// The layout of one home directory. Only names paths, except where a method says otherwise.
///
/// Methods that take an instance id expect one that [`is_instance_id`] accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// The home directory, absolute.
    pub root: PathBuf,
    /// The directories in which boot assets are looked for, first match wins.
    pub assets: Vec<PathBuf>,
}

impl Home {
    /// The home at `root`, with boot assets from there or else from `default_root` (usually `~/.aegis`), so
    /// that a second home needs no second kernel. Relative paths are taken from the current directory, once.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>, default_root: impl Into<PathBuf>) -> Self {
        let root = absolute(root.into());
        let default_root = absolute(default_root.into());
        let mut assets = vec![root.clone()];
        if default_root != root {
            assets.push(default_root);
        }
        Self { root, assets }
    }

    /// The same with boot assets from the sub-directory `name` of each place, so that what a foreign guest boots from
    /// never mixes with what the host's own guests do.
    #[must_use]
    pub fn with_assets_below(mut self, name: &str) -> Self {
        self.assets.iter_mut().for_each(|directory| directory.push(name));
        self
    }

    /// Makes the home and its sub-directories, and makes the root private (mode 0700) if it is not.
    ///
    /// # Errors
    /// [`HomeError::Create`] and [`HomeError::Permissions`], each with the path.
    pub fn create(&self) -> Result<(), HomeError> {
        check_way(&self.root)?;
        make_dir(&self.root)?;
        check_owner(&self.root)?;
        make_private_dir(&self.root)?;
        DIRECTORIES.iter().try_for_each(|directory| {
            let path = self.root.join(directory);
            check_way(&path)?;
            make_dir(&path)?;
            // One that leads elsewhere is somebody's, too.
            check_owner(&path)?;
            make_private_dir(&path)
        })
    }

    /// The socket of the daemon's API.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.root.join("aegisd.sock")
    }

    /// The file with the daemon's process id; a hint for people, never proof of life (see [`daemon_alive`]).
    #[must_use]
    pub fn pid_file(&self) -> PathBuf {
        self.root.join("data/aegisd.pid")
    }

    /// The file whose lock makes a daemon the owner of this home.
    #[must_use]
    pub fn lock_file(&self) -> PathBuf {
        self.root.join("data/aegisd.lock")
    }

    /// The directory of everything durable but images.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    /// What users configure.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// The registry's database.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.root.join("data/aegis.db")
    }

    /// The parent of every instance's log directory.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.root.join("data/logs")
    }

    /// The directory with the log segments and the console of one instance.
    #[must_use]
    pub fn log_dir(&self, id: &str) -> PathBuf {
        self.logs().join(id)
    }

    /// The file that takes the serial console of one instance.
    #[must_use]
    pub fn console(&self, id: &str) -> PathBuf {
        self.log_dir(id).join("console.log")
    }

    /// The parent of every instance's disk.
    #[must_use]
    pub fn disks(&self) -> PathBuf {
        self.root.join("data/disks")
    }

    /// The writable disk of one instance.
    #[must_use]
    pub fn disk(&self, id: &str) -> PathBuf {
        self.disks().join(format!("{id}.ext4"))
    }

    /// The directory of workspaces that the daemon made itself.
    #[must_use]
    pub fn workspaces(&self) -> PathBuf {
        self.root.join("data/workspaces")
    }

    /// The directory of things that can be made again.
    #[must_use]
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// The directory of bootable images.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// The directory of templates.
    #[must_use]
    pub fn templates(&self) -> PathBuf {
        self.root.join("templates")
    }

    /// The directory of snapshots, and of what forks are made from.
    #[must_use]
    pub fn snapshots(&self) -> PathBuf {
        self.root.join("data/snapshots")
    }

    /// The parent of the run-time directories below the home.
    #[must_use]
    pub fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    /// The parent of the run-time directories when the home's own path is too long for sockets:
    /// `/tmp/aegis-<uid>-<8 hex digits of the home's SHA-256>`.
    #[must_use]
    pub fn short_run(&self) -> PathBuf {
        // Resolved, so that a home reached through a symbolic link finds the same sockets again.
        let root = fs::canonicalize(&self.root).unwrap_or_else(|_| self.root.clone());
        let digest = Sha256::digest(root.as_os_str().as_bytes());
        let hash: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        PathBuf::from(format!("/tmp/aegis-{}-{hash}", rustix::process::getuid().as_raw()))
    }

    /// Where [`Home::run_dir`] puts the sockets of one VM, without making it.
    #[must_use]
    pub fn run_dir_path(&self, id: &str) -> PathBuf {
        let directory = self.run().join(id);
        let socket = directory.join("control.sock");
        if socket.as_os_str().len() + SOCKET_NAME_SLACK < SOCKET_PATH_LIMIT {
            directory
        } else {
            self.short_run().join(id)
        }
    }

    /// The directory for the sockets of one VM, made if needed, mode 0700. Below the home where socket names
    /// of up to 28 bytes stay well below the kernel's limit, below [`Home::short_run`] otherwise.
    ///
    /// # Errors
    /// [`HomeError::InvalidName`] for a malformed id, [`HomeError::UnsafeRunDir`] if the short directory is not
    /// a real directory of this user, [`HomeError::Create`] and [`HomeError::Permissions`].
    pub fn run_dir(&self, id: &str) -> Result<PathBuf, HomeError> {
        if !is_instance_id(id) {
            return Err(HomeError::InvalidName { what: "instance id", name: id.to_owned() });
        }
        let directory = self.run_dir_path(id);
        let base = self.short_run();
        if directory.starts_with(&base) {
            ensure_own_dir(&base)?;
        } else {
            make_dir(&self.run())?;
        }
        make_private_dir(&directory)?;
        Ok(directory)
    }

    /// Removes the run-time directory of one VM with everything in it, and the short directory with the last one.
    /// Nothing there is no error.
    ///
    /// # Errors
    /// [`HomeError::InvalidName`] for a malformed id, [`HomeError::Remove`].
    pub fn remove_run_dir(&self, id: &str) -> Result<(), HomeError> {
        if !is_instance_id(id) {
            return Err(HomeError::InvalidName { what: "instance id", name: id.to_owned() });
        }
        let path = self.run_dir_path(id);
        match fs::remove_dir_all(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(HomeError::Remove { path, source });
            }
            _ => {}
        }
        self.remove_empty_short_run();
        Ok(())
    }

    /// Removes the short directory if nothing is in it; otherwise that fails, and is meant to.
    pub(crate) fn remove_empty_short_run(&self) {
        drop(fs::remove_dir(self.short_run()));
    }
}

fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

fn make_dir(path: &Path) -> Result<(), HomeError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| HomeError::Create { path: path.to_owned(), source })
}

fn make_private_dir(path: &Path) -> Result<(), HomeError> {
    make_dir(path)?;
    let tighten = || -> io::Result<()> {
        if fs::metadata(path)?.mode() & 0o7777 != 0o700 {
            fs::set_permissions(path, Permissions::from_mode(0o700))?;
        }
        Ok(())
    };
    tighten().map_err(|source| HomeError::Permissions { path: path.to_owned(), source })
}

/// Refuses a way that leads over links of others.
fn check_way(path: &Path) -> Result<(), HomeError> {
    refuse(path, aegis_paths::foreign_link(path))
}

fn refuse(path: &Path, foreign: io::Result<Option<(PathBuf, u32)>>) -> Result<(), HomeError> {
    match foreign.map_err(|source| HomeError::Create { path: path.to_owned(), source })? {
        Some((path, uid)) => Err(HomeError::ForeignPart { path, uid }),
        None => Ok(()),
    }
}

/// Refuses a file that is there, and belongs to somebody who is neither this user nor root.
///
/// # Errors
/// [`HomeError::ForeignPart`].
pub fn check_trusted(path: &Path) -> Result<(), HomeError> {
    refuse(path, aegis_paths::foreign_part(path))
}

/// Refuses a directory that belongs to another user.
fn check_owner(path: &Path) -> Result<(), HomeError> {
    let meta = fs::metadata(path).map_err(|source| HomeError::Create { path: path.to_owned(), source })?;
    let own = rustix::process::geteuid().as_raw();
    if meta.uid() == own {
        Ok(())
    } else {
        Err(HomeError::Foreign { path: path.to_owned(), uid: meta.uid() })
    }
}

/// Whether `path` is a real directory (no symbolic link) of this user.
///
/// # Errors
/// What is wrong with it, or the error of looking.
pub(crate) fn check_own_dir(path: &Path) -> io::Result<Result<(), &'static str>> {
    let meta = fs::symlink_metadata(path)?;
    Ok(if !meta.is_dir() {
        Err("it is not a directory")
    } else if meta.uid() != rustix::process::getuid().as_raw() {
        Err("it belongs to another user")
    } else {
        Ok(())
    })
}

/// Makes a directory in a place where other users can write too, and refuses anything they may have put there.
fn ensure_own_dir(path: &Path) -> Result<(), HomeError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            return Err(HomeError::Create { path: path.to_owned(), source });
        }
        _ => {}
    }
    match check_own_dir(path) {
        Ok(Ok(())) => make_private_dir(path),
        Ok(Err(reason)) => Err(HomeError::UnsafeRunDir { path: path.to_owned(), reason }),
        Err(source) => Err(HomeError::Create { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests;
