//! The on-disk structures, as in the Linux source, `fs/erofs/erofs_fs.h`.
//!
//! # Primer
//!
//! All numbers are little-endian; a block has 4096 bytes. An image as this crate writes it:
//!
//! ```text
//! block 0       1024 free bytes (a boot sector could be there), superblock (128 bytes), zeros
//! block 1..m    inodes; each may be followed by its extended attributes and by the tail of its data
//! block m..end  data blocks: file contents, larger directories
//! ```
//!
//! **Inode number.** There is no inode table. The number ("nid") of an inode is its place:
//! `nid = (offset - meta_blkaddr * 4096) / 32`. We leave `meta_blkaddr` 0, so the first inode, the root, has nid 128:
//! the superblock has only 16 bits for the root, and programs take a directory entry with inode 0 for a deleted one.
//!
//! **Inode.** The extended form has 64 bytes ([`RawInode`]); a compact one of 32 bytes exists, which we only read.
//! `i_format` has the form in bit 0 and the data layout in bits 1 to 3:
//! - *flat plain*: `ceil(size / 4096)` consecutive blocks from `i_u`;
//! - *flat inline*: as many whole blocks, and the rest right behind inode and attributes. This tail must lie within
//!   one block. It saves a block per small file, symlink and directory.
//!
//! For device nodes `i_u` is the device number.
//!
//! **Extended attributes** follow the inode: a header of 12 bytes, then entries of 4 bytes (length of the name, index
//! of the name's prefix, length of the value), name, value, padded to 4. `i_xattr_icount` is 0 without, else 1 + the
//! bytes after the header / 4.
//!
//! **Directories** are data, in blocks that each stand alone: entries of 12 bytes (nid, offset of the name in this
//! block, type), then the names without terminators. The offset of the first name thus tells the number of entries,
//! and a name ends where the next one begins; the last ends at a NUL or the end of the block. The entries, with `.`
//! and `..`, are ordered by the bytes of the names over all blocks, for lookup is a binary search.
//!
//! **Checksum.** CRC-32C of block 0 from the superblock to the end of the block with the checksum field zero, started
//! with all ones and not inverted at the end.
//!
//! No incompatible feature is in use, so any kernel from 5.10 on can mount the image.

/// Version of what this crate makes of a given archive; part of the cache keys of images. Raise it when the same
/// archive gives another image.
pub const FORMAT_VERSION: u32 = 1;

/// Size of a block.
pub(crate) const BLOCK: u64 = 4096;
/// `log2` of the size of a block.
pub(crate) const BLOCK_BITS: u8 = 12;
/// [`BLOCK`] for offsets within a block.
pub(crate) const BLOCK_BYTES: usize = 4096;
/// Unit of inode numbers.
pub(crate) const SLOT: u64 = 32;
/// [`SLOT`] for sizes in memory.
pub(crate) const SLOT_BYTES: usize = 32;
/// Size of an extended inode.
pub(crate) const INODE_BYTES: usize = 64;
/// Size of a directory entry without its name.
pub(crate) const DIRENT_BYTES: usize = 12;
/// Place of the superblock.
pub(crate) const SUPERBLOCK_OFFSET: usize = 1024;
/// Size of the superblock.
pub(crate) const SUPERBLOCK_BYTES: usize = 128;

const MAGIC: u32 = 0xe0f5_e1e2;
/// The superblock has a checksum.
pub(crate) const COMPAT_CHECKSUM: u32 = 1;
/// Inode times are modification times.
pub(crate) const COMPAT_MTIME: u32 = 2;

/// Data layout flat plain.
pub(crate) const LAYOUT_PLAIN: u16 = 0;
/// Data layout flat inline.
pub(crate) const LAYOUT_INLINE: u16 = 2;

/// File type bits of `i_mode`.
pub(crate) const S_IFMT: u16 = 0o170_000;

/// The superblock, without what we neither write nor read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub(crate) checksum: u32,
    pub(crate) compat: u32,
    pub(crate) block_bits: u8,
    pub(crate) root_nid: u16,
    pub(crate) inodes: u64,
    pub(crate) build_time: u64,
    pub(crate) build_time_nanoseconds: u32,
    pub(crate) blocks: u32,
    pub(crate) meta_block: u32,
    pub(crate) xattr_block: u32,
    pub(crate) uuid: [u8; 16],
    pub(crate) volume_name: [u8; 16],
    pub(crate) incompat: u32,
}

impl Superblock {
    pub(crate) fn encode(&self) -> [u8; SUPERBLOCK_BYTES] {
        let mut raw = [0; SUPERBLOCK_BYTES];
        raw[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        raw[4..8].copy_from_slice(&self.checksum.to_le_bytes());
        raw[8..12].copy_from_slice(&self.compat.to_le_bytes());
        raw[12] = self.block_bits;
        raw[14..16].copy_from_slice(&self.root_nid.to_le_bytes());
        raw[16..24].copy_from_slice(&self.inodes.to_le_bytes());
        raw[24..32].copy_from_slice(&self.build_time.to_le_bytes());
        raw[32..36].copy_from_slice(&self.build_time_nanoseconds.to_le_bytes());
        raw[36..40].copy_from_slice(&self.blocks.to_le_bytes());
        raw[40..44].copy_from_slice(&self.meta_block.to_le_bytes());
        raw[44..48].copy_from_slice(&self.xattr_block.to_le_bytes());
        raw[48..64].copy_from_slice(&self.uuid);
        raw[64..80].copy_from_slice(&self.volume_name);
        raw[80..84].copy_from_slice(&self.incompat.to_le_bytes());
        raw
    }

    /// `None` if the magic number is not there.
    pub(crate) fn decode(raw: &[u8; SUPERBLOCK_BYTES]) -> Option<Self> {
        (u32_at(raw, 0) == MAGIC).then(|| Self {
            checksum: u32_at(raw, 4),
            compat: u32_at(raw, 8),
            block_bits: raw[12],
            root_nid: u16_at(raw, 14),
            inodes: u64_at(raw, 16),
            build_time: u64_at(raw, 24),
            build_time_nanoseconds: u32_at(raw, 32),
            blocks: u32_at(raw, 36),
            meta_block: u32_at(raw, 40),
            xattr_block: u32_at(raw, 44),
            uuid: std::array::from_fn(|i| raw[48 + i]),
            volume_name: std::array::from_fn(|i| raw[64 + i]),
            incompat: u32_at(raw, 80),
        })
    }
}

/// An inode as on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RawInode {
    pub(crate) layout: u16,
    pub(crate) xattr_icount: u16,
    pub(crate) mode: u16,
    pub(crate) size: u64,
    /// First block, or device number.
    pub(crate) union: u32,
    /// For `stat` on 32-bit systems only.
    pub(crate) serial: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: u64,
    pub(crate) mtime_nanoseconds: u32,
    pub(crate) nlink: u32,
}

