//! Reads images: those of this crate, and uncompressed ones of mkfs.erofs.
//!
//! An image can come from anywhere, so nothing in it is believed: each range is checked against the size of the
//! image before memory is set aside for it, and what is read at once is bounded.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use thiserror::Error;

use crate::format::{
    self, BLOCK, BLOCK_BYTES, DIRENT_BYTES, INODE_BYTES, RawInode, SLOT, SUPERBLOCK_BYTES, SUPERBLOCK_OFFSET,
    Superblock, u16_at, u32_at, u64_at,
};
use crate::tree::{Device, Mtime, Xattrs};
use crate::xattr;

/// Incompatible features that change nothing in how uncompressed files are read (zero padding of compressed data).
const HARMLESS_INCOMPAT: u32 = 1;
/// Longest name of a file.
const MAX_NAME: usize = 255;
/// Longest target of a symbolic link.
const MAX_SYMLINK: u64 = 4095;
/// Longest path that a walk follows: directories nested deeper come from a damaged image.
const MAX_WALK_PATH: usize = 64 * 1024;

/// Why an image cannot be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// There is no superblock.
    #[error("not an EROFS image")]
    NotErofs,
    /// The superblock is damaged.
    #[error("the checksum of the superblock is wrong")]
    Checksum,
    /// The image uses what this reader does not know; the text names it.
    #[error("the image uses {0}, which is not supported")]
    Unsupported(&'static str),
    /// A structure contradicts itself or points outside the image; the text names it.
    #[error("the image is damaged: {0}")]
    Corrupt(&'static str),
    /// The operation does not fit the kind of file.
    #[error("not a {0}")]
    WrongKind(&'static str),
    /// A walk met more entries than allowed.
    #[error("more than {0} entries")]
    TooManyEntries(u64),
    /// The image cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Something with bytes at offsets: a file or memory.
pub trait ReadAt {
    /// Number of bytes.
    ///
    /// # Errors
    /// When it cannot be found out.
    fn size(&self) -> io::Result<u64>;

    /// Fills `buf` with the bytes from `offset` on.
    ///
    /// # Errors
    /// When there are not as many bytes, or on failing input.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buf, offset)
    }
}

impl ReadAt for [u8] {
    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let source = start.checked_add(buf.len()).and_then(|end| self.get(start..end));
        buf.copy_from_slice(source.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn size(&self) -> io::Result<u64> {
        (**self).size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(buf, offset)
    }
}

/// The kind of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// A file of an image.
#[derive(Clone, Debug)]
pub struct Inode {
    nid: u64,
    /// Offset in the image of what follows the inode.
    after: u64,
    raw: RawInode,
    kind: FileKind,
}

impl Inode {
    /// The number of the inode: the same for all names of a hard-linked file.
    pub fn nid(&self) -> u64 {
        self.nid
    }

    /// The kind.
    pub fn kind(&self) -> FileKind {
        self.kind
    }

    /// Permission bits with setuid, setgid and sticky.
    pub fn mode(&self) -> u16 {
        self.raw.mode & !format::S_IFMT
    }

    /// Owner.
    pub fn uid(&self) -> u32 {
        self.raw.uid
    }

    /// Group.
    pub fn gid(&self) -> u32 {
        self.raw.gid
    }

    /// Modification time.
    pub fn mtime(&self) -> Mtime {
        Mtime { seconds: self.raw.mtime.cast_signed(), nanoseconds: self.raw.mtime_nanoseconds }
    }

    /// Number of names.
    pub fn nlink(&self) -> u32 {
        self.raw.nlink
    }

    /// Size of the data.
    pub fn size(&self) -> u64 {
        self.raw.size
    }

    fn xattr_bytes(&self) -> u64 {
        match u64::from(self.raw.xattr_icount) {
            0 => 0,
            count => xattr::IBODY_HEADER as u64 + (count - 1) * xattr::ENTRY_HEADER as u64,
        }
    }
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// The name.
    pub name: Vec<u8>,
    /// The inode it stands for, see [`Image::inode`].
    pub nid: u64,
}

/// An image opened for reading.
#[derive(Debug)]
pub struct Image<R> {
    source: R,
    size: u64,
    superblock: Superblock,
}

impl<R: ReadAt> Image<R> {
    /// Reads and checks the superblock.
    ///
    /// # Errors
    /// When it is no EROFS image, damaged, or uses unknown features.
    pub fn open(source: R) -> Result<Self, ReadError> {
        let size = source.size()?;
        if size < BLOCK {
            return Err(ReadError::NotErofs);
        }
        let mut block = [0; BLOCK_BYTES - SUPERBLOCK_OFFSET];
        source.read_exact_at(&mut block, SUPERBLOCK_OFFSET as u64)?;
        let (raw, _) = block.split_first_chunk::<SUPERBLOCK_BYTES>().ok_or(ReadError::NotErofs)?;
        let superblock = Superblock::decode(raw).ok_or(ReadError::NotErofs)?;
        if superblock.compat & format::COMPAT_CHECKSUM != 0 {
            block[4..8].fill(0);
            if format::crc32c(&block) != superblock.checksum {
                return Err(ReadError::Checksum);
            }
        }
        if superblock.block_bits != format::BLOCK_BITS {
            return Err(ReadError::Unsupported("another block size than 4096"));
        }
        if superblock.incompat & !HARMLESS_INCOMPAT != 0 {
            return Err(ReadError::Unsupported("an incompatible feature"));
        }
        Ok(Self { source, size, superblock })
    }

    /// The root directory.
    ///
    /// # Errors
    /// When it cannot be read or is no directory.
    pub fn root(&self) -> Result<Inode, ReadError> {
        let root = self.inode(self.superblock.root_nid.into())?;
        if root.kind == FileKind::Directory {
            Ok(root)
        } else {
            Err(ReadError::Corrupt("the root is no directory"))
        }
    }

    /// The file with this inode number.
    ///
    /// # Errors
    /// When there is no valid inode.
    pub fn inode(&self, nid: u64) -> Result<Inode, ReadError> {
        let base = u64::from(self.superblock.meta_block) * BLOCK;
        let offset = nid.checked_mul(SLOT).and_then(|offset| offset.checked_add(base));
        let offset = offset.ok_or(ReadError::Corrupt("an inode is outside the image"))?;
        let mut compact = [0; INODE_BYTES / 2];
        self.read_range(&mut compact, offset)?;
        let (raw, len) = if compact[0] & 1 == 1 {
            let mut extended = [0; INODE_BYTES];
            self.read_range(&mut extended, offset)?;
            (RawInode::decode_extended(&extended), extended.len())
        } else {
            (RawInode::decode_compact(&compact, &self.superblock), compact.len())
        };
        let kind = kind(&raw).ok_or(ReadError::Corrupt("an inode has no valid type"))?;
        Ok(Inode { nid, after: offset + len as u64, raw, kind })
    }

    /// Fills `buf` with the data of a file from `position` on; directories and symlinks have data too.
    ///
    /// # Errors
    /// When the range is not within the file, or the file's data not within the image.
    pub fn read(&self, inode: &Inode, position: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let end = position.checked_add(buf.len() as u64).filter(|end| *end <= inode.raw.size);
        if end.is_none() {
            return Err(ReadError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        let tail_start = match inode.raw.layout {
            format::LAYOUT_PLAIN => inode.raw.size,
            format::LAYOUT_INLINE => inode.raw.size - inode.raw.size % BLOCK,
            _ => return Err(ReadError::Unsupported("compressed or chunked files")),
        };
        let in_blocks =
            usize::try_from(tail_start.saturating_sub(position)).unwrap_or(usize::MAX).min(buf.len());
        let (blocks, tail) = buf.split_at_mut(in_blocks);
        if !blocks.is_empty() {
            // Saturated it is outside the image, and refused for that.
            self.read_range(blocks, (u64::from(inode.raw.union) * BLOCK).saturating_add(position))?;
        }
        if !tail.is_empty() {
            // Below the size of a block, as the tail is.
            let skipped = position.max(tail_start) - tail_start;
            self.read_range(tail, inode.after + inode.xattr_bytes() + skipped)?;
        }
        Ok(())
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// When the file is none, or damaged.
    pub fn read_link(&self, inode: &Inode) -> Result<Vec<u8>, ReadError> {
        if inode.kind != FileKind::Symlink {
            return Err(ReadError::WrongKind("symbolic link"));
        }
        if inode.raw.size > MAX_SYMLINK {
            return Err(ReadError::Corrupt("a symbolic link is too long"));
        }
        let mut target = vec![0; usize::try_from(inode.raw.size).unwrap_or(0)];
        self.read(inode, 0, &mut target)?;
        Ok(target)
    }

    /// The entries of a directory without `.` and `..`, in the order of the image.
    ///
    /// # Errors
    /// When the file is no directory, or damaged.
    pub fn read_directory(&self, inode: &Inode) -> Result<Vec<DirectoryEntry>, ReadError> {
        if inode.kind != FileKind::Directory {
            return Err(ReadError::WrongKind("directory"));
        }
        let mut entries = Vec::new();
        let mut block = [0; BLOCK_BYTES];
        let mut position = 0;
        // A size beyond the image ends with an error at the first block that is not there.
        while position < inode.raw.size {
            let len = usize::try_from((inode.raw.size - position).min(BLOCK)).unwrap_or(BLOCK_BYTES);
            let block = block.get_mut(..len).unwrap_or_default();
            self.read(inode, position, block)?;
            decode_block(block, &mut entries).ok_or(ReadError::Corrupt("a directory block"))?;
            position += len as u64;
        }
        Ok(entries)
    }

    /// The extended attributes of a file.
    ///
    /// # Errors
    /// When they are damaged.
    pub fn xattrs(&self, inode: &Inode) -> Result<Xattrs, ReadError> {
        let corrupt = || ReadError::Corrupt("extended attributes");
        let mut xattrs = Xattrs::new();
        // 256 KiB at most: the count has 16 bits.
        let mut body = vec![0; usize::try_from(inode.xattr_bytes()).unwrap_or(0)];
        if body.is_empty() {
            return Ok(xattrs);
        }
        self.read_range(&mut body, inode.after)?;
        let shared = usize::from(body.get(4).copied().unwrap_or(0));
        let (ids, mut inline) = body
            .get(xattr::IBODY_HEADER..)
            .and_then(|rest| rest.split_at_checked(shared * 4))
            .ok_or_else(corrupt)?;
        for id in ids.chunks_exact(4) {
            let entry = self.shared_xattr(u32_at(id, 0))?.ok_or_else(corrupt)?;
            xattrs.insert(entry.name, entry.value);
        }
        // Room that is not used is zero.
        while inline.len() >= xattr::ENTRY_HEADER && inline.get(..4) != Some(&[0; 4]) {
            let entry = xattr::decode(inline).ok_or_else(corrupt)?;
            xattrs.insert(entry.name, entry.value);
            inline = inline.get(entry.len..).unwrap_or_default();
        }
        Ok(xattrs)
    }

    fn shared_xattr(&self, id: u32) -> Result<Option<xattr::Entry>, ReadError> {
        let offset = u64::from(self.superblock.xattr_block) * BLOCK + u64::from(id) * 4;
        let mut header = [0; xattr::ENTRY_HEADER];
        self.read_range(&mut header, offset)?;
        let len = xattr::ENTRY_HEADER + usize::from(header[0]) + usize::from(u16_at(&header, 2));
        let mut entry = vec![0; len];
        self.read_range(&mut entry, offset)?;
        Ok(xattr::decode(&entry))
    }

    /// Calls `visit` with the path and inode of every file, parents first, beginning with the root, whose path is
    /// empty.
    ///
    /// # Errors
    /// When something is damaged (also: a directory with two parents), there are more than `max_entries`, or `visit`
    /// returns an error.
    pub fn walk<E: From<ReadError>>(
        &self,
        max_entries: u64,
        mut visit: impl FnMut(&[u8], &Inode) -> Result<(), E>,
    ) -> Result<(), E> {
        let root = self.root()?;
        let mut seen = HashSet::from([root.nid]);
        visit(b"", &root)?;
        let mut count: u64 = 1;
        let mut pending = vec![(Vec::new(), root)];
        while let Some((path, directory)) = pending.pop() {
            for entry in self.read_directory(&directory)? {
                count += 1;
                if count > max_entries {
                    return Err(ReadError::TooManyEntries(max_entries).into());
                }
                let inode = self.inode(entry.nid)?;
                let child =
                    if path.is_empty() { entry.name } else { [&path, &b"/"[..], &entry.name].concat() };
                visit(&child, &inode)?;
                if inode.kind == FileKind::Directory {
                    if !seen.insert(inode.nid) || child.len() > MAX_WALK_PATH {
                        return Err(ReadError::Corrupt("a directory is in a loop").into());
                    }
                    pending.push((child, inode));
                }
            }
        }
        Ok(())
    }

    /// Reads after checking that the range is in the image.
    fn read_range(&self, buf: &mut [u8], offset: u64) -> Result<(), ReadError> {
        match offset.checked_add(buf.len() as u64) {
            Some(end) if end <= self.size => Ok(self.source.read_exact_at(buf, offset)?),
            _ => Err(ReadError::Corrupt("something points outside the image")),
        }
    }
}

fn kind(raw: &RawInode) -> Option<FileKind> {
    let device = || {
        let (major, minor) = format::decode_device(raw.union);
        Device { major, minor }
    };
    Some(match raw.mode & format::S_IFMT {
        0o010_000 => FileKind::Fifo,
        0o020_000 => FileKind::CharDevice(device()),
        0o040_000 => FileKind::Directory,
        0o060_000 => FileKind::BlockDevice(device()),
        0o100_000 => FileKind::File,
        0o120_000 => FileKind::Symlink,
        0o140_000 => FileKind::Socket,
        _ => return None,
    })
}

/// Adds the entries of a directory block; `None` if it is damaged.
fn decode_block(block: &[u8], entries: &mut Vec<DirectoryEntry>) -> Option<()> {
    let names_start = usize::from(u16_at(block, 8));
    if names_start == 0 || !names_start.is_multiple_of(DIRENT_BYTES) {
        return None;
    }
    let dirents = block.get(..names_start)?;
    for (index, dirent) in dirents.chunks_exact(DIRENT_BYTES).enumerate() {
        let start = usize::from(u16_at(dirent, 8));
        let next = dirents.get((index + 1) * DIRENT_BYTES..).filter(|rest| !rest.is_empty());
        let end = next.map_or(block.len(), |next| usize::from(u16_at(next, 8)));
        let name = block.get(start..end)?;
        // Only the last name has room after it.
        let name = name
            .split(|byte| *byte == 0)
            .next()
            .filter(|name| next.is_none() || name.len() == end - start)?;
        if start < names_start || name.is_empty() || name.len() > MAX_NAME || name.contains(&b'/') {
            return None;
        }
        if name != b"." && name != b".." {
            entries.push(DirectoryEntry { name: name.to_vec(), nid: u64_at(dirent, 0) });
        }
    }
    Some(())
}
