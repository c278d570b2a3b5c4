//! Reading a tree.

use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::CopyError;
use crate::carry::{Broken, PIECE, carry};
use crate::wire::{self, Entry, GREETING, Kind, Record};

/// What was read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// Files, directories and links.
    pub entries: u64,
    /// Sockets, pipes and devices, which are left out.
    pub skipped: Vec<PathBuf>,
}

/// Writes the tree at `root`, which may be one file, to `to`. Symbolic links are copied as such; only `root` itself is
/// followed, if its path ends with `/`. Of a file with several names there will be several. If it fails, the other end is
/// told.
///
/// # Errors
/// If something cannot be read, or nobody takes the stream any more.
pub fn pack(root: &Path, mut to: impl Write) -> Result<Packed, CopyError> {
    to.write_all(GREETING).map_err(CopyError::stream)?;
    let outcome = walk(root, &mut to);
    let last = match &outcome {
        Ok(packed) => Record::End(packed.entries),
        Err(error) => Record::Failure(error.to_string()),
    };
    let told = wire::write(&last, &mut to).and_then(|()| to.flush().map_err(CopyError::stream));
    outcome.and_then(|packed| told.map(|()| packed))
}

fn walk(root: &Path, to: &mut impl Write) -> Result<Packed, CopyError> {
    let mut packed = Packed::default();
    // One for all files: under emulation fresh memory is dear.
    let mut piece = vec![0; PIECE];
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let full = if path.as_os_str().is_empty() { root.to_owned() } else { root.join(&path) };
        let found = fs::symlink_metadata(&full).map_err(CopyError::file(&full))?;
        let is_special = |kind: fs::FileType| {
            kind.is_socket() || kind.is_fifo() || kind.is_block_device() || kind.is_char_device()
        };
        if is_special(found.file_type()) {
            packed.skipped.push(full);
            continue;
        }
        packed.entries += 1;
        entry(&path, &full, &found, to, &mut piece)?;
        if found.is_dir() {
            let children = fs::read_dir(&full).and_then(|entries| {
                entries
                    .map(|entry| entry.map(|entry| path.join(entry.file_name())))
                    .collect::<io::Result<Vec<_>>>()
            });
            let mut children = children.map_err(CopyError::file(&full))?;
            // The last one pushed is the first one visited.
            children.sort_unstable_by(|a, b| b.cmp(a));
            pending.extend(children);
        }
    }
    Ok(packed)
}

fn entry(
    path: &Path,
    full: &Path,
    found: &Metadata,
    to: &mut impl Write,
    piece: &mut [u8],
) -> Result<(), CopyError> {
    let nanoseconds = u32::try_from(found.mtime_nsec()).unwrap_or(0);
    let mode = u16::try_from(found.mode() & 0o7777).unwrap_or(0);
    let head = |kind| {
        let (path, mtime) = (path.as_os_str().as_bytes().to_vec(), (found.mtime(), nanoseconds));
        Record::Entry(Entry { path, kind, mode, mtime })
    };
    if found.is_dir() {
        return wire::write(&head(Kind::Directory), to);
    }
    if found.is_symlink() {
        let target = fs::read_link(full).map_err(CopyError::file(full))?;
        return wire::write(&head(Kind::Symlink(target.into_os_string().into_encoded_bytes())), to);
    }
    let nofollow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
    let file = File::options().read(true).custom_flags(nofollow).open(full).map_err(CopyError::file(full))?;
    let size = file.metadata().map_err(CopyError::file(full))?.len();
    wire::write(&head(Kind::File(size)), to)?;
    // What is appended meanwhile belongs to the next copy.
    let copied = carry(&file, to, size, piece).map_err(|broken| match broken {
        Broken::Reading(error) => CopyError::file(full)(error),
        Broken::Writing(error) => CopyError::stream(error),
    })?;
    if copied == size { Ok(()) } else { Err(CopyError::Changed(full.to_owned())) }
}
