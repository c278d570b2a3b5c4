//! The tree itself: its nodes, its limits, and the contents that belong to it.

use std::io::{self, Read};

use super::node::{Content, Directory, Metadata, Node, NodeId, Slot};
use super::path::{Components, components};
use crate::error::TreeError;
use crate::limits::{Limits, Meter};
use crate::spool::{Dense, Extent, Source, Spool};

/// What is made in a directory with this bit has its group, and a directory has the bit, too.
const SETGID: u16 = 0o2000;

/// A tree of files, built up entry by entry and layer by layer.
///
/// A name that is replaced or removed leaves its node behind, without a name: what counts is reachable from
/// [`NodeId::ROOT`].
#[derive(Debug)]
pub struct FileTree {
    pub(super) nodes: Vec<Node>,
    spool: Spool,
    pub(super) limits: Limits,
    pub(super) layer: u32,
    meter: Meter,
    /// Contents of files that are in layers, bytes.
    layer_bytes: u64,
    /// Names in targets of links that were followed.
    pub(super) followed: u64,
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

    pub(crate) fn components<'p>(&self, path: &'p [u8]) -> Result<Components<'p>, TreeError> {
        components(&self.limits, path)
    }

    pub(super) fn as_directory(&self, id: NodeId) -> Option<&Directory> {
        match &self.node(id).content {
            Content::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    pub(super) fn as_directory_mut(&mut self, id: NodeId) -> Option<&mut Directory> {
        match &mut self.nodes.get_mut(id.index())?.content {
            Content::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    pub(super) fn slot(&self, dir: NodeId, name: &[u8]) -> Option<Slot> {
        self.as_directory(dir)?.entries.get(name).copied()
    }

    pub(super) fn set_slot(&mut self, dir: NodeId, name: &[u8], node: NodeId) {
        let slot = Slot { node, layer: self.layer };
        if let Some(directory) = self.as_directory_mut(dir) {
            directory.entries.insert(name.into(), slot);
        }
    }

    /// A directory that no entry speaks of, as `mkdir` makes it.
    pub(super) fn new_directory(&mut self, parent: NodeId, name: &[u8]) -> Result<NodeId, TreeError> {
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

    pub(super) fn insert(&mut self, parent: NodeId, name: &[u8], node: Node) -> Result<(), TreeError> {
        let target = if let Content::Symlink(target) = &node.content { target.len() } else { 0 };
        self.charge(&node.metadata, name.len() + target)?;
        let count = u32::try_from(self.nodes.len());
        let id = NodeId(count.map_err(|_| TreeError::Limit { what: "entries", limit: u64::from(u32::MAX) })?);
        self.nodes.push(node);
        self.set_slot(parent, name, id);
        Ok(())
    }

    /// Counts an entry and its memory against the limits.
    pub(super) fn charge(&mut self, metadata: &Metadata, other_bytes: usize) -> Result<(), TreeError> {
        self.meter.charge(&self.limits, &metadata.xattrs, other_bytes)
    }
}
