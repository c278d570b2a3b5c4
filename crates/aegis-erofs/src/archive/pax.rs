//! PAX extended headers: records of the form `LENGTH KEY=VALUE\n`, the length that of the whole record. Values can
//! contain anything, newlines too.

use super::ArchiveError;
use super::sparse::{MOST_RANGES, Range};
use crate::tree::{Mtime, Xattrs};

const SPARSE_PREFIX: &[u8] = b"GNU.sparse.";
const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// The records that matter here. An empty value takes an earlier one back; of several the last one counts.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Records {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u64>,
    pub(crate) gid: Option<u64>,
    pub(crate) mtime: Option<Mtime>,
    pub(crate) xattrs: Xattrs,
    pub(super) sparse: Sparse,
}

/// Where the map of a sparse file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SparseForm {
    InRecords,
    InContents,
}

/// What GNU's records say of a sparse file, `GNU.sparse.…`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sparse {
    major: Vec<u8>,
    minor: Vec<u8>,
    name: Vec<u8>,
    pub(super) size: Option<u64>,
    /// Starts and lengths by turns, between commas.
    map: Vec<u8>,
    ranges: Option<u64>,
}

impl Sparse {
    fn apply(&mut self, key: &[u8], value: &[u8]) -> Result<(), ArchiveError> {
        match key {
            b"major" => self.major = value.to_vec(),
            b"minor" => self.minor = value.to_vec(),
            b"name" => self.name = value.to_vec(),
            b"size" | b"realsize" => self.size = optional(value, decimal)?,
            b"numblocks" => self.ranges = optional(value, decimal)?,
            b"map" => self.map = value.to_vec(),
            // The oldest of these forms has a pair of records for each range.
            b"offset" | b"numbytes" => {
                decimal(value).ok_or(ArchiveError::Pax)?;
                if !self.map.is_empty() {
                    self.map.push(b',');
                }
                self.map.extend(value);
            }
            _ => {}
        }
        Ok(())
    }

    /// `None` for what is no sparse file, or a form that nobody knows, which is a file as it stands then.
    pub(super) fn form(&self) -> Option<SparseForm> {
        match (&*self.major, &*self.minor) {
            (b"1", b"0") => Some(SparseForm::InContents),
            (b"0", b"0" | b"1") => Some(SparseForm::InRecords),
            (b"", b"") if !self.map.is_empty() => Some(SparseForm::InRecords),
            _ => None,
        }
    }

    pub(super) fn name(&self) -> Option<Vec<u8>> {
        (!self.name.is_empty()).then(|| self.name.clone())
    }

    pub(super) fn map(&self) -> Result<Vec<Range>, ArchiveError> {
        let texts = self.map.split(|byte| *byte == b',').filter(|_| !self.map.is_empty());
        let numbers: Option<Vec<u64>> = texts.take(2 * MOST_RANGES + 1).map(decimal).collect();
        let numbers = numbers.ok_or(ArchiveError::Pax)?;
        let (pairs, odd) = numbers.as_chunks::<2>();
        if !odd.is_empty() || self.ranges.is_some_and(|count| count != pairs.len() as u64) {
            return Err(ArchiveError::Pax);
        }
        Ok(pairs.iter().map(|[start, len]| (*start, *len)).collect())
    }
}

impl Records {
    pub(crate) fn parse(mut data: &[u8]) -> Result<Self, ArchiveError> {
        let mut records = Self::default();
        while !data.is_empty() {
            let (key, value, rest) = split_record(data).ok_or(ArchiveError::Pax)?;
            records.apply(key, value)?;
            data = rest;
        }
        Ok(records)
    }

    fn apply(&mut self, key: &[u8], value: &[u8]) -> Result<(), ArchiveError> {
        let bytes = || (!value.is_empty()).then(|| value.to_vec());
        match key {
            b"path" => self.path = bytes(),
            b"linkpath" => self.link = bytes(),
            b"size" => self.size = optional(value, decimal)?,
            b"uid" => self.uid = optional(value, decimal)?,
            b"gid" => self.gid = optional(value, decimal)?,
            b"mtime" => self.mtime = optional(value, timestamp)?,
            _ => {
                if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
                    self.xattrs.insert(name.into(), value.into());
                } else if let Some(key) = key.strip_prefix(SPARSE_PREFIX) {
                    self.sparse.apply(key, value)?;
                }
            }
        }
        Ok(())
    }
}

