//! Words of a command: bytes, which are mostly UTF-8.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A program's name or an argument, of any bytes but NUL. Written as text if it is UTF-8, else as `{"bytes": [255, …]}`,
/// which an older end refuses. Since version 9.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Argument(Vec<u8>);

impl Argument {
    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its text, if it is UTF-8.
    #[must_use]
    pub fn to_str(&self) -> Option<&str> {
        str::from_utf8(&self.0).ok()
    }

    /// For people.
    #[must_use]
    pub fn to_string_lossy(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }
}

impl AsRef<[u8]> for Argument {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Argument {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_string_lossy(), formatter)
    }
}

impl From<Vec<u8>> for Argument {
    fn from(bytes: Vec<u8>) -> Argument {
        Argument(bytes)
    }
}

impl From<String> for Argument {
    fn from(text: String) -> Argument {
        Argument(text.into_bytes())
    }
}

impl From<&str> for Argument {
    fn from(text: &str) -> Argument {
        Argument(text.as_bytes().to_vec())
    }
}

impl PartialEq<str> for Argument {
    fn eq(&self, text: &str) -> bool {
        self.0 == text.as_bytes()
    }
}

impl PartialEq<&str> for Argument {
    fn eq(&self, text: &&str) -> bool {
        *self == **text
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Written<'a> {
    Text(Cow<'a, str>),
    Bytes { bytes: Cow<'a, [u8]> },
}

impl Serialize for Argument {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let written = match self.to_str() {
            Some(text) => Written::Text(text.into()),
            None => Written::Bytes { bytes: self.0.as_slice().into() },
        };
        written.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Argument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Argument, D::Error> {
        Ok(match Written::deserialize(deserializer)? {
            Written::Text(text) => text.into_owned().into(),
            Written::Bytes { bytes } => bytes.into_owned().into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_is_written_as_it_always_was() {
        assert_eq!(serde_json::to_string(&Argument::from("ä b")).unwrap(), "\"ä b\"");
        let other = Argument::from(vec![b'a', 0xff]);
        assert_eq!(serde_json::to_string(&other).unwrap(), "{\"bytes\":[97,255]}");
        assert!(serde_json::from_str::<String>(&serde_json::to_string(&other).unwrap()).is_err());
        for wrong in ["1", "{}", "{\"bytes\":[256]}", "{\"bytes\":[1],\"more\":1}", "[1]"] {
            assert!(serde_json::from_str::<Argument>(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn bytes_come_back(bytes in prop::collection::vec(any::<u8>(), 0..50)) {
            let argument = Argument::from(bytes.clone());
            let written = serde_json::to_vec(&argument).unwrap();
            let read: Argument = serde_json::from_slice(&written).unwrap();
            prop_assert_eq!(read.as_bytes(), bytes.as_slice());
        }
    }
}
