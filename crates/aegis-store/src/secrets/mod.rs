//! Secrets, sealed on disk; values leave only for the environment of processes in guests.
//!
//! `data/secrets.json` has the sealed values and the identity of the key that sealed them, `data/master.key` the key, mode
//! 0600, itself sealed with a key in the system's keyring where there is one ([`Keyring`]). Both are replaced whole, by renaming. A change of the key writes the new key beside the old one, then the values,
//! then puts the key in its place; whoever opens the store takes the key that the values name, so that a crash between
//! two steps leaves either all old or all new.

mod keyring;
pub mod names;
mod seal;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use keyring::Keyring;
use keyring::Unusable;
use seal::{Key, Sealed};
pub(crate) use seal::{hex, unhex};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

/// Most secrets.
const MOST_SECRETS: usize = 1000;
/// Longest file, bytes.
const MOST_FILE: u64 = 256 << 20;

/// Why secrets cannot be stored or read.
#[derive(Debug, Error)]
pub enum SecretError {
    /// The name or value is not possible.
    #[error("{0}")]
    Invalid(String),
    /// There is none of this name.
    #[error("there is no secret {0}")]
    NotFound(String),
    /// There are too many.
    #[error("there are {MOST_SECRETS} secrets already")]
    TooMany,
    /// The key is lost, is another, or the file was changed.
    #[error("{}: {why}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The system's keyring does not give what opens the key.
    #[error("{}: {why}", path.display())]
    Locked {
        /// The key's file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The system has no random numbers.
    #[error("the system has no random numbers")]
    NoRandom,
}

/// The name under which other things are sealed; no secret can have it.
const OTHER: &str = "";

/// What is in the file.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct Stored {
    key: String,
    secrets: BTreeMap<String, Sealed>,
}

#[derive(Debug)]
struct State {
    /// Made when the first secret is; missing as long as the keyring does not give what it takes.
    key: Option<Key>,
    stored: Stored,
}

/// The secrets of a home. All of it blocks, for as long as a small file takes.
#[derive(Debug)]
pub struct Secrets {
    dir: PathBuf,
    keyring: Option<Arc<dyn Keyring>>,
    state: Mutex<State>,
}

