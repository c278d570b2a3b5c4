//! Writes a tree as an image. See the primer in [`crate::format`].

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::directory::{self, Dirent};
use crate::error::WriteError;
use crate::format::{self, BLOCK, BLOCK_BYTES, RawInode, SUPERBLOCK_BYTES, SUPERBLOCK_OFFSET, Superblock};
use crate::layout::{Layout, Placement};
use crate::spool::{Extent, is_zero};
use crate::tree::{Content, Device, Directory, FileTree, Node, NodeId};
use crate::xattr;

const COPY_BUFFER: usize = 256 * 1024;

/// What of an image does not come from the tree. The default gives the same image for the same tree.
#[derive(Clone, Debug, Default)]
pub struct ImageOptions {
    /// The identity that `blkid` shows.
    pub uuid: [u8; 16],
    /// Seconds since 1970; no file has this time.
    pub build_time: u64,
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageSummary {
    /// Files; a hard-linked one counts once.
    pub inodes: u64,
    /// Size of what was written.
    pub bytes: u64,
}

/// Writes `tree` over `out`, which is truncated first. Zeros become holes. The file is not synced.
///
/// # Errors
/// When the tree cannot be expressed, or on failing input or output.
pub fn write_image(tree: &FileTree, out: &File, options: &ImageOptions) -> Result<ImageSummary, WriteError> {
    write_over(tree, out, &[], options)
}

/// Writes `tree` as the beginning of an image over `out`, which is truncated first; the data of the layers that it was
/// [stacked](crate::Layer::stack) from, which have so many blocks, is to follow it in their order. The file is not synced.
///
/// # Errors
/// As [`write_image`], and when the tree has files of more layers.
pub fn write_over(
    tree: &FileTree,
    out: &File,
    layers: &[u32],
    options: &ImageOptions,
) -> Result<ImageSummary, WriteError> {
    let layout = Layout::new(tree, layers)?;
    let bytes = u64::from(layout.own_blocks) * BLOCK;
    out.set_len(0)?;
    out.set_len(bytes)?;
    let mut writer = Writer { tree, layout: &layout, out, buffer: vec![0; COPY_BUFFER] };
    for (serial, placement) in layout.placements.iter().enumerate() {
        writer.write_node(serial, placement)?;
    }
    writer.write_superblock(options)?;
    Ok(ImageSummary { inodes: layout.placements.len() as u64, bytes })
}

struct Writer<'a> {
    tree: &'a FileTree,
    layout: &'a Layout,
    out: &'a File,
    buffer: Vec<u8>,
}

/// Where the data of a file comes from.
enum Data<'d> {
    Memory(Vec<u8>),
    Borrowed(&'d [u8]),
    Spooled(Extent),
}

impl Writer<'_> {
    fn write_node(&mut self, serial: usize, placement: &Placement) -> Result<(), WriteError> {
        let node = self.tree.node(placement.node);
        let data = match &node.content {
            Content::Directory(entries) => Data::Memory(self.directory_data(placement, entries)),
            Content::Symlink(target) => Data::Borrowed(target),
            Content::File(extent) => Data::Spooled(*extent),
            Content::CharDevice(_) | Content::BlockDevice(_) | Content::Fifo => Data::Borrowed(&[]),
        };
        let in_blocks = placement.block_bytes();
        self.copy(&data, 0, in_blocks, u64::from(placement.first_block) * BLOCK)?;

        let xattrs = xattr::encode(&node.metadata.xattrs);
        let mut record = raw_inode(node, placement, serial, xattrs.len())?.encode().to_vec();
        record.extend(xattrs);
        self.out.write_all_at(&record, placement.offset)?;
        self.copy(&data, in_blocks, placement.own_bytes() - in_blocks, placement.offset + record.len() as u64)
    }

    /// Copies `len` bytes of the data from `position` on to `target` in the image.
    fn copy(&mut self, data: &Data<'_>, position: u64, len: u64, target: u64) -> Result<(), WriteError> {
        let mut done = 0;
        while done < len {
            let count = usize::try_from(len - done).unwrap_or(COPY_BUFFER).min(COPY_BUFFER);
            let chunk = self.buffer.get_mut(..count).unwrap_or_default();
            fill(self.tree, data, position + done, chunk)?;
            // The file is new: what is not written reads as zeros.
            if !is_zero(chunk) {
                self.out.write_all_at(chunk, target + done)?;
            }
            done += count as u64;
        }
        Ok(())
    }

    fn directory_data(&self, placement: &Placement, entries: &Directory) -> Vec<u8> {
        let dirent = |name, node| Dirent {
            name,
            nid: self.layout.of(node).map_or(0, Placement::nid),
            file_type: file_type(&self.tree.node(node).content),
        };
        let dots = [dirent(&b"."[..], placement.node), dirent(&b".."[..], placement.parent)];
        let mut all: Vec<Dirent<'_>> =
            dots.into_iter().chain(entries.iter().map(|(name, node)| dirent(name, node))).collect();
        all.sort_unstable_by_key(|entry| entry.name);
        directory::encode(&all)
    }

    fn write_superblock(&self, options: &ImageOptions) -> Result<(), WriteError> {
        let root = self.layout.of(NodeId::ROOT).map_or(0, Placement::nid);
        let mut superblock = Superblock {
            compat: format::COMPAT_CHECKSUM | format::COMPAT_MTIME,
            block_bits: format::BLOCK_BITS,
            // Placed first, right after block 0.
            root_nid: u16::try_from(root).map_err(|_| WriteError::TooLarge)?,
            inodes: self.layout.placements.len() as u64,
            build_time: options.build_time,
            blocks: self.layout.total_blocks,
            uuid: options.uuid,
            ..Superblock::default()
        };
        superblock.checksum = superblock_checksum(&superblock);
        self.out.write_all_at(&superblock.encode(), SUPERBLOCK_OFFSET as u64)?;
        Ok(())
    }
}

