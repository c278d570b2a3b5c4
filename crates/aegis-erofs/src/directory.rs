//! The data of a directory: see "Directories" in [`crate::format`].

use crate::format::{BLOCK, BLOCK_BYTES, DIRENT_BYTES};

/// File types of directory entries.
pub(crate) const TYPE_REGULAR: u8 = 1;
pub(crate) const TYPE_DIRECTORY: u8 = 2;
pub(crate) const TYPE_CHAR_DEVICE: u8 = 3;
pub(crate) const TYPE_BLOCK_DEVICE: u8 = 4;
pub(crate) const TYPE_FIFO: u8 = 5;
pub(crate) const TYPE_SYMLINK: u8 = 7;

/// An entry to write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dirent<'n> {
    pub(crate) name: &'n [u8],
    pub(crate) nid: u64,
    pub(crate) file_type: u8,
}

/// The size of a directory with these names, in order, including `.` and `..`.
pub(crate) fn size<'n>(names: impl Iterator<Item = &'n [u8]>) -> u64 {
    let mut full_blocks = 0;
    let mut used = 0;
    for name in names {
        let needed = DIRENT_BYTES + name.len();
        if used + needed > BLOCK_BYTES {
            full_blocks += 1;
            used = 0;
        }
        used += needed;
    }
    full_blocks * BLOCK + used as u64
}

/// The data of a directory; `entries` are in order and include `.` and `..`.
pub(crate) fn encode(entries: &[Dirent<'_>]) -> Vec<u8> {
    let mut data = Vec::new();
    let mut rest = entries;
    while !rest.is_empty() {
        // Only a block that another one follows is padded.
        data.resize(data.len().next_multiple_of(BLOCK_BYTES), 0);
        let (block, after) = rest.split_at(fitting(rest));
        encode_block(block, &mut data);
        rest = after;
    }
    data
}

/// How many of the first entries fit into a block: at least one, a name has 255 bytes at most.
fn fitting(entries: &[Dirent<'_>]) -> usize {
    let mut used = 0;
    let more = entries.iter().take_while(|entry| {
        used += DIRENT_BYTES + entry.name.len();
        used <= BLOCK_BYTES
    });
    more.count().max(1)
}

fn encode_block(entries: &[Dirent<'_>], data: &mut Vec<u8>) {
    let mut name_offset = entries.len() * DIRENT_BYTES;
    for entry in entries {
        data.extend(entry.nid.to_le_bytes());
        // Below the size of a block.
        data.extend(u16::try_from(name_offset).unwrap_or(u16::MAX).to_le_bytes());
        data.extend([entry.file_type, 0]);
        name_offset += entry.name.len();
    }
    for entry in entries {
        data.extend(entry.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_is_the_size_of_the_data() {
        for count in [2usize, 3, 50, 200, 1000, 5000] {
            let names: Vec<String> =
                (0..count).map(|i| format!("{i:0width$}", width = 5 + i % 200)).collect();
            let entries: Vec<Dirent<'_>> = names
                .iter()
                .map(|n| Dirent { name: n.as_bytes(), nid: 7, file_type: TYPE_REGULAR })
                .collect();
            let data = encode(&entries);
            assert_eq!(data.len() as u64, size(names.iter().map(|n| n.as_bytes())), "{count}");
        }
    }

    #[test]
    fn an_exactly_full_block_is_not_followed_by_another() {
        let names = vec![vec![b'x'; 244]; 16];
        assert_eq!(size(names.iter().map(Vec::as_slice)), BLOCK);
    }
}
