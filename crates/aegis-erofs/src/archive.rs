//! Reads tar archives: of version 7, ustar, GNU's and star's, PAX, with sparse files in all their forms.
//!
//! What is not said clearly is taken as Go's `archive/tar` takes it, by which all builders and engines of container images
//! read: an archive has the meaning that it has for them.
//!
//! Written here and not taken from the crate `tar`, for two reasons that matter with untrusted archives: that crate
//! splits PAX records at newlines (a capability or ACL with the byte 0x0a is lost, and a crafted value could pass as a
//! record), and it reads extension headers of any size into memory.

use std::io::{self, Read};

use serde::{Deserialize, Serialize};

use crate::limits::Limits;
use crate::spool::{Source, read_up_to};
use crate::tree::{Mtime, Xattrs};

mod error;
mod header;
pub(crate) mod pax;
mod sparse;

pub use error::ArchiveError;
use header::{BLOCK, Header};
use sparse::Piece;

/// PAX records besides path, target and attributes are a few numbers, comments, and the map of a sparse file.
const PAX_SLACK: usize = 1 << 20;

/// The kind of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// An entry of an archive, its extensions applied.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) kind: Kind,
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Mtime,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) size: u64,
    pub(crate) xattrs: Xattrs,
}

/// What extension headers say about the next entry.
#[derive(Debug, Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: Option<pax::Records>,
}

/// The entries of an archive, one after the other.
#[derive(Debug)]
pub(crate) struct Members<R> {
    reader: R,
    /// Unread bytes of the present entry in the archive.
    stored: u64,
    /// Padding after them.
    padding: u64,
    /// What is left of a file's contents, the next piece last.
    pieces: Vec<Piece>,
    max_name: usize,
    max_pax: usize,
}

impl<R: Read> Members<R> {
    pub(crate) fn new(reader: R, limits: &Limits) -> Self {
        // One byte more than a path may have, so that the tree can name the limit; and one for a final NUL.
        let max_name = limits.max_path_bytes.saturating_add(2);
        let max_pax =
            limits.max_xattr_bytes.saturating_add(max_name.saturating_mul(2)).saturating_add(PAX_SLACK);
        Self { reader, stored: 0, padding: 0, pieces: Vec::new(), max_name, max_pax }
    }

    /// The next entry; what is left of the contents of the previous one is skipped.
    pub(crate) fn next(&mut self) -> Result<Option<Member>, ArchiveError> {
        let mut extensions = Extensions::default();
        loop {
            if !self.skip_rest()? {
                return Ok(None);
            }
            // Of several extensions of one kind the last one counts, and one before the end counts for nothing.
            let Some(header) = self.header()? else { return Ok(None) };
            let size = header.number(124, 12, "size")?;
            match header.kind_byte() {
                kind @ (b'L' | b'K' | b'x' | b'g') => {
                    self.set_stored(size)?;
                    match kind {
                        b'L' => extensions.path = self.extension_name()?,
                        b'K' => extensions.link = self.extension_name()?,
                        b'x' => extensions.pax = Some(pax::Records::parse(&self.extension(self.max_pax)?)?),
                        // Meant for all entries: in practice a comment of `git archive`, and nobody heeds more.
                        _ => {}
                    }
                }
                _ => return self.member(&header, size, extensions).map(Some),
            }
        }
    }

