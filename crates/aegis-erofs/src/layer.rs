//! One layer of a container image: read once, used by every image that has it.
//!
//! A layer becomes two things. Its *data* has the contents of its larger files, each from a block boundary on. Its
//! *index*, this module's [`Layer`], has everything else: what the archive says, entry by entry. An image is then the
//! indices of its layers, [stacked](Layer::stack) into a tree, and its disk is the metadata that
//! [`write_over`](crate::write_over) makes of the tree, followed by the data of all layers as they are. So layers are
//! shared between images, on disk and in the host's page cache.

use std::fs::File;
use std::io::Read;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::archive::{ArchiveError, Kind, Member, Members};
use crate::error::TreeError;
use crate::format::BLOCK;
use crate::ingest::{self, IngestError, IngestReport, Refusal, Whiteouts};
use crate::limits::{Limits, Meter};
use crate::spool::{Extent, Spool};
use crate::tree::{FileTree, components};

/// Contents up to this size are in the index: they end up beside their inodes, in a block with others.
const SMALL: u64 = 2048;
/// First bytes of an encoded index; the last one is the version.
const MAGIC: &[u8; 8] = b"AEGISLY\x01";

/// Why bytes are no index of a layer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LayerError {
    /// Another format, or another version of it.
    #[error("not a layer index of this version")]
    Version,
    /// They are damaged.
    #[error("the layer index is damaged")]
    Damaged,
}

#[derive(Debug, Serialize, Deserialize)]
enum Contents {
    None,
    Small(Vec<u8>),
    Blocks { first: u32, len: u64 },
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    member: Member,
    contents: Contents,
}

/// What an archive says, without the contents of its larger files.
#[derive(Debug, Serialize, Deserialize)]
pub struct Layer {
    entries: Vec<Entry>,
    blocks: u32,
}

impl Layer {
    /// Reads an uncompressed tar archive up to its end mark, and writes the contents of its larger files to `data`, an
    /// empty file, which then has [`blocks`](Layer::blocks) blocks. It is not synced.
    ///
    /// # Errors
    /// When the archive is malformed, a limit is exceeded, or on failing input or output.
    pub fn read<R: Read>(archive: R, data: File, limits: &Limits) -> Result<Layer, IngestError> {
        let mut members = Members::new(archive, limits);
        let mut reader = Reader { limits, meter: Meter::default(), spool: Spool::over(data), small_bytes: 0 };
        let mut entries = Vec::new();
        while let Some(member) = members.next()? {
            let contents = reader.entry(&member, &mut members);
            let contents = contents.map_err(|refusal| refusal.at(&member.path))?;
            entries.push(Entry { member, contents });
        }
        let blocks = reader.spool.fill_block().map_err(ArchiveError::Io)?;
        Ok(Layer { entries, blocks })
    }

    /// Size of the layer's data.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    /// The index as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let body = postcard::to_allocvec(self).unwrap_or_default();
        [MAGIC.as_slice(), &crc32fast::hash(&body).to_le_bytes(), &body].concat()
    }

    /// The index from its bytes.
    ///
    /// # Errors
    /// [`LayerError`]; never panics, whatever the bytes are.
    pub fn decode(bytes: &[u8]) -> Result<Layer, LayerError> {
        let rest = bytes.strip_prefix(MAGIC.as_slice()).ok_or(LayerError::Version)?;
        let (sum, body) = rest.split_first_chunk::<4>().ok_or(LayerError::Damaged)?;
        if crc32fast::hash(body) != u32::from_le_bytes(*sum) {
            return Err(LayerError::Damaged);
        }
        Layer::decode_body(body)
    }

    pub(crate) fn decode_body(body: &[u8]) -> Result<Layer, LayerError> {
        let layer: Layer = postcard::from_bytes(body).map_err(|_| LayerError::Damaged)?;
        let within = |entry: &Entry| match &entry.contents {
            Contents::Blocks { first, len } => u64::from(*first)
                .checked_add(len.div_ceil(BLOCK))
                .is_some_and(|end| end <= u64::from(layer.blocks)),
            Contents::None | Contents::Small(_) => true,
        };
        if layer.entries.iter().all(within) { Ok(layer) } else { Err(LayerError::Damaged) }
    }

    /// Puts the layer over what is in `tree`, with its deletion marks applied. `number` says which of the image's
    /// layers it is: 0 for the lowest.
    ///
    /// # Errors
    /// When an entry is not acceptable or a limit is exceeded.
    pub fn stack(self, tree: &mut FileTree, number: u32) -> Result<IngestReport, IngestError> {
        tree.begin_layer();
        let mut report = IngestReport::default();
        for Entry { member, contents } in self.entries {
            ingest::put(tree, member, Whiteouts::Apply, &mut report, |tree| {
                Ok(match contents {
                    Contents::None => Extent::EMPTY,
                    Contents::Small(bytes) => tree.spool_contents(&mut bytes.as_slice())?,
                    Contents::Blocks { first, len } => {
                        tree.count_contents(Extent::in_layer(number, first, len))?
                    }
                })
            })?;
        }
        Ok(report)
    }
}

/// What reading a layer keeps count of.
struct Reader<'l> {
    limits: &'l Limits,
    meter: Meter,
    spool: Spool,
    small_bytes: u64,
}

impl Reader<'_> {
    fn entry<R: Read>(&mut self, member: &Member, members: &mut Members<R>) -> Result<Contents, Refusal> {
        // What cannot be in any tree is refused before anything of the layer is kept.
        components(self.limits, &member.path)?;
        if member.kind == Kind::HardLink {
            components(self.limits, &member.link)?;
        }
        let contents =
            if member.kind == Kind::File { self.contents(member.size, members)? } else { Contents::None };
        let small = if let Contents::Small(bytes) = &contents { bytes.len() } else { 0 };
        self.meter.charge(self.limits, &member.xattrs, member.path.len() + member.link.len() + small)?;
        Ok(contents)
    }

    fn contents<R: Read>(&mut self, size: u64, members: &mut Members<R>) -> Result<Contents, Refusal> {
        let limit = self.limits.max_data_bytes;
        if size > limit.saturating_sub(self.spool.len() + self.small_bytes) {
            return Err(TreeError::Limit { what: "bytes of file contents", limit }.into());
        }
        let (contents, len) = if size <= SMALL {
            let mut bytes = Vec::new();
            members.contents().read_to_end(&mut bytes).map_err(ArchiveError::Io)?;
            self.small_bytes += bytes.len() as u64;
            let len = bytes.len() as u64;
            (Contents::Small(bytes), len)
        } else {
            let first = self.spool.fill_block().map_err(ArchiveError::Io)?;
            let extent = self.spool.append(&mut members.contents()).map_err(ArchiveError::Io)?;
            (Contents::Blocks { first, len: extent.len() }, extent.len())
        };
        if len == size { Ok(contents) } else { Err(ArchiveError::Truncated.into()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_are_no_index_and_never_panic(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            drop(Layer::decode(&body));
            drop(Layer::decode_body(&body));
        }
    }
}
