//! What somebody else has changed in a directory of the host that a guest sees: told on the pipe for files, so that the
//! guest's kernel believes nothing that is out of date, and whoever watches files in the guest hears of it.
//!
//! A change is a [`Kind::Rpc`](crate::frame::Kind::Rpc) frame of the stream that its directory has. The guest says in its
//! greeting how many it takes ([`Hello::changes`]), and how many it has dealt with
//! ([`Frame::credit`](crate::frame::Frame::credit), stream 0, since the greeting): no more than that are ever under way. A
//! guest that says nothing is told nothing.

use serde::{Deserialize, Serialize};

/// Most changes under way.
pub const WINDOW: u32 = 64;
/// Longest path of a directory, bytes.
pub const MOST_PATH: usize = 4095;
/// Longest name, bytes.
pub const MOST_NAME: usize = 255;

/// What the guest says when a server has greeted it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Whom the guest sees as owner of all files.
    pub uid: u32,
    /// The same, group.
    pub gid: u32,
    /// How many changes it takes at a time; none if it does not know of them.
    #[serde(default)]
    pub changes: u32,
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Spot {
    /// Number of the directory's node.
    pub directory: u64,
    /// Where the directory is, from the root of what is served; empty for that itself.
    pub path: Vec<u8>,
    /// The name.
    pub name: Vec<u8>,
}

/// What has happened to a file that has stayed where it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Touch {
    /// Its attributes have changed.
    pub attributes: bool,
    /// Its contents have changed.
    pub contents: bool,
    /// Somebody who could write it has closed it.
    pub closed: bool,
}

impl Touch {
    /// Both, one after the other.
    #[must_use]
    pub fn and(self, other: Touch) -> Touch {
        Touch {
            attributes: self.attributes || other.attributes,
            contents: self.contents || other.contents,
            closed: self.closed || other.closed,
        }
    }
}

/// What is at a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are those of file types")]
pub enum Type {
    File,
    Directory,
    SymbolicLink,
    Pipe,
    Socket,
}

/// A change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// A file has been changed.
    Touched {
        /// Where it is.
        at: Spot,
        /// Its node, if the guest's kernel knows it, and 0 otherwise.
        node: u64,
        /// How.
        how: Touch,
    },
    /// There is something new at a name, or another thing than before.
    Made {
        /// Where.
        at: Spot,
        /// What.
        what: Type,
    },
    /// Nothing is there any more.
    Gone {
        /// Where.
        at: Spot,
        /// The node that was there, if the guest's kernel knows it, and 0 otherwise.
        node: u64,
        /// Whether it was a directory.
        directory: bool,
    },
    /// What was at one name is at another, in place of what was there.
    Moved {
        /// Where it was.
        from: Spot,
        /// Where it is.
        to: Spot,
        /// The node that was there before, if the guest's kernel knows it, and 0 otherwise.
        replaced: u64,
        /// Whether it is a directory.
        directory: bool,
    },
}

impl Spot {
    /// Whether this is the name of something below the root.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let component = |name: &[u8]| {
            !matches!(name, b"" | b"." | b"..") && name.len() <= MOST_NAME && !name.contains(&0)
        };
        let path = self.path.is_empty() || self.path.split(|byte| *byte == b'/').all(component);
        path && self.path.len() <= MOST_PATH && component(&self.name) && !self.name.contains(&b'/')
    }
}

impl Change {
    /// As it is sent; `None` if that cannot be.
    #[must_use]
    pub fn encode(&self) -> Option<Vec<u8>> {
        postcard::to_allocvec(self).ok()
    }

    /// What was sent; `None` if it is no change of something below the root.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Change> {
        let change: Change = postcard::from_bytes(bytes).ok()?;
        let sound = match &change {
            Change::Touched { at, .. } | Change::Made { at, .. } | Change::Gone { at, .. } => at.is_sound(),
            Change::Moved { from, to, .. } => from.is_sound() && to.is_sound(),
        };
        sound.then_some(change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spot(path: &str, name: &str) -> Spot {
        Spot { directory: 7, path: path.into(), name: name.into() }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_no_change_or_a_sound_one(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            crate::fuzz::change(&bytes);
        }

        #[test]
        fn a_change_is_read_as_it_was_written(path in "([a-z]{1,9}(/[a-z]{1,9}){0,3})?", name in "[a-z.]{3,9}", node: u64) {
            let how = Touch { contents: true, ..Touch::default() };
            let all = [
                Change::Touched { at: spot(&path, &name), node, how },
                Change::Made { at: spot(&path, &name), what: Type::Socket },
                Change::Gone { at: spot(&path, &name), node, directory: true },
                Change::Moved { from: spot(&path, &name), to: spot("", &name), replaced: node, directory: false },
            ];
            for change in all {
                prop_assert_eq!(Change::decode(&change.encode().unwrap()), Some(change));
            }
        }
    }

    #[test]
    fn nothing_leads_out_of_what_is_served() {
        for (path, name) in [
            ("", ".."),
            ("a/../..", "b"),
            ("/etc", "passwd"),
            ("a", "b/c"),
            ("a//b", "c"),
            ("a", "b\0"),
            ("", ""),
        ] {
            let change = Change::Made { at: spot(path, name), what: Type::File };
            assert_eq!(Change::decode(&change.encode().unwrap()), None, "{path} {name}");
        }
    }

    #[test]
    fn a_guest_that_does_not_know_of_changes_takes_none() {
        let old: Hello = serde_json::from_str(r#"{"uid":1,"gid":2}"#).unwrap();
        assert_eq!(old, Hello { uid: 1, gid: 2, changes: 0 });
    }
}