    /// The contents of the present entry. Fewer bytes than its size mean a truncated archive.
    pub(crate) fn contents(&mut self) -> Contents<'_, R> {
        Contents(self)
    }

    fn member(
        &mut self,
        header: &Header,
        size: i128,
        extensions: Extensions,
    ) -> Result<Member, ArchiveError> {
        let mut pax = extensions.pax.unwrap_or_default();
        let path = extensions.path.or(pax.path.take()).unwrap_or_else(|| header.path());
        let kind = match header.kind_byte() {
            // Archives from before ustar mark a directory by its final slash.
            0 if path.ends_with(b"/") => Kind::Directory,
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => {
                // Whoever goes on skips its contents.
                self.set_stored(size)?;
                let path = path.escape_ascii().to_string();
                return Err(ArchiveError::UnsupportedType { path, kind: other.into() });
            }
        };
        // What has no contents is followed by none, whatever size it gives.
        let size = if kind == Kind::File { pax.size.map_or(size, i128::from) } else { 0 };
        self.set_stored(size)?;
        let sparse = if kind == Kind::File { self.sparse(header, &pax)? } else { None };
        let (path, size) = match sparse {
            None => (path, self.stored),
            Some(map) => {
                let path = map.name.unwrap_or(path);
                let refused = || ArchiveError::Sparse(path.escape_ascii().to_string());
                self.pieces = sparse::pieces(&map.data, map.size, self.stored).ok_or_else(refused)?;
                (path, map.size)
            }
        };
        let device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
        Ok(Member {
            kind,
            mode: header.mode()?,
            uid: header.id(pax.uid, 108, "uid")?,
            gid: header.id(pax.gid, 116, "gid")?,
            mtime: pax.mtime.map_or_else(|| header.mtime(), Ok)?,
            major: if device { header.device(329, "devmajor")? } else { 0 },
            minor: if device { header.device(337, "devminor")? } else { 0 },
            link: extensions.link.or(pax.link).unwrap_or_else(|| header.text(157, 100).to_vec()),
            size,
            xattrs: pax.xattrs,
            path,
        })
    }

    /// The map of a file that is stored without its holes.
    fn sparse(&mut self, header: &Header, pax: &pax::Records) -> Result<Option<sparse::Map>, ArchiveError> {
        if header.kind_byte() == b'S' {
            return Ok(Some(sparse::Map::of_header(header, &mut self.reader)?));
        }
        let Some(form) = pax.sparse.form() else { return Ok(None) };
        let map = match form {
            pax::SparseForm::InRecords => pax.sparse.map()?,
            pax::SparseForm::InContents => {
                let mut contents = (&mut self.reader).take(self.stored);
                let map = sparse::read_map(&mut contents)?;
                self.stored = contents.limit();
                map
            }
        };
        Ok(Some(sparse::Map {
            data: map,
            size: pax.sparse.size.unwrap_or(self.stored),
            name: pax.sparse.name(),
        }))
    }

    fn set_stored(&mut self, size: i128) -> Result<(), ArchiveError> {
        self.stored = u64::try_from(size).map_err(|_| ArchiveError::Field("size"))?;
        self.padding = self.stored.wrapping_neg() % BLOCK as u64;
        self.pieces = vec![Piece::Data(self.stored)];
        Ok(())
    }

    /// Whether anything can follow: the padding of the last entry may be missing.
    fn skip_rest(&mut self) -> Result<bool, ArchiveError> {
        let skip = |reader: &mut R, count| io::copy(&mut reader.take(count), &mut io::sink());
        let (stored, padding) = (std::mem::take(&mut self.stored), std::mem::take(&mut self.padding));
        self.pieces.clear();
        if skip(&mut self.reader, stored)? < stored {
            return Err(ArchiveError::Truncated);
        }
        Ok(skip(&mut self.reader, padding)? == padding)
    }

    /// The next header; `None` at the end mark, or at the end of input at the place of a header.
    fn header(&mut self) -> Result<Option<Header>, ArchiveError> {
        let mut block = [0; BLOCK];
        match read_up_to(&mut self.reader, &mut block)? {
            0 => return Ok(None),
            BLOCK => {}
            _ => return Err(ArchiveError::Truncated),
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let header = Header(block);
        if header.checksum_fits()? { Ok(Some(header)) } else { Err(ArchiveError::Checksum) }
    }

    /// The contents of an extension header.
    fn extension(&mut self, limit: usize) -> Result<Vec<u8>, ArchiveError> {
        if self.stored > limit as u64 {
            return Err(ArchiveError::ExtensionTooLarge(limit));
        }
        let expected = self.stored;
        let mut data = Vec::new();
        self.contents().read_to_end(&mut data)?;
        if data.len() as u64 == expected { Ok(data) } else { Err(ArchiveError::Truncated) }
    }

    /// A name up to its first NUL; none takes nothing's place.
    fn extension_name(&mut self) -> Result<Option<Vec<u8>>, ArchiveError> {
        let mut name = self.extension(self.max_name)?;
        name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
        Ok(Some(name).filter(|name| !name.is_empty()))
    }
}

/// Reads the contents of the present entry.
pub(crate) struct Contents<'m, R>(&'m mut Members<R>);

impl<R: Read> Read for Contents<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let members = &mut *self.0;
        while let Some(piece) = members.pieces.last_mut() {
            let count = match piece {
                Piece::Data(0) | Piece::Hole(0) => {
                    members.pieces.pop();
                    continue;
                }
                Piece::Data(left) => {
                    let count = (&mut members.reader).take(*left).read(buf)?;
                    *left -= count as u64;
                    members.stored -= count as u64;
                    count
                }
                Piece::Hole(left) => {
                    let count = buf.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    buf.get_mut(..count).unwrap_or_default().fill(0);
                    *left -= count as u64;
                    count
                }
            };
            return Ok(count);
        }
        Ok(0)
    }
}

impl<R: Read> Source for Contents<'_, R> {
    fn skip_hole(&mut self) -> u64 {
        let mut skipped = 0;
        while let Some(piece) = self.0.pieces.last() {
            match piece {
                Piece::Hole(left) => skipped += left,
                Piece::Data(0) => {}
                Piece::Data(_) => break,
            }
            self.0.pieces.pop();
        }
        skipped
    }
}