/// The checksum of block 0 as we write it: zeros after the superblock.
fn superblock_checksum(superblock: &Superblock) -> u32 {
    let mut block = [0; BLOCK_BYTES - SUPERBLOCK_OFFSET];
    block[..SUPERBLOCK_BYTES].copy_from_slice(&Superblock { checksum: 0, ..superblock.clone() }.encode());
    format::crc32c(&block)
}

fn fill(tree: &FileTree, data: &Data<'_>, position: u64, chunk: &mut [u8]) -> Result<(), WriteError> {
    let memory = match data {
        Data::Spooled(extent) => return Ok(tree.spool().read(*extent, position, chunk)?),
        Data::Memory(bytes) => bytes,
        Data::Borrowed(bytes) => *bytes,
    };
    let start = usize::try_from(position).unwrap_or(usize::MAX);
    let source = start.checked_add(chunk.len()).and_then(|end| memory.get(start..end));
    chunk.copy_from_slice(source.ok_or(io::ErrorKind::UnexpectedEof).map_err(io::Error::from)?);
    Ok(())
}

fn raw_inode(
    node: &Node,
    placement: &Placement,
    serial: usize,
    xattr_len: usize,
) -> Result<RawInode, WriteError> {
    let metadata = &node.metadata;
    let union = match &node.content {
        Content::CharDevice(device) | Content::BlockDevice(device) => encode_device(*device)?,
        _ => placement.first_block,
    };
    Ok(RawInode {
        layout: if placement.inline_tail { format::LAYOUT_INLINE } else { format::LAYOUT_PLAIN },
        xattr_icount: xattr::icount(xattr_len).ok_or(WriteError::XattrsTooLarge)?,
        mode: type_bits(&node.content) | metadata.mode & !format::S_IFMT,
        size: placement.size,
        union,
        serial: u32::try_from(serial + 1).unwrap_or(u32::MAX),
        uid: metadata.uid,
        gid: metadata.gid,
        mtime: metadata.mtime.seconds.cast_unsigned(),
        mtime_nanoseconds: metadata.mtime.nanoseconds,
        nlink: placement.nlink,
    })
}

fn encode_device(device: Device) -> Result<u32, WriteError> {
    let Device { major, minor } = device;
    format::encode_device(major, minor).ok_or(WriteError::DeviceNumber { major, minor })
}

fn type_bits(content: &Content) -> u16 {
    match content {
        Content::Fifo => 0o010_000,
        Content::CharDevice(_) => 0o020_000,
        Content::Directory(_) => 0o040_000,
        Content::BlockDevice(_) => 0o060_000,
        Content::File(_) => 0o100_000,
        Content::Symlink(_) => 0o120_000,
    }
}

fn file_type(content: &Content) -> u8 {
    match content {
        Content::File(_) => directory::TYPE_REGULAR,
        Content::Directory(_) => directory::TYPE_DIRECTORY,
        Content::CharDevice(_) => directory::TYPE_CHAR_DEVICE,
        Content::BlockDevice(_) => directory::TYPE_BLOCK_DEVICE,
        Content::Fifo => directory::TYPE_FIFO,
        Content::Symlink(_) => directory::TYPE_SYMLINK,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;
    use crate::read::Image;
    use crate::spool::Spool;
    use crate::tree::Metadata;

    #[test]
    fn a_file_larger_than_four_gib() {
        const SIZE: u64 = (4 << 30) + 5000;
        let mut spool = Spool::in_dir(&std::env::temp_dir()).unwrap();
        let small = spool.append(&mut crate::spool::Dense([7; 5000].as_slice())).unwrap();
        let big = spool.append_zeros(SIZE);
        let mut tree = FileTree::new(Limits::default(), spool);
        tree.put(b"1-big", Metadata::default(), Content::File(big)).unwrap();
        tree.put(b"2-behind", Metadata::default(), Content::File(small)).unwrap();
        let file = tempfile::tempfile().unwrap();
        write_image(&tree, &file, &ImageOptions::default()).unwrap();
        let image = Image::open(file).unwrap();
        let entries = image.read_directory(&image.root().unwrap()).unwrap();
        let big = image.inode(entries[0].nid).unwrap();
        assert_eq!(big.size(), SIZE);
        let mut end = [1; 5];
        image.read(&big, SIZE - 5, &mut end).unwrap();
        assert_eq!(end, [0; 5]);
        assert!(image.read(&big, SIZE - 2, &mut [0; 3]).is_err(), "past the end");
        let mut contents = vec![0; 5000];
        image.read(&image.inode(entries[1].nid).unwrap(), 0, &mut contents).unwrap();
        assert_eq!(contents, [7; 5000], "beyond 4 GiB in the image");
    }
}
