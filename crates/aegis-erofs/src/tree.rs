//! The file tree between archives and image: everything but the contents of regular files is in memory.

use std::collections::BTreeMap;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limits::{Limits, Meter};
use crate::spool::{Dense, Extent, Source, Spool};

mod path;

use path::Way;
pub(crate) use path::{Components, components};

/// A file name: any bytes but NUL and `/`.
pub type Name = Box<[u8]>;
/// Extended attributes by their full name.
pub type Xattrs = BTreeMap<Name, Box<[u8]>>;

/// No directory entry can be longer, on Linux and in EROFS.
const MAX_NAME: usize = 255;
/// `PATH_MAX` without the final NUL: a longer target could not be followed.
const MAX_SYMLINK_TARGET: usize = 4095;

/// What is made in a directory with this bit has its group, and a directory has the bit, too.
const SETGID: u16 = 0o2000;

/// Why an entry cannot be put into the tree.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TreeError {
    /// No file can have this name.
    #[error("the path contains a NUL byte")]
    NulByte,
    /// A component is longer than 255 bytes.
    #[error("a name of the path is longer than 255 bytes")]
    NameTooLong,
    /// The target of a symbolic link is empty, too long, or contains NUL.
    #[error("the target of the symbolic link is not valid")]
    SymlinkTarget,
    /// The path leads over too many symbolic links, perhaps in a circle.
    #[error("the path leads over too many symbolic links, the last one is {0:?}")]
    TooManyLinks(String),
    /// A directory of the path is something else in the same layer.
    #[error("it should be below {0:?}, which the same layer says is no directory")]
    ParentNotDirectory(String),
    /// Only a directory can be the root.
    #[error("the root can only be a directory")]
    RootNotDirectory,
    /// A hard link to nothing.
    #[error("the target {0:?} of the hard link does not exist")]
    LinkTargetMissing(String),
    /// A hard link to a directory.
    #[error("the target {0:?} of the hard link is a directory")]
    LinkToDirectory(String),
    /// A limit of [`Limits`] is exceeded; the text names it.
    #[error("more than {limit} {what}")]
    Limit {
        /// What is limited.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The spool could not be written, or the source of contents not read.
    #[error("{0}")]
    Io(#[from] io::Error),
}

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
    entries: BTreeMap<Name, Slot>,
}

impl Directory {
    /// Names with their nodes, ordered by the bytes of the name.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&[u8], NodeId)> {
        self.entries.iter().map(|(name, slot)| (&**name, slot.node))
    }
}

/// One name in a directory, with the layer that put or confirmed it there.
#[derive(Clone, Copy, Debug)]
struct Slot {
    node: NodeId,
    layer: u32,
}

/// A file of a tree; two names of one hard-linked file have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u32);

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
    fn directory(metadata: Metadata) -> Self {
        Self { metadata, content: Content::Directory(Directory::default()) }
    }
}

/// A tree of files, built up entry by entry and layer by layer.
///
/// A name that is replaced or removed leaves its node behind, without a name: what counts is reachable from
/// [`NodeId::ROOT`].
#[derive(Debug)]
pub struct FileTree {
    nodes: Vec<Node>,
    spool: Spool,
    limits: Limits,
    layer: u32,
    meter: Meter,
    /// Contents of files that are in layers, bytes.
    layer_bytes: u64,
    /// Names in targets of links that were followed.
    followed: u64,
}

impl FileTree {
    /// A tree with an empty root directory (mode 0755, owned by root).
    pub fn new(limits: Limits, spool: Spool) -> Self {
        let root = Node::directory(Metadata { mode: 0o755, ..Metadata::default() });
        let meter = Meter::default();
        Self { nodes: vec![root], spool, limits, layer: 0, meter, layer_bytes: 0, followed: 0 }
    }

    /// The limits that the tree enforces.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// A file of this tree.
    ///
    /// # Panics
    /// When `id` is from another tree.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// The spool with the contents of the files.
    pub(crate) fn spool(&self) -> &Spool {
        &self.spool
    }

    /// Number of nodes, with those that have no name any more.
    pub(crate) fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// The file at `path`; symbolic links are not followed.
    pub fn lookup(&self, path: &[u8]) -> Option<NodeId> {
        let components = self.components(path).ok()?;
        components.iter().try_fold(NodeId::ROOT, |dir, name| Some(self.slot(dir, name)?.node))
    }

