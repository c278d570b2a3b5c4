//! The master key's file: the key itself, or the key sealed with another one that the system's keyring keeps.

use std::fmt::Debug;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::seal::{Key, Sealed, hex};

/// What the key is sealed under with the keyring's.
const NAME: &str = "master key";

/// A keyring of the system, which keeps keys for a user who is logged in.
pub trait Keyring: Debug + Send + Sync {
    /// Keeps a key under a name.
    ///
    /// # Errors
    /// Why it cannot, as a sentence.
    fn store(&self, entry: &str, key: &[u8]) -> Result<(), String>;

    /// The key of a name; `None` if there is none.
    ///
    /// # Errors
    /// Why it cannot be told, as a sentence.
    fn load(&self, entry: &str) -> Result<Option<Zeroizing<Vec<u8>>>, String>;

    /// Keeps a key no longer.
    ///
    /// # Errors
    /// Why it cannot, as a sentence.
    fn forget(&self, entry: &str) -> Result<(), String>;
}

/// A key that is sealed with another one.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wrapped {
    /// The other one's name in the keyring.
    keyring_entry: String,
    key: Sealed,
}

/// Why a key's file gives no key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unusable {
    /// It is none.
    Damaged(String),
    /// The keyring does not give what it takes, at this moment.
    Locked(String),
}

/// What to write for a key: sealed, if there is a keyring that keeps what it is sealed with.
pub(super) fn wrap(key: &Key, keyring: Option<&dyn Keyring>) -> Vec<u8> {
    let wrapped = keyring.and_then(|keyring| {
        let (own, name) = (Key::random()?, Key::random()?);
        let entry = name.identity();
        let sealed = own.seal(NAME, &hex(key.bytes()))?;
        let kept = keyring.store(&entry, own.bytes());
        kept.inspect_err(|error| tracing::warn!(error, "the master key is not wrapped by the keyring"))
            .ok()?;
        serde_json::to_vec_pretty(&Wrapped { keyring_entry: entry, key: sealed }).ok()
    });
    wrapped.unwrap_or_else(|| key.bytes().to_vec())
}

/// The key of a file.
pub(super) fn unwrap(bytes: &[u8], keyring: Option<&dyn Keyring>) -> Result<Key, Unusable> {
    if let Some(key) = Key::new(bytes) {
        return Ok(key);
    }
    let damaged = |why: &str| Unusable::Damaged(why.to_owned());
    let wrapped: Wrapped = serde_json::from_slice(bytes).map_err(|_| damaged("it is no key"))?;
    let locked = |why: &str| Unusable::Locked(format!("the system's keyring has the key to it: {why}"));
    let keyring =
        keyring.ok_or_else(|| locked("there is none in this session; start aegisd in a desktop session"))?;
    let own = keyring.load(&wrapped.keyring_entry).map_err(|why| locked(&why))?;
    let own = own.ok_or_else(|| locked("the entry is gone"))?;
    let own = Key::new(&own).ok_or_else(|| damaged("the keyring's entry is no key"))?;
    let text = own.open(NAME, &wrapped.key).ok_or_else(|| damaged("the keyring's key does not fit"))?;
    let bytes = super::seal::unhex(&text).map(Zeroizing::new);
    bytes.and_then(|bytes| Key::new(&bytes)).ok_or_else(|| damaged("it is no key"))
}

/// Lets the keyring forget what a file's key was sealed with.
pub(super) fn forget(bytes: &[u8], keyring: Option<&dyn Keyring>) {
    let wrapped = serde_json::from_slice::<Wrapped>(bytes).ok();
    if let Some((wrapped, keyring)) = wrapped.zip(keyring) {
        // An entry that stays opens nothing any more.
        let _left = keyring.forget(&wrapped.keyring_entry);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_are_a_key_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert_eq!(unwrap(&bytes, None).is_ok(), bytes.len() == 32);
        }
    }
}
