//! The name of a source.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// What a source is called in a directory that it is copied into; nothing if its contents are meant, not itself: for
/// `.`, and for what ends with `/.`.
#[must_use]
pub fn name_of(source: &OsStr) -> Option<&OsStr> {
    let parts = source.as_bytes().split(|byte| *byte == b'/');
    let last = parts.rev().find(|part| !part.is_empty()).unwrap_or_default();
    (!matches!(last, b"" | b"." | b"..")).then(|| OsStr::from_bytes(last))
}
