//! SHA-256 digests, the names of everything here.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::error::ImageError;

/// A SHA-256 digest, written `sha256:` and 64 hexadecimal digits. No other algorithm is in use for images.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

const PREFIX: &str = "sha256:";
const DIGITS: usize = 64;

impl Digest {
    /// Of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        hasher.finish()
    }

    /// The digits alone: what files are called.
    #[must_use]
    pub fn hex(&self) -> &str {
        self.0.strip_prefix(PREFIX).unwrap_or_default()
    }

    /// From the digits alone.
    #[must_use]
    pub(crate) fn from_hex(hex: &str) -> Option<Digest> {
        format!("{PREFIX}{hex}").parse().ok()
    }

    /// Whether content with the digest `found` is what was promised under this one.
    pub(crate) fn check(&self, found: &Digest) -> Result<(), ImageError> {
        if self == found {
            return Ok(());
        }
        Err(ImageError::Mismatch { promised: self.to_string(), found: found.to_string() })
    }

    /// Its first digits, as people write it.
    #[must_use]
    pub fn short(&self) -> &str {
        self.hex().get(..12).unwrap_or_default()
    }
}

impl FromStr for Digest {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Digest, ImageError> {
        let digits = text.strip_prefix(PREFIX).filter(|digits| digits.len() == DIGITS);
        let fits =
            digits.is_some_and(|digits| digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
        if fits {
            Ok(Digest(text.to_owned()))
        } else {
            Err(ImageError::Digest(text.chars().take(100).collect()))
        }
    }
}

impl TryFrom<String> for Digest {
    type Error = ImageError;

    fn try_from(text: String) -> Result<Digest, ImageError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Computes a digest piece by piece.
#[derive(Clone, Default)]
pub(crate) struct Hasher(sha2::Sha256);

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> Digest {
        let mut text = String::with_capacity(PREFIX.len() + DIGITS);
        text.push_str(PREFIX);
        for byte in self.0.finalize() {
            for digit in [byte >> 4, byte & 15] {
                text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
            }
        }
        Digest(text)
    }
}

/// Counts and hashes what is written, on its way to `to`.
#[derive(Debug)]
pub(crate) struct Hashing<W> {
    pub(crate) to: W,
    pub(crate) hasher: Hasher,
    pub(crate) bytes: u64,
}

impl<W> Hashing<W> {
    pub(crate) fn new(to: W) -> Hashing<W> {
        Hashing { to, hasher: Hasher::default(), bytes: 0 }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.to.write(bytes)?;
        self.hasher.update(bytes.get(..count).unwrap_or_default());
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Hashes all of a reader.
pub(crate) fn of_reader(mut from: impl Read) -> io::Result<(Hasher, u64)> {
    let mut sink = Hashing::new(io::sink());
    io::copy(&mut from, &mut sink)?;
    Ok((sink.hasher, sink.bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_digest_of_nothing() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").to_string(), empty);
        assert_eq!(empty.parse::<Digest>().unwrap().short(), "e3b0c44298fc");
    }

    #[test]
    fn a_digest_is_safe_as_a_file_name_or_no_digest() {
        let digits = "a".repeat(DIGITS);
        assert!(format!("sha256:{digits}").parse::<Digest>().is_ok());
        for bad in
            ["", "sha256:", "sha512:aa", &format!("sha256:{digits}0"), &format!("sha256:{}", "A".repeat(64))]
        {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
        assert!(format!("sha256:../{}", "a".repeat(61)).parse::<Digest>().is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".{0,100}") {
            drop(text.parse::<Digest>());
        }
    }
}
