//! What an archive may at most ask for.

use crate::error::TreeError;
use crate::tree::Xattrs;

/// What an archive may at most ask for. The first excess is an error.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Entries put into the tree, including those that a later one replaced.
    pub max_entries: u64,
    /// Contents of all regular files together.
    pub max_data_bytes: u64,
    /// Names, symlink targets and extended attributes together: what is kept in memory.
    pub max_metadata_bytes: u64,
    /// One path.
    pub max_path_bytes: usize,
    /// Components of one path.
    pub max_depth: usize,
    /// Names and values of the extended attributes of one entry.
    pub max_xattr_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_entries: 2_000_000,
            max_data_bytes: 64 << 30,
            max_metadata_bytes: 256 << 20,
            max_path_bytes: 4096,
            max_depth: 256,
            max_xattr_bytes: 64 << 10,
        }
    }
}

/// Counts entries and their memory against [`Limits`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Meter {
    entries: u64,
    metadata_bytes: u64,
}

impl Meter {
    /// Counts one entry, with its attributes and so many other bytes in memory.
    pub(crate) fn charge(&mut self, limits: &Limits, xattrs: &Xattrs, other: usize) -> Result<(), TreeError> {
        let over = |what, limit| Err(TreeError::Limit { what, limit });
        let xattr_bytes: usize = xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        if xattr_bytes > limits.max_xattr_bytes {
            return over("bytes of extended attributes", limits.max_xattr_bytes as u64);
        }
        self.entries += 1;
        if self.entries > limits.max_entries {
            return over("entries", limits.max_entries);
        }
        self.metadata_bytes += (xattr_bytes + other) as u64;
        if self.metadata_bytes > limits.max_metadata_bytes {
            return over("bytes of metadata", limits.max_metadata_bytes);
        }
        Ok(())
    }
}