    /// Reads a file's contents from `position` on into `buf`, which must lie within the file.
    ///
    /// # Errors
    /// When the range is not within the file, or the spool cannot be read.
    pub fn read(&self, extent: Extent, position: u64, buf: &mut [u8]) -> io::Result<()> {
        self.spool.read(extent, position, buf)
    }

    /// From now on entries belong to a new layer, above all before.
    pub fn begin_layer(&mut self) {
        self.layer = self.layer.saturating_add(1);
    }

    /// Takes over contents for a file that is put later.
    ///
    /// # Errors
    /// When reading or spooling fails, or the contents of all files exceed the limit.
    pub fn spool_contents(&mut self, reader: &mut impl Read) -> Result<Extent, TreeError> {
        let left = self.room();
        let extent = self.spool.append(&mut Dense(reader.take(left.saturating_add(1))))?;
        if extent.len > left { Err(self.too_much_data()) } else { Ok(extent) }
    }

    /// Takes over contents of this size, which may have holes, for a file that is put later.
    pub(crate) fn spool_source(&mut self, size: u64, source: &mut impl Source) -> Result<Extent, TreeError> {
        if size > self.room() { Err(self.too_much_data()) } else { Ok(self.spool.append(source)?) }
    }

    /// How many bytes of contents may still come.
    fn room(&self) -> u64 {
        self.limits.max_data_bytes.saturating_sub(self.spool.len() + self.layer_bytes)
    }

    /// Counts contents that are in a layer's data.
    pub(crate) fn count_contents(&mut self, extent: Extent) -> Result<Extent, TreeError> {
        self.layer_bytes = self.layer_bytes.saturating_add(extent.len);
        let fits = self.layer_bytes.saturating_add(self.spool.len()) <= self.limits.max_data_bytes;
        if fits { Ok(extent) } else { Err(self.too_much_data()) }
    }

    fn too_much_data(&self) -> TreeError {
        TreeError::Limit { what: "bytes of file contents", limit: self.limits.max_data_bytes }
    }

    /// Puts a directory. One that exists keeps its entries and gets the new metadata; anything else is replaced.
    ///
    /// # Errors
    /// When the path is not valid, leads through what the same layer says is no directory, or a limit is exceeded.
    pub fn put_directory(&mut self, path: &[u8], metadata: Metadata) -> Result<(), TreeError> {
        let components = self.components(path)?;
        let Some((name, parents)) = components.split_last() else {
            self.charge(&metadata, 0)?;
            self.nodes[NodeId::ROOT.index()].metadata = metadata;
            return Ok(());
        };
        let parent = self.make_parents(parents)?;
        match self.slot(parent, name) {
            Some(slot) if self.as_directory(slot.node).is_some() => {
                self.charge(&metadata, 0)?;
                self.nodes[slot.node.index()].metadata = metadata;
                self.set_slot(parent, name, slot.node);
            }
            _ => self.insert(parent, name, Node::directory(metadata))?,
        }
        Ok(())
    }

    /// Puts anything but a directory, in place of whatever is at `path`.
    ///
    /// # Errors
    /// When the path or a symlink's target is not valid, the path leads through what the same layer says is no
    /// directory, or a limit is exceeded.
    pub fn put(&mut self, path: &[u8], metadata: Metadata, content: Content) -> Result<(), TreeError> {
        if let Content::Symlink(target) = &content
            && (target.is_empty() || target.len() > MAX_SYMLINK_TARGET || target.contains(&0))
        {
            return Err(TreeError::SymlinkTarget);
        }
        let components = self.components(path)?;
        let (name, parents) = components.split_last().ok_or(TreeError::RootNotDirectory)?;
        let parent = self.make_parents(parents)?;
        self.insert(parent, name, Node { metadata, content })
    }

    /// Gives the file at `target` the further name `path`.
    ///
    /// # Errors
    /// As [`FileTree::put`], and when the target does not exist or is a directory.
    pub fn put_link(&mut self, path: &[u8], target: &[u8]) -> Result<(), TreeError> {
        let target_components = self.components(target)?;
        let shown = || target.escape_ascii().to_string();
        let node = match target_components.split_last() {
            // The target itself is not followed: a link can have two names.
            Some((name, parents)) => self.walk(parents, Way::Follow)?.and_then(|dir| self.slot(dir, name)),
            None => return Err(TreeError::LinkToDirectory(shown())),
        };
        let node = node.ok_or_else(|| TreeError::LinkTargetMissing(shown()))?.node;
        if self.as_directory(node).is_some() {
            return Err(TreeError::LinkToDirectory(shown()));
        }
        let components = self.components(path)?;
        let (name, parents) = components.split_last().ok_or(TreeError::RootNotDirectory)?;
        let parent = self.make_parents(parents)?;
        self.charge(&Metadata::default(), name.len())?;
        self.set_slot(parent, name, node);
        Ok(())
    }

