//! Answers of the kernel's FUSE protocol (`include/uapi/linux/fuse.h`), written into a buffer.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;

use crate::fuse_request::{Features, MOST_DATA, MOST_NAME};

/// Length of an answer's header, bytes (`fuse_out_header`).
pub const OUT_HEADER: usize = 16;

/// The version of the protocol that is spoken.
const MAJOR: u32 = 7;
const MINOR: u32 = 31;

/// Attributes of a node, as the guest sees them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Inode number.
    pub inode: u64,
    /// Size, bytes.
    pub size: u64,
    /// What it takes, units of 512 bytes.
    pub blocks: u64,
    /// Last access: seconds since 1970, nanoseconds.
    pub accessed: (i64, u32),
    /// Last change of the contents.
    pub modified: (i64, u32),
    /// Last change of the node.
    pub changed: (i64, u32),
    /// Type and permissions.
    pub mode: u32,
    /// Number of names.
    pub links: u32,
    /// Owner in the guest.
    pub owner: Owner,
}

/// Whom the guest sees as owner of all files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// For how long the guest's kernel may believe an answer, nanoseconds: what others change is seen within it.
pub const VALID_NS: u32 = 800_000_000;
/// Preferred size of reads and writes, bytes.
const BLOCK: u32 = 4096;

/// An answer's body.
#[derive(Debug)]
pub struct Reply<'a>(pub &'a mut Vec<u8>);

impl Reply<'_> {
    fn u16(&mut self, value: u16) {
        self.0.extend(value.to_ne_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.0.extend(value.to_ne_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend(value.to_ne_bytes());
    }

    /// `fuse_init_out`.
    pub fn init(&mut self, readahead: u32, features: Features) {
        self.u32(MAJOR);
        self.u32(MINOR);
        self.u32(readahead);
        self.u32(features.bits());
        // Requests in the background, and how many of them are many.
        self.u16(32);
        self.u16(24);
        self.u32(MOST_DATA);
        // Times have nanoseconds.
        self.u32(1);
        self.u16(u16::try_from(MOST_DATA / 4096).unwrap_or(1));
        self.0.extend([0; 34]);
    }

    /// `fuse_attr_out`.
    pub fn attributes(&mut self, attributes: &Attributes) {
        self.u64(0);
        self.u32(VALID_NS);
        self.u32(0);
        self.raw_attributes(attributes);
    }

    fn raw_attributes(&mut self, of: &Attributes) {
        self.u64(of.inode);
        self.u64(of.size);
        self.u64(of.blocks);
        for (seconds, _) in [of.accessed, of.modified, of.changed] {
            self.u64(seconds.cast_unsigned());
        }
        for (_, nanoseconds) in [of.accessed, of.modified, of.changed] {
            self.u32(nanoseconds);
        }
        for value in [of.mode, of.links, of.owner.uid, of.owner.gid, 0, BLOCK, 0] {
            self.u32(value);
        }
    }

    /// `fuse_entry_out`; node 0 with default attributes: nothing of that name, which is believed for a while too.
    pub fn entry(&mut self, node: u64, attributes: &Attributes) {
        self.u64(node);
        self.u64(0);
        self.u64(0);
        self.u64(0);
        self.u32(VALID_NS);
        self.u32(VALID_NS);
        self.raw_attributes(attributes);
    }

    /// `fuse_open_out` for a file that need not be closed.
    pub fn opened(&mut self) {
        /// `FOPEN_KEEP_CACHE`.
        const KEEP_CACHE: u32 = 1 << 1;
        self.u64(0);
        self.u32(KEEP_CACHE);
        self.u32(0);
    }

    /// `fuse_write_out`.
    pub fn written(&mut self, bytes: u32) {
        self.u32(bytes);
        self.u32(0);
    }

    /// `fuse_lseek_out`.
    pub fn found(&mut self, offset: u64) {
        self.u64(offset);
    }

    /// `fuse_statfs_out`.
    pub fn statistics(&mut self, of: &Statistics) {
        for value in [of.blocks, of.free, of.available, of.files, of.free_files] {
            self.u64(value);
        }
        for value in [of.block_size, u32::try_from(MOST_NAME).unwrap_or(255), of.block_size] {
            self.u32(value);
        }
        self.0.extend([0; 28]);
    }

    /// A name in a listing (`fuse_dirent`). Whoever calls has asked [`entry_len`] whether there is room.
    pub fn name(&mut self, inode: u64, offset: u64, kind: u32, name: &OsStr) {
        self.u64(inode);
        self.u64(offset);
        self.u32(u32::try_from(name.len()).unwrap_or(0));
        self.u32(kind);
        self.0.extend(name.as_bytes());
        self.0.resize(self.0.len() + padding(name.len()), 0);
    }
}

/// Length of `fuse_dirent` without the name, and of `fuse_entry_out`.
const DIRENT: usize = 24;
const ENTRY: usize = 128;

fn padding(len: usize) -> usize {
    len.next_multiple_of(8) - len
}

/// What a name takes in a listing, bytes.
#[must_use]
pub fn entry_len(name: &OsStr, attributes: bool) -> usize {
    DIRENT + name.len() + padding(name.len()) + if attributes { ENTRY } else { 0 }
}

/// How full a file system is, in blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of statvfs")]
pub struct Statistics {
    pub blocks: u64,
    pub free: u64,
    pub available: u64,
    pub files: u64,
    pub free_files: u64,
    pub block_size: u32,
}

/// Writes an answer's header (`fuse_out_header`) into `header`: that of a success with `len` bytes of body, or of an
/// error, which has none.
pub fn seal(header: &mut [u8], unique: u64, outcome: Result<usize, Errno>) {
    let (len, error) = match outcome {
        Ok(len) => (OUT_HEADER + len, 0),
        Err(error) => (OUT_HEADER, -error.raw_os_error()),
    };
    let fields =
        [&u32::try_from(len).unwrap_or(0).to_ne_bytes()[..], &error.to_ne_bytes(), &unique.to_ne_bytes()];
    for (to, from) in header.iter_mut().zip(fields.concat()) {
        *to = from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_listing_takes_what_was_foretold(name in "[a-z]{1,255}") {
            let mut buffer = Vec::new();
            Reply(&mut buffer).name(1, 2, 8, OsStr::new(&name));
            prop_assert_eq!(buffer.len(), entry_len(OsStr::new(&name), false));
        }
    }

    #[test]
    fn answers_have_the_sizes_that_the_kernel_checks() {
        let len = |write: &dyn Fn(&mut Reply<'_>)| {
            let mut buffer = Vec::new();
            write(&mut Reply(&mut buffer));
            buffer.len()
        };
        let attributes = Attributes::default();
        let statistics =
            Statistics { blocks: 0, free: 0, available: 0, files: 0, free_files: 0, block_size: 4096 };
        assert_eq!(len(&|reply| reply.init(0, Features::all())), 64);
        assert_eq!(len(&|reply| reply.attributes(&attributes)), 104);
        assert_eq!(len(&|reply| reply.entry(1, &attributes)), ENTRY);
        assert_eq!(len(&|reply| reply.opened()), 16);
        assert_eq!(len(&|reply| reply.written(1)), 8);
        assert_eq!(len(&|reply| reply.found(1)), 8);
        assert_eq!(len(&|reply| reply.statistics(&statistics)), 80);
    }
}