impl Secrets {
    /// Opens those in a directory, which exists. A keyring that is locked may be unlocked later.
    ///
    /// # Errors
    /// If the files are damaged, or the key is lost.
    pub fn open(dir: &Path, keyring: Option<Arc<dyn Keyring>>) -> Result<Secrets, SecretError> {
        let path = dir.join("secrets.json");
        let unreadable = |why: String| SecretError::Unreadable { path: path.clone(), why };
        let stored = match read(&path)? {
            None => Stored::default(),
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|error| unreadable(error.to_string()))?,
        };
        let state = Mutex::new(State { key: None, stored });
        let secrets = Secrets { dir: dir.to_owned(), keyring, state };
        match secrets.unlocked(&mut secrets.lock()) {
            Ok(()) => {}
            Err(SecretError::Locked { path, why }) => {
                tracing::warn!(path = %path.display(), why, "secrets are locked");
            }
            Err(error) => return Err(error),
        }
        Ok(secrets)
    }

    /// Sees to it that the key is there, if there is one.
    fn unlocked(&self, state: &mut State) -> Result<(), SecretError> {
        if state.key.is_none() {
            state.key = self.find_key(&state.stored)?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key_file(&self) -> PathBuf {
        self.dir.join("master.key")
    }

    fn next_key_file(&self) -> PathBuf {
        self.dir.join("master.key.next")
    }

    /// The key that the values are sealed with. Completes a change of the key that was cut short.
    fn find_key(&self, stored: &Stored) -> Result<Option<Key>, SecretError> {
        let (own, next) = (self.key_file(), self.next_key_file());
        let load = |path: &Path| -> Result<Option<Key>, SecretError> {
            let Some(bytes) = read(path)?.map(Zeroizing::new) else { return Ok(None) };
            let path = path.to_owned();
            keyring::unwrap(&bytes, self.keyring.as_deref()).map(Some).map_err(|unusable| match unusable {
                Unusable::Damaged(why) => SecretError::Unreadable { path, why },
                Unusable::Locked(why) => SecretError::Locked { path, why },
            })
        };
        if let Some(key) = load(&own)?
            && (stored.secrets.is_empty() || key.identity() == stored.key)
        {
            remove(&next)?;
            return Ok(Some(key));
        }
        if stored.secrets.is_empty() {
            return Ok(None);
        }
        if let Some(key) = load(&next)?
            && key.identity() == stored.key
        {
            fs::rename(&next, &own).map_err(failed(&own))?;
            return Ok(Some(key));
        }
        let why = "it is not the key that the secrets are sealed with; put that back, or delete secrets.json"
            .to_owned();
        Err(SecretError::Unreadable { path: own, why })
    }

    /// Names of all secrets.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.lock().stored.secrets.keys().cloned().collect()
    }

    /// Sets a secret, in place of one of the same name.
    ///
    /// # Errors
    /// If name or value are not possible, or it cannot be stored: then nothing has changed.
    pub fn set(&self, name: &str, value: &str) -> Result<(), SecretError> {
        if let Some(refusal) = names::refusal(name).or_else(|| names::value_refusal(value)) {
            return Err(SecretError::Invalid(refusal));
        }
        let mut state = self.lock();
        self.unlocked(&mut state)?;
        if state.stored.secrets.len() >= MOST_SECRETS && !state.stored.secrets.contains_key(name) {
            return Err(SecretError::TooMany);
        }
        let key = match state.key.take() {
            Some(key) => key,
            None => self.new_key()?,
        };
        let sealed = key.seal(name, value);
        let mut stored = state.stored.clone();
        stored.key = key.identity();
        state.key = Some(key);
        stored.secrets.insert(name.to_owned(), sealed.ok_or(SecretError::NoRandom)?);
        self.store(&stored)?;
        state.stored = stored;
        Ok(())
    }

    /// Deletes a secret.
    ///
    /// # Errors
    /// If there is none of this name, or that cannot be stored.
    pub fn delete(&self, name: &str) -> Result<(), SecretError> {
        let mut state = self.lock();
        let mut stored = state.stored.clone();
        stored.secrets.remove(name).ok_or_else(|| SecretError::NotFound(name.to_owned()))?;
        self.store(&stored)?;
        state.stored = stored;
        Ok(())
    }

    /// The value of a secret.
    ///
    /// # Errors
    /// If there is none of this name, or it was not sealed by this key under this name.
    pub fn value(&self, name: &str) -> Result<Zeroizing<String>, SecretError> {
        let mut state = self.lock();
        if !state.stored.secrets.contains_key(name) {
            return Err(SecretError::NotFound(name.to_owned()));
        }
        self.unlocked(&mut state)?;
        let sealed = state.stored.secrets.get(name).ok_or_else(|| SecretError::NotFound(name.to_owned()))?;
        let opened = state.key.as_ref().and_then(|key| key.open(name, sealed));
        opened.ok_or_else(|| self.changed(name))
    }

    /// Seals something else than a secret for this home, as text; it can be opened until the key changes.
    ///
    /// # Errors
    /// If there is no key, because no secret was ever set, or it cannot be had.
    pub fn seal(&self, value: &str) -> Result<String, SecretError> {
        let mut state = self.lock();
        self.unlocked(&mut state)?;
        let sealed = state.key.as_ref().and_then(|key| key.seal(OTHER, value));
        let json = sealed.and_then(|sealed| serde_json::to_string(&sealed).ok());
        json.ok_or_else(|| SecretError::NotFound("*".to_owned()))
    }

    /// What was sealed by [`Secrets::seal`].
    ///
    /// # Errors
    /// If it was not, or with another key.
    pub fn unseal(&self, sealed: &str) -> Result<Zeroizing<String>, SecretError> {
        let mut state = self.lock();
        self.unlocked(&mut state)?;
        let parsed = serde_json::from_str::<Sealed>(sealed).ok();
        let opened = parsed.zip(state.key.as_ref()).and_then(|(sealed, key)| key.open(OTHER, &sealed));
        opened.ok_or_else(|| SecretError::Unreadable {
            path: self.key_file(),
            why: "it is not the key that this was sealed with".to_owned(),
        })
    }

    fn changed(&self, name: &str) -> SecretError {
        let why = format!("the value of {name} was changed by somebody else; set it again");
        SecretError::Unreadable { path: self.dir.join("secrets.json"), why }
    }

    /// Seals everything anew with a new key, and forgets the old one.
    ///
    /// # Errors
    /// If a secret cannot be read or the files not be written: then the old key counts.
    pub fn rekey(&self) -> Result<usize, SecretError> {
        let mut state = self.lock();
        self.unlocked(&mut state)?;
        let Some(old) = &state.key else { return Ok(0) };
        let new = Key::random().ok_or(SecretError::NoRandom)?;
        let mut stored = Stored { key: new.identity(), secrets: BTreeMap::new() };
        for (name, sealed) in &state.stored.secrets {
            let value = old.open(name, sealed).ok_or_else(|| self.changed(name))?;
            stored.secrets.insert(name.clone(), new.seal(name, &value).ok_or(SecretError::NoRandom)?);
        }
        let (own, next) = (self.key_file(), self.next_key_file());
        let former = read(&own)?.map(Zeroizing::new);
        remove(&next)?;
        let wrapped = Zeroizing::new(keyring::wrap(&new, self.keyring.as_deref()));
        write_private(&next, &wrapped).map_err(failed(&next))?;
        self.store(&stored)?;
        let count = stored.secrets.len();
        (state.stored, state.key) = (stored, Some(new));
        fs::rename(&next, &own).and_then(|()| File::open(&self.dir)?.sync_all()).map_err(failed(&own))?;
        if let Some(former) = former {
            keyring::forget(&former, self.keyring.as_deref());
        }
        Ok(count)
    }

    fn new_key(&self) -> Result<Key, SecretError> {
        let key = Key::random().ok_or(SecretError::NoRandom)?;
        let (own, next) = (self.key_file(), self.next_key_file());
        remove(&next)?;
        let wrapped = Zeroizing::new(keyring::wrap(&key, self.keyring.as_deref()));
        write_private(&next, &wrapped).map_err(failed(&next))?;
        fs::rename(&next, &own).map_err(failed(&own))?;
        Ok(key)
    }

    fn store(&self, stored: &Stored) -> Result<(), SecretError> {
        let (path, partial) = (self.dir.join("secrets.json"), self.dir.join("secrets.json.partial"));
        let write = || -> io::Result<()> {
            let bytes = serde_json::to_vec_pretty(stored)?;
            remove(&partial).map_err(|_| io::ErrorKind::PermissionDenied)?;
            write_private(&partial, &bytes)?;
            fs::rename(&partial, &path)?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(failed(&path))
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> SecretError {
    let path = path.to_owned();
    move |source| SecretError::Io { path, source }
}

/// A file that others cannot read; nothing if there is none.
fn read(path: &Path) -> Result<Option<Vec<u8>>, SecretError> {
    let found = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        found => found.map_err(failed(path))?,
    };
    if found.permissions().mode() & 0o077 != 0 {
        let why = "others may read it; take that away with: chmod 600".to_owned();
        return Err(SecretError::Unreadable { path: path.to_owned(), why });
    }
    if found.len() > MOST_FILE {
        return Err(SecretError::Unreadable { path: path.to_owned(), why: "it is too long".to_owned() });
    }
    fs::read(path).map(Some).map_err(failed(path))
}

/// Writes a file that is not there yet, for its owner alone, to the disk.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn remove(path: &Path) -> Result<(), SecretError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
