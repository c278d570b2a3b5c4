//! Sealing: AES-256-GCM (NIST SP 800-38D), the name bound in as associated data, a fresh random nonce each time.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Length of a key, bytes.
pub(super) const KEY_BYTES: usize = 32;
/// Before the name in the associated data: another use of the same key has another.
const PURPOSE: &[u8] = b"aegis secret 1\0";
/// Before the key where its identity is computed.
const KEY_IDENTITY: &[u8] = b"aegis key identity 1\0";

/// A value as it is stored. Hexadecimal in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sealed {
    nonce: String,
    sealed: String,
}

/// A master key.
pub(super) struct Key {
    bytes: Zeroizing<[u8; KEY_BYTES]>,
    cipher: LessSafeKey,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    /// From its bytes; nothing if their number is wrong.
    pub(super) fn new(bytes: &[u8]) -> Option<Key> {
        let bytes = Zeroizing::new(<[u8; KEY_BYTES]>::try_from(bytes).ok()?);
        let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &*bytes).ok()?);
        Some(Key { bytes, cipher })
    }

    /// A new one; nothing if the system has no random numbers.
    pub(super) fn random() -> Option<Key> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        SystemRandom::new().fill(&mut *bytes).ok()?;
        Key::new(&*bytes)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &*self.bytes
    }

    /// Tells keys apart without telling anything of them.
    pub(super) fn identity(&self) -> String {
        let digest = Sha256::new().chain_update(KEY_IDENTITY).chain_update(*self.bytes).finalize();
        hex(digest.get(..8).unwrap_or_default())
    }

    /// Seals a value under a name; nothing if the system has no random numbers.
    pub(super) fn seal(&self, name: &str, value: &str) -> Option<Sealed> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let mut text = value.as_bytes().to_vec();
        let bound = Aad::from([PURPOSE, name.as_bytes()].concat());
        self.cipher.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), bound, &mut text).ok()?;
        Some(Sealed { nonce: hex(&nonce), sealed: hex(&text) })
    }

    /// The value that was sealed under this name with this key; nothing if that is not so.
    pub(super) fn open(&self, name: &str, sealed: &Sealed) -> Option<Zeroizing<String>> {
        let nonce = Nonce::try_assume_unique_for_key(&unhex(&sealed.nonce)?).ok()?;
        let mut text = Zeroizing::new(unhex(&sealed.sealed)?);
        let bound = Aad::from([PURPOSE, name.as_bytes()].concat());
        let plain = self.cipher.open_in_place(nonce, bound, &mut text).ok()?;
        Some(Zeroizing::new(str::from_utf8(plain).ok()?.to_owned()))
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |digit: &u8| char::from(*digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| if let [high, low] = pair { Some(digit(high)? << 4 | digit(low)?) } else { None })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_value_opens_with_its_key_and_its_name_only() {
        let (key, other) = (Key::random().unwrap(), Key::random().unwrap());
        let sealed = key.seal("TOKEN", "value").unwrap();
        assert_eq!(key.open("TOKEN", &sealed).unwrap().as_str(), "value");
        assert!(key.open("OTHER", &sealed).is_none(), "under another name");
        assert!(other.open("TOKEN", &sealed).is_none(), "with another key");
        assert_ne!(key.identity(), other.identity());
        assert_eq!(Key::new(key.bytes()).unwrap().identity(), key.identity());
    }

    #[test]
    fn each_sealing_has_a_nonce_of_its_own() {
        let key = Key::random().unwrap();
        let nonces: std::collections::HashSet<String> =
            (0..1000).map(|_| key.seal("A", "same").unwrap().nonce).collect();
        assert_eq!(nonces.len(), 1000);
    }

    proptest! {
        #[test]
        fn any_value_comes_back_and_any_change_is_noticed(
            value in "\\PC{0,100}", at in any::<prop::sample::Index>(), bit in 0u8..4,
        ) {
            let key = Key::random().unwrap();
            let sealed = key.seal("A", &value).unwrap();
            let opened = key.open("A", &sealed).unwrap();
            prop_assert_eq!(opened.as_str(), value);
            let mut text: Vec<char> = sealed.sealed.chars().collect();
            let at = at.index(text.len());
            text[at] = char::from_digit(text[at].to_digit(16).unwrap() ^ 1 << bit, 16).unwrap();
            let changed = Sealed { sealed: text.into_iter().collect(), ..sealed };
            prop_assert!(key.open("A", &changed).is_none());
        }

        #[test]
        fn arbitrary_text_is_no_sealed_value_and_never_panics(nonce in ".{0,40}", sealed in ".{0,40}") {
            let opened = Key::random().unwrap().open("A", &Sealed { nonce, sealed });
            prop_assert!(opened.is_none());
        }
    }
}
