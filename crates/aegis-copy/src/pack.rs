//! Reading a tree.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use aegis_paths::Dir;
use rustix::fs::{FileType, Mode, OFlags, Stat};

use crate::carry::{Broken, PIECE, carry};
use crate::target::At;
use crate::wire::{self, Entry, GREETING, Kind, Record};
use crate::{CopyError, Target};

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
pub fn pack(root: &Path, to: impl Write) -> Result<Packed, CopyError> {
    // The place of a source is found as that of a target is.
    tell(|| Target::exactly(root), to)
}

/// As [`pack`], of what is at a path below a directory that is open: whatever becomes of the directory's own name, and no
/// symbolic link on the path is followed.
///
/// # Errors
/// As of [`pack`]; also for a path that leads out of the directory.
pub fn pack_beneath(dir: &Dir, path: &Path, to: impl Write) -> Result<Packed, CopyError> {
    tell(|| Target::beneath(dir, path), to)
}

fn tell(open: impl FnOnce() -> Result<Target, CopyError>, mut to: impl Write) -> Result<Packed, CopyError> {
    to.write_all(GREETING).map_err(CopyError::stream)?;
    let outcome = open().and_then(|target| walk(Source::of(target), &mut to));
    let last = match &outcome {
        Ok(packed) => Record::End(packed.entries),
        Err(error) => Record::Failure(error.to_string()),
    };
    let told = wire::write(&last, &mut to).and_then(|()| to.flush().map_err(CopyError::stream));
    outcome.and_then(|packed| told.map(|()| packed))
}

/// What is read, and what of it was opened when the user had typed it: the rest is found below that.
struct Source {
    /// Where it is, for messages.
    root: PathBuf,
    /// The root itself, or the directory that it has a name in.
    dir: Dir,
    name: Option<OsString>,
}

/// Something that is there: a descriptor that refers only, as nothing else opens whatever it is without waiting.
struct Found {
    fd: OwnedFd,
    stat: Stat,
    kind: FileType,
}

impl Source {
    fn of(Target { shown: root, at }: Target) -> Source {
        match at {
            At::Directory(dir) => Source { root, dir, name: None },
            At::Name(dir, name) => Source { root, dir, name: Some(name) },
        }
    }

    fn shown(&self, path: &Path) -> PathBuf {
        if path.as_os_str().is_empty() { self.root.clone() } else { self.root.join(path) }
    }

    fn open_beneath(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, CopyError> {
        let opened = match &self.name {
            Some(name) if path.as_os_str().is_empty() => {
                self.dir.open_beneath(Path::new(name), flags, Mode::empty())
            }
            _ => self.dir.open_beneath(path, flags, Mode::empty()),
        };
        opened.map_err(CopyError::file(&self.shown(path)))
    }

    fn look(&self, path: &Path) -> Result<Found, CopyError> {
        let fd = self.open_beneath(path, OFlags::PATH)?;
        let stat =
            rustix::fs::fstat(&fd).map_err(|error| CopyError::file(&self.shown(path))(error.into()))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        Ok(Found { fd, stat, kind })
    }

    /// Opens what was found, unless it is something else by now.
    fn reopen(&self, path: &Path, found: &mut Found, flags: OFlags) -> Result<OwnedFd, CopyError> {
        let opened = self.open_beneath(path, flags)?;
        let stat =
            rustix::fs::fstat(&opened).map_err(|error| CopyError::file(&self.shown(path))(error.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != found.kind {
            return Err(CopyError::Changed(self.shown(path)));
        }
        found.stat = stat;
        Ok(opened)
    }

    fn children(&self, path: &Path, found: &mut Found) -> Result<Vec<PathBuf>, CopyError> {
        let opened = self.reopen(path, found, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let failed = |error: rustix::io::Errno| CopyError::file(&self.shown(path))(error.into());
        let mut children = Vec::new();
        for entry in rustix::fs::Dir::new(opened).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                children.push(path.join(OsStr::from_bytes(name)));
            }
        }
        // The last one pushed is the first one visited.
        children.sort_unstable_by(|a, b| b.cmp(a));
        Ok(children)
    }
}

fn walk(mut source: Source, to: &mut impl Write) -> Result<Packed, CopyError> {
    let mut packed = Packed::default();
    // One for all files: under emulation fresh memory is dear.
    let mut piece = vec![0; PIECE];
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let mut found = source.look(&path)?;
        if !matches!(found.kind, FileType::Directory | FileType::RegularFile | FileType::Symlink) {
            packed.skipped.push(source.shown(&path));
            continue;
        }
        packed.entries += 1;
        match found.kind {
            FileType::Directory => {
                if path.as_os_str().is_empty() && source.name.is_some() {
                    // Whatever takes its name from now on: this one was meant.
                    let opened = found.fd.try_clone().map_err(CopyError::file(&source.root))?;
                    source.dir = Dir::from(opened);
                    source.name = None;
                }
                let children = source.children(&path, &mut found)?;
                wire::write(&head(&path, &found, Kind::Directory), to)?;
                pending.extend(children);
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&found.fd, "", Vec::new());
                let target = target.map_err(|error| CopyError::file(&source.shown(&path))(error.into()))?;
                let target = OsString::from_vec(target.into_bytes()).into_encoded_bytes();
                wire::write(&head(&path, &found, Kind::Symlink(target)), to)?;
            }
            _ => file(&source, &path, &mut found, to, &mut piece)?,
        }
    }
    Ok(packed)
}

fn head(path: &Path, Found { stat, .. }: &Found, kind: Kind) -> Record {
    let seconds = stat.st_mtime;
    let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    let mode = u16::try_from(stat.st_mode & 0o7777).unwrap_or(0);
    let path = path.as_os_str().as_bytes().to_vec();
    Record::Entry(Entry { path, kind, mode, mtime: (seconds, nanoseconds) })
}

fn file(
    source: &Source,
    path: &Path,
    found: &mut Found,
    to: &mut impl Write,
    piece: &mut [u8],
) -> Result<(), CopyError> {
    let opened = File::from(source.reopen(path, found, OFlags::RDONLY)?);
    let size = u64::try_from(found.stat.st_size).unwrap_or(0);
    wire::write(&head(path, found, Kind::File(size)), to)?;
    // What is appended meanwhile belongs to the next copy.
    let copied = carry(&opened, to, size, piece).map_err(|broken| match broken {
        Broken::Reading(error) => CopyError::file(&source.shown(path))(error),
        Broken::Writing(error) => CopyError::stream(error),
    })?;
    if copied == size { Ok(()) } else { Err(CopyError::Changed(source.shown(path))) }
}
