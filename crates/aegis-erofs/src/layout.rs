//! Where everything goes: computed in memory before the first byte is written. See the primer in [`crate::format`].

use std::collections::BTreeSet;

use crate::directory;
use crate::error::WriteError;
use crate::format::{BLOCK, BLOCK_BYTES, INODE_BYTES, SLOT, SLOT_BYTES};
use crate::spool::{Extent, Place};
use crate::tree::{Content, FileTree, NodeId};
use crate::xattr;

/// The place of one inode and its data.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placement {
    pub(crate) node: NodeId,
    /// For a directory: the one it is in.
    pub(crate) parent: NodeId,
    /// Offset of the inode in the image.
    pub(crate) offset: u64,
    /// Size of the data, as in the inode.
    pub(crate) size: u64,
    /// Whether the last, partial block of the data follows the inode.
    pub(crate) inline_tail: bool,
    /// Bytes of extended attributes between inode and tail.
    pub(crate) xattr_bytes: usize,
    /// The layer whose data has the file's, and from which of its blocks on.
    in_layer: Option<(u32, u64)>,
    /// First data block.
    pub(crate) first_block: u32,
    /// Names of the inode; for a directory `.`, its name, and `..` of each subdirectory.
    pub(crate) nlink: u32,
}

impl Placement {
    pub(crate) fn nid(&self) -> u64 {
        self.offset / SLOT
    }

    /// How much of the data is written with the inode: not what a layer has.
    pub(crate) fn own_bytes(&self) -> u64 {
        if self.in_layer.is_some() { 0 } else { self.size }
    }

    /// How much of it is in blocks of its own.
    pub(crate) fn block_bytes(&self) -> u64 {
        if self.inline_tail { self.size - self.size % BLOCK } else { self.own_bytes() }
    }

    fn block_count(&self) -> u64 {
        self.block_bytes().div_ceil(BLOCK)
    }
}

/// The places of all inodes, in the order of a walk through the tree.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) placements: Vec<Placement>,
    /// Index into `placements` by node.
    by_node: Vec<Option<usize>>,
    /// Blocks before the data of layers.
    pub(crate) own_blocks: u32,
    pub(crate) total_blocks: u32,
}

impl Layout {
    /// Lays a tree out, with the data of layers of these sizes, blocks, behind it.
    pub(crate) fn new(tree: &FileTree, layers: &[u32]) -> Result<Self, WriteError> {
        let mut layout = Self {
            placements: Vec::new(),
            by_node: vec![None; tree.node_count()],
            own_blocks: 0,
            total_blocks: 0,
        };
        layout.collect(tree)?;

        let mut inodes = InodeSpace { next_block: 1, free: BTreeSet::new() };
        for placement in &mut layout.placements {
            place_inode(placement, &mut inodes);
        }
        let mut next_block = inodes.next_block;
        for placement in &mut layout.placements {
            let count = placement.block_count();
            if count > 0 {
                placement.first_block = u32::try_from(next_block).map_err(|_| WriteError::TooLarge)?;
            }
            next_block = next_block.checked_add(count).ok_or(WriteError::TooLarge)?;
        }
        layout.own_blocks = u32::try_from(next_block).map_err(|_| WriteError::TooLarge)?;
        layout.place_layers(layers)?;
        Ok(layout)
    }

    /// Puts the data of layers one after the other behind everything else.
    fn place_layers(&mut self, layers: &[u32]) -> Result<(), WriteError> {
        let mut next = u64::from(self.own_blocks);
        let mut starts = Vec::new();
        for blocks in layers {
            starts.push(next);
            next = next.saturating_add(u64::from(*blocks));
        }
        self.total_blocks = u32::try_from(next).map_err(|_| WriteError::TooLarge)?;
        for placement in &mut self.placements {
            if let Some((layer, block)) = placement.in_layer {
                let start = starts.get(layer as usize).ok_or(WriteError::NoSuchLayer(layer))?;
                placement.first_block = u32::try_from(start + block).map_err(|_| WriteError::TooLarge)?;
            }
        }
        Ok(())
    }

    /// The place of a node that has a name in the tree.
    pub(crate) fn of(&self, node: NodeId) -> Option<&Placement> {
        self.placements.get((*self.by_node.get(node.index())?)?)
    }

    /// Walks the tree and notes each node once, with what is known before placing.
    fn collect(&mut self, tree: &FileTree) -> Result<(), WriteError> {
        let mut pending = vec![(NodeId::ROOT, NodeId::ROOT)];
        while let Some((node, parent)) = pending.pop() {
            if let Some(known) = self.by_node.get(node.index()).copied().flatten() {
                self.add_link(known)?;
                continue;
            }
            if let Some(slot) = self.by_node.get_mut(node.index()) {
                *slot = Some(self.placements.len());
            }
            self.placements.push(measure(tree, node, parent)?);
            if let Content::Directory(directory) = &tree.node(node).content {
                // Reversed, as the last one pushed is the first one visited.
                pending.extend(directory.iter().rev().map(|(_, child)| (child, node)));
            }
        }
        Ok(())
    }

