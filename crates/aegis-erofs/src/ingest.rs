//! Puts the entries of a tar archive into a tree.

use std::io::Read;

use thiserror::Error;

use crate::archive::{ArchiveError, Kind, Member, Members};
use crate::error::TreeError;
use crate::spool::Extent;
use crate::tree::{Content, Device, FileTree, Metadata, Xattrs};
use crate::xattr;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const SYMLINK_MODE: u16 = 0o777;
/// Other names with this prefix are bookkeeping of aufs.
const AUFS: &[u8] = b".wh..wh.";

/// What to do with the deletion marks of container image layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whiteouts {
    /// They are files like others.
    Keep,
    /// `.wh.NAME` removes what lower layers have at `NAME`, `.wh..wh..opq` what they have in its directory.
    Apply,
}

/// Why an archive is refused.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IngestError {
    /// The archive itself cannot be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// An entry cannot be put into the tree.
    #[error("{path:?}: {source}")]
    Entry {
        /// Path as in the archive, with unprintable bytes escaped.
        path: String,
        /// The reason.
        source: TreeError,
    },
    /// A deletion mark that names nothing.
    #[error("{0:?}: a deletion mark that does not say what to delete")]
    Whiteout(String),
}

/// What an archive contained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IngestReport {
    /// Entries, deletion marks included.
    pub entries: u64,
    /// Extended attributes left out because Linux file systems have no place for their names.
    pub skipped_xattrs: u64,
}

/// Puts all entries of `archive`, an uncompressed tar archive, into `tree`, as a new layer over what is there.
///
/// Headers are read 512 bytes at a time: give a buffered reader. Reading stops at the archive's end mark; what follows
/// it is left in the reader. After an error the tree holds the
/// entries before the refused one.
///
/// # Errors
/// When the archive is malformed, an entry is not acceptable, a limit is exceeded, or on failing input or output.
pub fn ingest<R: Read>(
    tree: &mut FileTree,
    archive: R,
    whiteouts: Whiteouts,
) -> Result<IngestReport, IngestError> {
    tree.begin_layer();
    let mut members = Members::new(archive, tree.limits());
    let mut report = IngestReport::default();
    while let Some(member) = members.next()? {
        let size = member.size;
        put(tree, member, whiteouts, &mut report, |tree| {
            let extent = tree.spool_source(size, &mut members.contents())?;
            if extent.len() == size { Ok(extent) } else { Err(ArchiveError::Truncated.into()) }
        })?;
    }
    Ok(report)
}

/// As [`ingest`] with [`Whiteouts::Keep`], for an archive of which only some files are wanted: what has no place in a tree
/// is left out.
///
/// # Errors
/// When the archive is malformed, a limit is exceeded, or on failing input or output.
pub fn ingest_some<R: Read>(tree: &mut FileTree, archive: R) -> Result<IngestReport, IngestError> {
    tree.begin_layer();
    let mut members = Members::new(archive, tree.limits());
    let mut report = IngestReport::default();
    loop {
        let member = match members.next() {
            Ok(Some(member)) => member,
            Ok(None) => return Ok(report),
            Err(ArchiveError::UnsupportedType { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        let size = member.size;
        let put = put(tree, member, Whiteouts::Keep, &mut report, |tree| {
            let extent = tree.spool_source(size, &mut members.contents())?;
            if extent.len() == size { Ok(extent) } else { Err(ArchiveError::Truncated.into()) }
        });
        match put {
            Err(IngestError::Entry { source, .. })
                if !matches!(source, TreeError::Limit { .. } | TreeError::Io(_)) => {}
            other => other?,
        }
    }
}

/// Why an entry is refused, before its path is told.
pub(crate) enum Refusal {
    Archive(ArchiveError),
    Tree(TreeError),
}

impl Refusal {
    pub(crate) fn at(self, path: &[u8]) -> IngestError {
        match self {
            Refusal::Archive(error) => IngestError::Archive(error),
            Refusal::Tree(source) => IngestError::Entry { path: shown(path), source },
        }
    }
}

impl From<TreeError> for Refusal {
    fn from(error: TreeError) -> Self {
        Self::Tree(error)
    }
}

impl From<ArchiveError> for Refusal {
    fn from(error: ArchiveError) -> Self {
        Self::Archive(error)
    }
}

/// Puts one entry of an archive into the tree. `contents` is asked for those of a regular file.
pub(crate) fn put(
    tree: &mut FileTree,
    mut member: Member,
    whiteouts: Whiteouts,
    report: &mut IngestReport,
    contents: impl FnOnce(&mut FileTree) -> Result<Extent, Refusal>,
) -> Result<(), IngestError> {
    report.entries += 1;
    report.skipped_xattrs += drop_foreign_xattrs(&mut member.xattrs);
    if whiteouts == Whiteouts::Apply && apply_whiteout(tree, &member.path)? {
        return Ok(());
    }
    let path = std::mem::take(&mut member.path);
    put_file(tree, &path, member, contents).map_err(|refusal| refusal.at(&path))
}

fn put_file(
    tree: &mut FileTree,
    path: &[u8],
    member: Member,
    contents: impl FnOnce(&mut FileTree) -> Result<Extent, Refusal>,
) -> Result<(), Refusal> {
    let Member { kind, link, mode, uid, gid, mtime, major, minor, xattrs, .. } = member;
    // Linux knows no other mode of symbolic links, whatever their archives say.
    let mode = if kind == Kind::Symlink { SYMLINK_MODE } else { mode };
    let metadata = Metadata { mode, uid, gid, mtime, xattrs };
    let content = match kind {
        Kind::Directory => return Ok(tree.put_directory(path, metadata)?),
        // The linked file has its metadata already.
        Kind::HardLink => return Ok(tree.put_link(path, &link)?),
        Kind::File => Content::File(contents(tree)?),
        Kind::Symlink => Content::Symlink(link.into()),
        Kind::CharDevice => Content::CharDevice(Device { major, minor }),
        Kind::BlockDevice => Content::BlockDevice(Device { major, minor }),
        Kind::Fifo => Content::Fifo,
    };
    Ok(tree.put(path, metadata, content)?)
}

/// Whether the entry at `path` is a deletion mark, which is then applied.
fn apply_whiteout(tree: &mut FileTree, path: &[u8]) -> Result<bool, IngestError> {
    let entry_error = |source| IngestError::Entry { path: shown(path), source };
    let components = tree.components(path).map_err(entry_error)?;
    let Some((name, parents)) = components.split_last() else { return Ok(false) };
    if components.iter().any(|component| component.starts_with(AUFS) && *component != OPAQUE) {
        return Ok(true);
    }
    let parent = parents.join(&b'/');
    if *name == OPAQUE {
        tree.make_opaque(&parent).map_err(entry_error)?;
        return Ok(true);
    }
    match name.strip_prefix(WHITEOUT) {
        None => Ok(false),
        Some(b"" | b"." | b"..") => Err(IngestError::Whiteout(shown(path))),
        Some(hidden) => {
            tree.whiteout(&[&parent, &b"/"[..], hidden].concat()).map_err(entry_error)?;
            Ok(true)
        }
    }
}

/// Drops attributes that EROFS cannot express and returns their number.
fn drop_foreign_xattrs(xattrs: &mut Xattrs) -> u64 {
    let before = xattrs.len();
    xattrs.retain(|name, value| xattr::split_name(name).is_some() && u16::try_from(value.len()).is_ok());
    (before - xattrs.len()) as u64
}

fn shown(path: &[u8]) -> String {
    path.escape_ascii().to_string()
}
