//! The header blocks of tar archives, in the forms that there are: of Unix version 7, ustar, GNU's and star's.

use super::ArchiveError;
use crate::tree::Mtime;

pub(super) const BLOCK: usize = 512;
/// Where star, whose prefix of names is shorter, says that it wrote a header.
const STAR_TRAILER: (usize, &[u8]) = (508, b"tar\0");

/// Which fields a header has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    V7,
    Ustar,
    Star,
    Gnu,
}

/// A header block.
#[derive(Debug)]
pub(super) struct Header(pub(super) [u8; BLOCK]);

impl Header {
    pub(super) fn field(&self, offset: usize, len: usize) -> &[u8] {
        self.0.get(offset..offset + len).unwrap_or_default()
    }

    /// A field up to its first NUL.
    pub(super) fn text(&self, offset: usize, len: usize) -> &[u8] {
        let field = self.field(offset, len);
        field.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    fn form(&self) -> Form {
        let (trailer, star) = STAR_TRAILER;
        match self.field(257, 6) {
            b"ustar\0" if self.field(trailer, star.len()) == star => Form::Star,
            b"ustar\0" => Form::Ustar,
            b"ustar " => Form::Gnu,
            _ => Form::V7,
        }
    }

    /// Whether GNU's tar wrote it.
    pub(super) fn is_gnu(&self) -> bool {
        self.form() == Form::Gnu
    }

    pub(super) fn kind_byte(&self) -> u8 {
        self.0[156]
    }

    pub(super) fn path(&self) -> Vec<u8> {
        let name = self.text(0, 100);
        let prefix = match self.form() {
            Form::V7 | Form::Gnu => &[],
            Form::Ustar => self.text(345, 155),
            Form::Star => self.text(345, 131),
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(super) fn number(&self, offset: usize, len: usize, name: &'static str) -> Result<i128, ArchiveError> {
        parse_number(self.field(offset, len)).ok_or(ArchiveError::Field(name))
    }

    /// Permission bits; some writers put the file type above them.
    pub(super) fn mode(&self) -> Result<u16, ArchiveError> {
        let mode = self.number(100, 8, "mode")? & 0o7777;
        u16::try_from(mode).map_err(|_| ArchiveError::Field("mode"))
    }

    pub(super) fn id(
        &self,
        pax: Option<u64>,
        offset: usize,
        name: &'static str,
    ) -> Result<u32, ArchiveError> {
        let id = pax.map_or_else(|| self.number(offset, 8, name), |id| Ok(id.into()))?;
        u32::try_from(id).map_err(|_| ArchiveError::Field(name))
    }

    pub(super) fn device(&self, offset: usize, name: &'static str) -> Result<u32, ArchiveError> {
        if self.form() == Form::V7 {
            return Ok(0);
        }
        u32::try_from(self.number(offset, 8, name)?).map_err(|_| ArchiveError::Field(name))
    }

    pub(super) fn mtime(&self) -> Result<Mtime, ArchiveError> {
        let seconds =
            i64::try_from(self.number(136, 12, "mtime")?).map_err(|_| ArchiveError::Field("mtime"))?;
        Ok(Mtime { seconds, nanoseconds: 0 })
    }

    /// The sum of all bytes, the checksum itself counted as spaces; some old writers added signed bytes.
    pub(super) fn checksum_fits(&self) -> Result<bool, ArchiveError> {
        let expected = self.number(148, 8, "checksum")?;
        let others = || self.0[..148].iter().chain(&self.0[156..]);
        let unsigned: i128 = others().map(|byte| i128::from(*byte)).sum();
        let signed: i128 = others().map(|byte| i128::from(byte.cast_signed())).sum();
        let spaces = 8 * i128::from(b' ');
        Ok(expected == unsigned + spaces || expected == signed + spaces)
    }
}

/// Octal digits between spaces and NULs, up to a NUL among them, nothing at all for zero; or, with the first bit set,
/// GNU's base 256, which can be negative.
pub(super) fn parse_number(field: &[u8]) -> Option<i128> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        let start = i128::from(first & 0x3f) - i128::from(first & 0x40);
        // Eleven bytes at most: no overflow.
        return Some(rest.iter().fold(start, |value, byte| value << 8 | i128::from(*byte)));
    }
    let blank = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !blank(byte)).unwrap_or(field.len());
    let text = field.get(start..)?.split(|byte| *byte == 0).next()?;
    text.trim_ascii_end().iter().try_fold(0, |value, digit| match digit {
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
        assert_eq!(parse_number(b"644 \0junk"), Some(0o644), "what follows the end does not count");
        for bad in [&b"755x"[..], b"7 5\0", b"8", b"-1\0", b"+7"] {
            assert_eq!(parse_number(bad), None, "{}", bad.escape_ascii());
        }
    }
}