    fn add_link(&mut self, index: usize) -> Result<(), WriteError> {
        if let Some(placement) = self.placements.get_mut(index) {
            placement.nlink = placement.nlink.checked_add(1).ok_or(WriteError::TooManyLinks)?;
        }
        Ok(())
    }
}

/// A placement with sizes and links but no place yet.
fn measure(tree: &FileTree, node: NodeId, parent: NodeId) -> Result<Placement, WriteError> {
    let mut nlink = 1;
    let size = match &tree.node(node).content {
        Content::Directory(entries) => {
            let is_directory = |id| matches!(tree.node(id).content, Content::Directory(_));
            let subdirectories = entries.iter().filter(|(_, child)| is_directory(*child)).count();
            nlink = u32::try_from(subdirectories + 2).map_err(|_| WriteError::TooManyLinks)?;
            directory::size(with_dots(entries.iter().map(|(name, _)| name)).into_iter())
        }
        Content::File(extent) => extent.len(),
        Content::Symlink(target) => target.len() as u64,
        Content::CharDevice(_) | Content::BlockDevice(_) | Content::Fifo => 0,
    };
    let in_layer = match &tree.node(node).content {
        Content::File(Extent { place: Place::Layer(layer), offset, .. }) => Some((*layer, offset / BLOCK)),
        _ => None,
    };
    let xattr_bytes = xattr::encode(&tree.node(node).metadata.xattrs).len();
    Ok(Placement {
        node,
        parent,
        offset: 0,
        size,
        inline_tail: false,
        xattr_bytes,
        in_layer,
        first_block: 0,
        nlink,
    })
}

/// Names in the order of a directory on disk: `.` and `..` are ordered like any other.
fn with_dots<'n>(names: impl Iterator<Item = &'n [u8]>) -> Vec<&'n [u8]> {
    let mut all: Vec<&[u8]> = [&b"."[..], b".."].into_iter().chain(names).collect();
    all.sort_unstable();
    all
}

fn place_inode(placement: &mut Placement, inodes: &mut InodeSpace) {
    let head = INODE_BYTES + placement.xattr_bytes;
    // The remainder is below the size of a block.
    let tail = usize::try_from(placement.own_bytes() % BLOCK).unwrap_or(0);
    placement.inline_tail = tail > 0 && head + tail <= BLOCK_BYTES;
    placement.offset = inodes.take(head + if placement.inline_tail { tail } else { 0 });
}

/// Hands out space for inodes. What fits into a block stays within one; the fullest block with room takes it, so that
/// little is lost to tails of any size.
#[derive(Debug)]
struct InodeSpace {
    next_block: u64,
    /// Blocks with room at their end, by free bytes.
    free: BTreeSet<(usize, u64)>,
}

impl InodeSpace {
    /// The offset of `bytes` bytes in the image.
    fn take(&mut self, bytes: usize) -> u64 {
        let bytes = bytes.next_multiple_of(SLOT_BYTES);
        let (free, block) = match self.free.range((bytes, 0)..).next().copied() {
            Some(found) => {
                self.free.remove(&found);
                found
            }
            None => {
                let blocks = bytes.div_ceil(BLOCK_BYTES);
                let first = self.next_block;
                self.next_block += blocks as u64;
                (blocks * BLOCK_BYTES, first)
            }
        };
        let end = self.block_end(free, block);
        let left = free - bytes;
        if left >= INODE_BYTES {
            // Only the last block of several can have room: more than a block is never free otherwise.
            self.free.insert((left, end / BLOCK - 1));
        }
        end - free as u64
    }

    /// Where the room of `free` bytes that begins in `block` ends.
    fn block_end(&self, free: usize, block: u64) -> u64 {
        (block + free.div_ceil(BLOCK_BYTES) as u64) * BLOCK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inode_space_neither_overlaps_nor_crosses_blocks() {
        let mut space = InodeSpace { next_block: 1, free: BTreeSet::new() };
        let mut taken: Vec<(u64, u64)> = Vec::new();
        for i in 0..2000usize {
            let bytes = 64 + i * 7919 % if i % 50 == 0 { 9000 } else { 4000 };
            let offset = space.take(bytes);
            assert_eq!(offset % SLOT, 0);
            let end = offset + bytes as u64;
            if bytes <= BLOCK_BYTES {
                assert_eq!(offset / BLOCK, (end - 1) / BLOCK, "{bytes} bytes at {offset}");
            } else {
                assert_eq!(offset % BLOCK, 0);
            }
            assert!(end <= space.next_block * BLOCK);
            taken.push((offset, end));
        }
        taken.sort_unstable();
        assert!(taken.windows(2).all(|pair| pair[0].1 <= pair[1].0));
        assert_eq!(taken[0].0, BLOCK, "the first one is right after the superblock's block");
    }
}
