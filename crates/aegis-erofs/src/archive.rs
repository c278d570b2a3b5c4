//! Reads tar archives: ustar, GNU long names and numbers, PAX.
//!
//! Written here and not taken from the crate `tar`, for two reasons that matter with untrusted archives: that crate
//! splits PAX records at newlines (a capability or ACL with the byte 0x0a is lost, and a crafted value could pass as a
//! record), and it reads extension headers of any size into memory.

use std::io::{self, Read};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limits::Limits;
use crate::spool::read_up_to;
use crate::tree::{Mtime, Xattrs};

pub(crate) mod pax;

const BLOCK: usize = 512;
/// PAX records besides path, target and attributes are a few numbers.
const PAX_SLACK: usize = 64 * 1024;

/// Why an archive cannot be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The input ends within an entry.
    #[error("the archive is truncated")]
    Truncated,
    /// The checksum of a header does not fit: no tar archive, or a damaged one.
    #[error("the checksum of a tar header is wrong")]
    Checksum,
    /// A header has a field with no valid value; the text names it.
    #[error("the field {0} of a tar header is not valid")]
    Field(&'static str),
    /// A PAX extended header does not follow its grammar.
    #[error("a PAX header is malformed")]
    Pax,
    /// Two extension headers of one kind before one entry, or one before none.
    #[error("an extension header is repeated or describes no entry")]
    StrayExtension,
    /// An extension header is larger than any path or attribute may be.
    #[error("an extension header has more than {0} bytes")]
    ExtensionTooLarge(usize),
    /// A kind of entry that has no place in an image, by its tar type.
    #[error("{path:?} has the unsupported type {kind:?}")]
    UnsupportedType {
        /// Path of the entry.
        path: String,
        /// The type byte.
        kind: char,
    },
    /// A sparse file in one of the GNU forms.
    #[error("{0:?} is stored as a sparse file")]
    Sparse(String),
    /// The input cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

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
    /// Unread contents of the present entry.
    contents: u64,
    /// Padding after them.
    padding: u64,
    max_name: usize,
    max_pax: usize,
}

impl<R: Read> Members<R> {
    pub(crate) fn new(reader: R, limits: &Limits) -> Self {
        // One byte more than a path may have, so that the tree can name the limit; and one for a final NUL.
        let max_name = limits.max_path_bytes.saturating_add(2);
        let max_pax =
            limits.max_xattr_bytes.saturating_add(max_name.saturating_mul(2)).saturating_add(PAX_SLACK);
        Self { reader, contents: 0, padding: 0, max_name, max_pax }
    }

    /// The next entry; what is left of the contents of the previous one is skipped.
    pub(crate) fn next(&mut self) -> Result<Option<Member>, ArchiveError> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_rest()?;
            let Some(header) = self.header()? else {
                let stray =
                    extensions.path.is_some() || extensions.link.is_some() || extensions.pax.is_some();
                return if stray { Err(ArchiveError::StrayExtension) } else { Ok(None) };
            };
            self.set_size(header.number(124, 12, "size")?)?;
            match header.kind_byte() {
                b'L' => put_once(&mut extensions.path, self.extension_name()?)?,
                b'K' => put_once(&mut extensions.link, self.extension_name()?)?,
                b'x' => put_once(&mut extensions.pax, pax::Records::parse(&self.extension(self.max_pax)?)?)?,
                // Defaults for all entries: in practice a comment of `git archive`.
                b'g' => {}
                _ => return self.member(&header, extensions).map(Some),
            }
        }
    }

    /// The contents of the present entry. Fewer bytes than its size mean a truncated archive.
    pub(crate) fn contents(&mut self) -> Contents<'_, R> {
        Contents(self)
    }

    fn member(&mut self, header: &Header, extensions: Extensions) -> Result<Member, ArchiveError> {
        let pax = extensions.pax.unwrap_or_default();
        let path = extensions.path.or(pax.path).unwrap_or_else(|| header.path());
        let shown = || path.escape_ascii().to_string();
        let kind = match header.kind_byte() {
            // Archives from before ustar mark a directory by its final slash.
            b'0' | 0 if path.ends_with(b"/") => Kind::Directory,
            b'0' | 0 | b'7' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'S' => return Err(ArchiveError::Sparse(shown())),
            other => return Err(ArchiveError::UnsupportedType { path: shown(), kind: other.into() }),
        };
        if pax.sparse {
            return Err(ArchiveError::Sparse(shown()));
        }
        if let Some(size) = pax.size {
            self.set_size(i128::from(size))?;
        }
        if kind != Kind::File && self.contents != 0 {
            // Readers of tar disagree on whether contents follow here: such an archive has two meanings.
            return Err(ArchiveError::Field("size"));
        }
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
            size: self.contents,
            xattrs: pax.xattrs,
            path,
        })
    }

    fn set_size(&mut self, size: i128) -> Result<(), ArchiveError> {
        self.contents = u64::try_from(size).map_err(|_| ArchiveError::Field("size"))?;
        self.padding = self.contents.wrapping_neg() % BLOCK as u64;
        Ok(())
    }

    fn skip_rest(&mut self) -> Result<(), ArchiveError> {
        let rest = self.contents.checked_add(self.padding).ok_or(ArchiveError::Field("size"))?;
        let skipped = io::copy(&mut (&mut self.reader).take(rest), &mut io::sink())?;
        (self.contents, self.padding) = (0, 0);
        if skipped == rest { Ok(()) } else { Err(ArchiveError::Truncated) }
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
        if self.contents > limit as u64 {
            return Err(ArchiveError::ExtensionTooLarge(limit));
        }
        let expected = self.contents;
        let mut data = Vec::new();
        self.contents().read_to_end(&mut data)?;
        if data.len() as u64 == expected { Ok(data) } else { Err(ArchiveError::Truncated) }
    }

    fn extension_name(&mut self) -> Result<Vec<u8>, ArchiveError> {
        let mut name = self.extension(self.max_name)?;
        if name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }
}