    /// Removes what lower layers put at `path`; what the present layer put there, or below, stays. Where the way leads
    /// through no directory there is nothing to remove.
    ///
    /// # Errors
    /// When the path is not valid or a limit is exceeded.
    pub fn whiteout(&mut self, path: &[u8]) -> Result<(), TreeError> {
        let components = self.components(path)?;
        let (name, parents) = components.split_last().ok_or(TreeError::RootNotDirectory)?;
        if let Some(parent) = self.walk(parents, Way::Look)? {
            self.prune(parent, name);
        }
        Ok(())
    }

    /// Removes what lower layers put into the directory `path`, if there is one.
    ///
    /// # Errors
    /// When the path is not valid or a limit is exceeded.
    pub fn make_opaque(&mut self, path: &[u8]) -> Result<(), TreeError> {
        let components = self.components(path)?;
        if let Some(dir) = self.walk(&components, Way::Look)? {
            self.prune_below(dir);
        }
        Ok(())
    }

    pub(crate) fn components<'p>(&self, path: &'p [u8]) -> Result<Components<'p>, TreeError> {
        components(&self.limits, path)
    }

    fn as_directory(&self, id: NodeId) -> Option<&Directory> {
        match &self.node(id).content {
            Content::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    fn as_directory_mut(&mut self, id: NodeId) -> Option<&mut Directory> {
        match &mut self.nodes.get_mut(id.index())?.content {
            Content::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    fn slot(&self, dir: NodeId, name: &[u8]) -> Option<Slot> {
        self.as_directory(dir)?.entries.get(name).copied()
    }

    fn set_slot(&mut self, dir: NodeId, name: &[u8], node: NodeId) {
        let slot = Slot { node, layer: self.layer };
        if let Some(directory) = self.as_directory_mut(dir) {
            directory.entries.insert(name.into(), slot);
        }
    }

    /// A directory that no entry speaks of, as `mkdir` makes it.
    fn new_directory(&mut self, parent: NodeId, name: &[u8]) -> Result<NodeId, TreeError> {
        let (mut mode, mut gid) = (0o755, 0);
        if let above = &self.node(parent).metadata
            && above.mode & SETGID != 0
        {
            (mode, gid) = (mode | SETGID, above.gid);
        }
        self.insert(parent, name, Node::directory(Metadata { mode, gid, ..Metadata::default() }))?;
        // The newest node is the one just put in.
        Ok(self.slot(parent, name).map_or(NodeId::ROOT, |slot| slot.node))
    }

    fn insert(&mut self, parent: NodeId, name: &[u8], node: Node) -> Result<(), TreeError> {
        let target = if let Content::Symlink(target) = &node.content { target.len() } else { 0 };
        self.charge(&node.metadata, name.len() + target)?;
        let count = u32::try_from(self.nodes.len());
        let id = NodeId(count.map_err(|_| TreeError::Limit { what: "entries", limit: u64::from(u32::MAX) })?);
        self.nodes.push(node);
        self.set_slot(parent, name, id);
        Ok(())
    }

    /// Counts an entry and its memory against the limits.
    fn charge(&mut self, metadata: &Metadata, other_bytes: usize) -> Result<(), TreeError> {
        self.meter.charge(&self.limits, &metadata.xattrs, other_bytes)
    }

    /// Removes a name of a lower layer. Recursion ends at the depth that paths are limited to.
    fn prune(&mut self, dir: NodeId, name: &[u8]) {
        let Some(slot) = self.slot(dir, name) else { return };
        self.prune_below(slot.node);
        let emptied = self.as_directory(slot.node).is_none_or(|directory| directory.entries.is_empty());
        if slot.layer < self.layer
            && emptied
            && let Some(directory) = self.as_directory_mut(dir)
        {
            directory.entries.remove(name);
        }
    }

    fn prune_below(&mut self, dir: NodeId) {
        let Some(directory) = self.as_directory(dir) else { return };
        let names: Vec<Name> = directory.entries.keys().cloned().collect();
        for name in names {
            self.prune(dir, &name);
        }
    }
}
