//! Sealing of saved machines, piece by piece, so that none of it need be in memory twice: AES-256-GCM, a key for each
//! file, the number of the piece as its nonce, and its place bound in as associated data.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

/// Length of a key, bytes.
const KEY_BYTES: usize = 32;
/// How much longer a piece is when it is sealed, bytes.
pub(super) const TAG: usize = 16;

/// The key of one file. It must not be used for a second one: pieces have their numbers as nonces.
pub struct Key {
    bytes: Zeroizing<[u8; KEY_BYTES]>,
    cipher: LessSafeKey,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

/// What a piece is bound to: a file's devices, or a place in its memory.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    Devices,
    Memory(u64),
}

impl Place {
    fn bound(self) -> Aad<[u8; 9]> {
        let (kind, at) = match self {
            Place::Devices => (0, 0),
            Place::Memory(at) => (1, at),
        };
        let mut bytes = [kind; 9];
        bytes[1..].copy_from_slice(&at.to_le_bytes());
        Aad::from(bytes)
    }
}

fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

impl Key {
    /// From its bytes, hexadecimal; nothing if they are none.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Key> {
        let bytes = Zeroizing::new(crate::secrets::unhex(text)?);
        Key::new(Zeroizing::new(<[u8; KEY_BYTES]>::try_from(bytes.as_slice()).ok()?))
    }

    fn new(bytes: Zeroizing<[u8; KEY_BYTES]>) -> Option<Key> {
        let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &*bytes).ok()?);
        Some(Key { bytes, cipher })
    }

    /// A new one; nothing if the system has no random numbers.
    #[must_use]
    pub fn random() -> Option<Key> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        SystemRandom::new().fill(&mut *bytes).ok()?;
        Key::new(bytes)
    }

    /// Its bytes, hexadecimal.
    #[must_use]
    pub fn to_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(crate::secrets::hex(&*self.bytes))
    }

    /// Seals a piece; nothing if it is far too long.
    pub(super) fn seal(&self, number: u64, place: Place, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = Vec::with_capacity(bytes.len() + TAG);
        sealed.extend_from_slice(bytes);
        self.cipher.seal_in_place_append_tag(nonce(number), place.bound(), &mut sealed).ok()?;
        Some(sealed)
    }

    /// The piece that was sealed with this number and for this place; nothing if that is not so.
    pub(super) fn open<'a>(&self, number: u64, place: Place, sealed: &'a mut [u8]) -> Option<&'a [u8]> {
        self.cipher.open_in_place(nonce(number), place.bound(), sealed).ok().map(|plain| &*plain)
    }
}