fn put_once<T>(slot: &mut Option<T>, value: T) -> Result<(), ArchiveError> {
    if slot.replace(value).is_some() { Err(ArchiveError::StrayExtension) } else { Ok(()) }
}

/// Reads the contents of the present entry.
pub(crate) struct Contents<'m, R>(&'m mut Members<R>);

impl<R: Read> Read for Contents<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let members = &mut *self.0;
        let count = (&mut members.reader).take(members.contents).read(buf)?;
        members.contents -= count as u64;
        Ok(count)
    }
}

/// A header block.
#[derive(Debug)]
struct Header([u8; BLOCK]);

impl Header {
    fn field(&self, offset: usize, len: usize) -> &[u8] {
        self.0.get(offset..offset + len).unwrap_or_default()
    }

    /// A field up to its first NUL.
    fn text(&self, offset: usize, len: usize) -> &[u8] {
        let field = self.field(offset, len);
        field.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    fn kind_byte(&self) -> u8 {
        self.0[156]
    }

    fn path(&self) -> Vec<u8> {
        let name = self.text(0, 100);
        // GNU's magic has a space in place of the NUL, and no prefix.
        let prefix = if self.field(257, 6) == b"ustar\0" { self.text(345, 155) } else { &[] };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    fn number(&self, offset: usize, len: usize, name: &'static str) -> Result<i128, ArchiveError> {
        parse_number(self.field(offset, len)).ok_or(ArchiveError::Field(name))
    }

    /// Permission bits; some writers put the file type above them.
    fn mode(&self) -> Result<u16, ArchiveError> {
        let mode = self.number(100, 8, "mode")? & 0o7777;
        u16::try_from(mode).map_err(|_| ArchiveError::Field("mode"))
    }

    fn id(&self, pax: Option<u64>, offset: usize, name: &'static str) -> Result<u32, ArchiveError> {
        let id = pax.map_or_else(|| self.number(offset, 8, name), |id| Ok(id.into()))?;
        u32::try_from(id).map_err(|_| ArchiveError::Field(name))
    }

    fn device(&self, offset: usize, name: &'static str) -> Result<u32, ArchiveError> {
        u32::try_from(self.number(offset, 8, name)?).map_err(|_| ArchiveError::Field(name))
    }

    fn mtime(&self) -> Result<Mtime, ArchiveError> {
        let seconds =
            i64::try_from(self.number(136, 12, "mtime")?).map_err(|_| ArchiveError::Field("mtime"))?;
        Ok(Mtime { seconds, nanoseconds: 0 })
    }

    /// The sum of all bytes, the checksum itself counted as spaces; some old writers added signed bytes.
    fn checksum_fits(&self) -> Result<bool, ArchiveError> {
        let expected = self.number(148, 8, "checksum")?;
        let others = || self.0[..148].iter().chain(&self.0[156..]);
        let unsigned: i128 = others().map(|byte| i128::from(*byte)).sum();
        let signed: i128 = others().map(|byte| i128::from(byte.cast_signed())).sum();
        let spaces = 8 * i128::from(b' ');
        Ok(expected == unsigned + spaces || expected == signed + spaces)
    }
}

/// Octal digits between spaces and NULs, nothing at all for zero; or, with the first bit set, GNU's base 256, which
/// can be negative.
fn parse_number(field: &[u8]) -> Option<i128> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        let start = i128::from(first & 0x3f) - i128::from(first & 0x40);
        // Eleven bytes at most: no overflow.
        return Some(rest.iter().fold(start, |value, byte| value << 8 | i128::from(*byte)));
    }
    let blank = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !blank(byte)).unwrap_or(field.len());
    let digits = field.get(start..)?;
    let end = digits.iter().position(blank).unwrap_or(digits.len());
    let (digits, after) = digits.split_at_checked(end)?;
    if !after.iter().all(blank) {
        return None;
    }
    digits.iter().try_fold(0, |value, digit| match digit {
        b'0'..=b'7' => Some(value << 3 | i128::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(parse_number(b"0000755\0"), Some(0o755));
        assert_eq!(parse_number(b"   755 \0"), Some(0o755));
        assert_eq!(parse_number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(parse_number(b"77777777"), Some(0o77_777_777));
        assert_eq!(parse_number(b"\x80\0\0\0\0\0\x01\0"), Some(256));
        assert_eq!(parse_number(b"\xff\xff\xff\xff\xff\xff\xff\xfe"), Some(-2));
        for bad in [&b"755x"[..], b"7 5\0", b"8", b"-1\0", b"+7"] {
            assert_eq!(parse_number(bad), None, "{}", bad.escape_ascii());
        }
    }
}