impl RawInode {
    /// The extended form.
    pub(crate) fn encode(&self) -> [u8; INODE_BYTES] {
        let mut raw = [0; INODE_BYTES];
        raw[0..2].copy_from_slice(&(1 | self.layout << 1).to_le_bytes());
        raw[2..4].copy_from_slice(&self.xattr_icount.to_le_bytes());
        raw[4..6].copy_from_slice(&self.mode.to_le_bytes());
        raw[8..16].copy_from_slice(&self.size.to_le_bytes());
        raw[16..20].copy_from_slice(&self.union.to_le_bytes());
        raw[20..24].copy_from_slice(&self.serial.to_le_bytes());
        raw[24..28].copy_from_slice(&self.uid.to_le_bytes());
        raw[28..32].copy_from_slice(&self.gid.to_le_bytes());
        raw[32..40].copy_from_slice(&self.mtime.to_le_bytes());
        raw[40..44].copy_from_slice(&self.mtime_nanoseconds.to_le_bytes());
        raw[44..48].copy_from_slice(&self.nlink.to_le_bytes());
        raw
    }

    pub(crate) fn decode_extended(raw: &[u8; INODE_BYTES]) -> Self {
        Self {
            layout: u16_at(raw, 0) >> 1 & 7,
            xattr_icount: u16_at(raw, 2),
            mode: u16_at(raw, 4),
            size: u64_at(raw, 8),
            union: u32_at(raw, 16),
            serial: u32_at(raw, 20),
            uid: u32_at(raw, 24),
            gid: u32_at(raw, 28),
            mtime: u64_at(raw, 32),
            mtime_nanoseconds: u32_at(raw, 40),
            nlink: u32_at(raw, 44),
        }
    }

    /// The compact form has no time of its own: it gets the image's.
    pub(crate) fn decode_compact(raw: &[u8; INODE_BYTES / 2], superblock: &Superblock) -> Self {
        Self {
            layout: u16_at(raw, 0) >> 1 & 7,
            xattr_icount: u16_at(raw, 2),
            mode: u16_at(raw, 4),
            nlink: u16_at(raw, 6).into(),
            size: u32_at(raw, 8).into(),
            union: u32_at(raw, 16),
            serial: u32_at(raw, 20),
            uid: u16_at(raw, 24).into(),
            gid: u16_at(raw, 26).into(),
            mtime: superblock.build_time,
            mtime_nanoseconds: superblock.build_time_nanoseconds,
        }
    }
}

/// A number in `bytes`; what lies beyond their end counts as zero.
fn at<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    std::array::from_fn(|i| bytes.get(offset + i).copied().unwrap_or(0))
}

pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(at(bytes, offset))
}

pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(at(bytes, offset))
}

pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(at(bytes, offset))
}

/// The device number as Linux's `new_encode_dev`; `None` if major has more than 12 bits or minor more than 20.
pub(crate) fn encode_device(major: u32, minor: u32) -> Option<u32> {
    (major < 1 << 12 && minor < 1 << 20).then_some(minor & 0xff | major << 8 | (minor & !0xff) << 12)
}

/// The inverse of [`encode_device`], as major and minor.
pub(crate) fn decode_device(device: u32) -> (u32, u32) {
    (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xfff00)
}

/// CRC-32C as the superblock wants it: initial value all ones, no final inversion. Bit by bit: 3 KiB per image.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_has_the_standard_check_value() {
        assert_eq!(!crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn devices_round_trip() {
        for (major, minor) in [(0, 0), (1, 3), (8, 300), (4095, 0xf_ffff), (259, 0x1_2345)] {
            assert_eq!(decode_device(encode_device(major, minor).unwrap()), (major, minor));
        }
        assert_eq!(encode_device(8, 300), Some(0x10_082c));
        assert_eq!(encode_device(4096, 0), None);
        assert_eq!(encode_device(0, 1 << 20), None);
    }

    #[test]
    fn structures_round_trip() {
        let inode = RawInode {
            layout: LAYOUT_INLINE,
            xattr_icount: 3,
            mode: 0o104_755,
            size: 5 << 32,
            union: 7,
            serial: 8,
            uid: 100_000,
            gid: 200_000,
            mtime: 1,
            mtime_nanoseconds: 2,
            nlink: 3,
        };
        assert_eq!(RawInode::decode_extended(&inode.encode()), inode);
        let superblock = Superblock { root_nid: 128, blocks: 9, uuid: [5; 16], ..Superblock::default() };
        assert_eq!(Superblock::decode(&superblock.encode()), Some(superblock));
        assert_eq!(Superblock::decode(&[0; SUPERBLOCK_BYTES]), None);
    }
}
