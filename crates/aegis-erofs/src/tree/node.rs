//! The nodes of a file tree: kind, metadata and directory entries of each file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::spool::Extent;

/// A file name: any bytes but NUL and `/`.
pub type Name = Box<[u8]>;

/// Extended attributes by their full name.
pub type Xattrs = BTreeMap<Name, Box<[u8]>>;

/// A moment of modification; seconds may be before 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mtime {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds after that second, below 10^9.
    pub nanoseconds: u32,
}

/// What every file has, whatever its kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Permission bits with setuid, setgid and sticky: `0o7777` at most.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Mtime,
    /// Extended attributes.
    pub xattrs: Xattrs,
}

/// The number of a device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Major number, below 2^12.
    pub major: u32,
    /// Minor number, below 2^20.
    pub minor: u32,
}

/// The kind of a file and what belongs to it.
#[derive(Debug)]
pub enum Content {
    /// A directory.
    Directory(Directory),
    /// A regular file.
    File(Extent),
    /// A symbolic link with its target.
    Symlink(Box<[u8]>),
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
}

/// The entries of a directory, ordered by name.
#[derive(Debug, Default)]
pub struct Directory {
    pub(super) entries: BTreeMap<Name, Slot>,
}

impl Directory {
    /// Names with their nodes, ordered by the bytes of the name.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&[u8], NodeId)> {
        self.entries.iter().map(|(name, slot)| (&**name, slot.node))
    }
}

/// One name in a directory, with the layer that put or confirmed it there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) node: NodeId,
    pub(super) layer: u32,
}

/// A file of a tree; two names of one hard-linked file have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(super) u32);

impl NodeId {
    /// The root directory of every tree.
    pub const ROOT: Self = Self(0);

    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// A file: its metadata and its content.
#[derive(Debug)]
pub struct Node {
    /// Owner, mode, times and attributes.
    pub metadata: Metadata,
    /// Kind and content.
    pub content: Content,
}

impl Node {
    pub(super) fn directory(metadata: Metadata) -> Self {
        Self { metadata, content: Content::Directory(Directory::default()) }
    }
}
