//! Extended attributes: the names that EROFS can express and their on-disk form.

use crate::format::u16_at;
use crate::tree::{Name, Xattrs};

/// Name prefixes with their on-disk index. The two ACL names are complete: nothing follows the prefix.
const PREFIXES: [(u8, &[u8]); 5] = [
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
];

/// Size of the header before the entries of an inode; counted as one unit in `i_xattr_icount`.
pub(crate) const IBODY_HEADER: usize = 12;
/// Size of the header of one entry.
pub(crate) const ENTRY_HEADER: usize = 4;

/// The index and the rest of a name, or `None` for a name that EROFS, and with it Linux, has no place for.
pub(crate) fn split_name(name: &[u8]) -> Option<(u8, &[u8])> {
    PREFIXES.iter().find_map(|(index, prefix)| {
        let rest = name.strip_prefix(*prefix)?;
        let complete = prefix.last() != Some(&b'.');
        (rest.is_empty() == complete && rest.len() <= usize::from(u8::MAX)).then_some((*index, rest))
    })
}

/// The full name of an on-disk index and rest.
pub(crate) fn join_name(index: u8, rest: &[u8]) -> Option<Vec<u8>> {
    let (_, prefix) = PREFIXES.iter().find(|(i, _)| *i == index)?;
    Some([prefix, rest].concat())
}

/// The inline attributes of an inode as they follow it on disk; empty without attributes. Names that
/// [`split_name`] refuses do not get into a tree.
pub(crate) fn encode(xattrs: &Xattrs) -> Vec<u8> {
    if xattrs.is_empty() {
        return Vec::new();
    }
    let mut out = vec![0; IBODY_HEADER];
    for (name, value) in xattrs {
        let Some((index, rest)) = split_name(name) else { continue };
        let (Ok(name_len), Ok(value_len)) = (u8::try_from(rest.len()), u16::try_from(value.len())) else {
            continue;
        };
        out.extend([name_len, index]);
        out.extend(value_len.to_le_bytes());
        out.extend(rest);
        out.extend(value);
        out.resize(out.len().next_multiple_of(ENTRY_HEADER), 0);
    }
    out
}

/// The value of `i_xattr_icount` for an encoded body of `len` bytes.
pub(crate) fn icount(len: usize) -> Option<u16> {
    if len == 0 { Some(0) } else { u16::try_from((len - IBODY_HEADER) / ENTRY_HEADER + 1).ok() }
}

/// An attribute as read from an image.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: Name,
    pub(crate) value: Box<[u8]>,
    /// Bytes that it takes, with padding.
    pub(crate) len: usize,
}

/// The first entry of `data`; `None` if it is damaged.
pub(crate) fn decode(data: &[u8]) -> Option<Entry> {
    let (header, body) = data.split_at_checked(ENTRY_HEADER)?;
    let (name, body) = body.split_at_checked(usize::from(*header.first()?))?;
    let (value, _) = body.split_at_checked(usize::from(u16_at(header, 2)))?;
    let len = (ENTRY_HEADER + name.len() + value.len()).next_multiple_of(ENTRY_HEADER);
    Some(Entry { name: join_name(*header.get(1)?, name)?.into(), value: value.into(), len })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_split_and_join() {
        for name in [&b"user.a"[..], b"security.capability", b"trusted.x", b"system.posix_acl_access"] {
            let (index, rest) = split_name(name).unwrap();
            assert_eq!(join_name(index, rest).unwrap(), name);
        }
        for name in [&b"user."[..], b"com.apple.x", b"system.posix_acl_accessX", b"system.nfs4_acl", b""] {
            assert_eq!(split_name(name), None, "{}", name.escape_ascii());
        }
    }

    #[test]
    fn body_is_padded_and_counted() {
        let xattrs: Xattrs = [(b"user.ab".as_slice().into(), b"xyz".as_slice().into())].into();
        let body = encode(&xattrs);
        assert_eq!(body.len(), 12 + 12);
        assert_eq!(&body[12..], b"\x02\x01\x03\x00abxyz\0\0\0");
        assert_eq!(icount(body.len()), Some(4));
        let entry = decode(&body[12..]).unwrap();
        assert_eq!((&*entry.name, &*entry.value, entry.len), (&b"user.ab"[..], &b"xyz"[..], 12));
        assert!(decode(&body[12..17]).is_none(), "cut off");
        assert_eq!(icount(0), Some(0));
    }
}