fn optional<T>(value: &[u8], parse: impl Fn(&[u8]) -> Option<T>) -> Result<Option<T>, ArchiveError> {
    if value.is_empty() { Ok(None) } else { parse(value).map(Some).ok_or(ArchiveError::Pax) }
}

/// Key, value and what follows the first record.
fn split_record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    // A length has few digits: do not search a large value for the space.
    let space = data.iter().take(20).position(|byte| *byte == b' ')?;
    let len = usize::try_from(decimal(data.get(..space)?)?).ok()?;
    let (record, rest) = data.split_at_checked(len)?;
    let body = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|byte| *byte == b'=')?;
    Some((body.get(..equals)?, body.get(equals + 1..)?, rest))
}

fn decimal(digits: &[u8]) -> Option<u64> {
    let digits = digits.strip_prefix(b"+").unwrap_or(digits);
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    if plain { std::str::from_utf8(digits).ok()?.parse().ok() } else { None }
}

/// Seconds with an optional sign and fraction.
fn timestamp(value: &[u8]) -> Option<Mtime> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let (whole, fraction) = match value.iter().position(|byte| *byte == b'.') {
        Some(dot) => (value.get(..dot)?, value.get(dot + 1..)?),
        None => (value, &b""[..]),
    };
    let seconds = i64::try_from(decimal(whole)?).ok()?;
    let mut nanoseconds = 0;
    for place in 0..9 {
        let digit = fraction.get(place).copied().unwrap_or(b'0');
        nanoseconds = nanoseconds * 10 + u32::from(digit.is_ascii_digit().then(|| digit - b'0')?);
    }
    if !negative {
        return Some(Mtime { seconds, nanoseconds });
    }
    // -1.25 is the second -2 and 0.75 after it.
    let borrowed = i64::from(nanoseconds > 0);
    Some(Mtime { seconds: -seconds - borrowed, nanoseconds: (1_000_000_000 - nanoseconds) % 1_000_000_000 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let body = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
        let len = (1..).find(|n| *n == n.to_string().len() + body.len()).unwrap();
        [len.to_string().as_bytes(), &body].concat()
    }

    #[test]
    fn values_can_contain_newlines_and_equals_signs() {
        let value = b"\n20 path=/etc/shadow\n=\0";
        let data = [record("SCHILY.xattr.user.x", value), record("size", b"12")].concat();
        let records = Records::parse(&data).unwrap();
        assert_eq!(records.xattrs.get(&b"user.x"[..]).unwrap().as_ref(), value);
        assert_eq!(records.size, Some(12));
        assert_eq!(records.path, None);
    }

    #[test]
    fn the_last_record_counts_and_an_empty_one_takes_back() {
        let data =
            [record("path", b"a"), record("path", b"b"), record("linkpath", b"c"), record("linkpath", b"")];
        let records = Records::parse(&data.concat()).unwrap();
        assert_eq!((records.path, records.link), (Some(b"b".to_vec()), None));
    }

    #[test]
    fn malformed_records_are_refused() {
        let bad: [&[u8]; 9] = [
            b"x",
            b"5 a=b",
            b"99 a=b\n",
            b"0 a=b\n",
            b"6 a=bc",
            b"5 ab\n",
            b" a=b\n",
            b"-6 a=b\n",
            b"10 size=x\n",
        ];
        for data in bad {
            assert!(Records::parse(data).is_err(), "{}", data.escape_ascii());
        }
    }

    #[test]
    fn timestamps() {
        let time = |text: &str| timestamp(text.as_bytes()).map(|t| (t.seconds, t.nanoseconds));
        assert_eq!(time("12"), Some((12, 0)));
        assert_eq!(time("12.5"), Some((12, 500_000_000)));
        assert_eq!(time("12.1234567899"), Some((12, 123_456_789)));
        assert_eq!(time("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time("-3"), Some((-3, 0)));
        assert_eq!(time("1.x"), None);
        assert_eq!(time("--1"), None);
    }
}
