//! Writing a tree.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::CopyError;
use crate::carry::{Broken, PIECE, carry};
use crate::wire::{self, Entry, GREETING, Kind, Record};

/// Longest name in a directory.
const MOST_NAME: usize = 255;

/// What a stream may at most ask for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Files, directories and links.
    pub entries: u64,
    /// Contents of all files together, bytes.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { entries: 10_000_000, bytes: 1 << 40 }
    }
}

/// Who is to own what is written, if not whoever writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Writes the tree that comes from `from` so that its root is at `root`; returns the number of entries. What is there
/// already is replaced, but for directories, which are filled. Of modes the permissions of user, group and others count.
///
/// # Errors
/// If the stream is broken, hostile or too much, something is in the way, or cannot be written. What was written
/// before stays.
pub fn unpack(
    root: &Path,
    mut from: impl Read,
    owner: Option<Owner>,
    limits: Limits,
) -> Result<u64, CopyError> {
    let mut greeting = [0; GREETING.len()];
    from.read_exact(&mut greeting).map_err(CopyError::stream)?;
    if greeting != *GREETING {
        return Err(CopyError::Stream("it does not greet".to_owned()));
    }
    let mut writer = Writer {
        root: root.to_owned(),
        tree: None,
        parent: None,
        owner,
        closed: Vec::new(),
        piece: vec![0; PIECE],
    };
    let (mut entries, mut bytes) = (0, 0u64);
    loop {
        let entry = match wire::read(&mut from)? {
            Record::Entry(entry) => entry,
            Record::Failure(cause) => return Err(CopyError::OtherEnd(cause)),
            Record::End(count) if count == entries && entries > 0 => break,
            Record::End(_) => return Err(CopyError::Stream("entries are missing".to_owned())),
        };
        entries += 1;
        if let Kind::File(size) = entry.kind {
            bytes = bytes.saturating_add(size);
        }
        if entries > limits.entries {
            return Err(CopyError::TooMuch { what: "files", limit: limits.entries });
        }
        if bytes > limits.bytes {
            return Err(CopyError::TooMuch { what: "bytes", limit: limits.bytes });
        }
        writer.write(&entry, entries == 1, &mut from)?;
    }
    writer.finish()?;
    Ok(entries)
}

struct Writer {
    root: PathBuf,
    /// The directory that everything is below; nothing if the root is no directory.
    tree: Option<OwnedFd>,
    /// The directory that was written into last, with its path.
    parent: Option<(Vec<u8>, OwnedFd)>,
    owner: Option<Owner>,
    /// Directories that may not be written into when all is done, with their modes.
    closed: Vec<(Vec<u8>, u16)>,
    /// One for all files: under emulation fresh memory is dear.
    piece: Vec<u8>,
}

fn open_dir(at: &OwnedFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

fn permissions(mode: u16) -> Mode {
    Mode::from_raw_mode(u32::from(mode & 0o777))
}

/// The components of a path, each of which can only be a name.
fn components(path: &[u8]) -> Result<Vec<&[u8]>, CopyError> {
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let name =
        |part: &&[u8]| !matches!(*part, b"" | b"." | b"..") && !part.contains(&0) && part.len() <= MOST_NAME;
    if parts.iter().all(name) { Ok(parts) } else { Err(CopyError::Hostile(path.escape_ascii().to_string())) }
}

impl Writer {
    fn shown(&self, path: &[u8]) -> PathBuf {
        if path.is_empty() { self.root.clone() } else { self.root.join(std::ffi::OsStr::from_bytes(path)) }
    }

    fn failed(&self, path: &[u8]) -> impl FnOnce(Errno) -> CopyError {
        let path = self.shown(path);
        move |error| CopyError::File { path, source: error.into() }
    }

    fn write(&mut self, entry: &Entry, first: bool, from: &mut impl Read) -> Result<(), CopyError> {
        if first != entry.path.is_empty() {
            return Err(CopyError::Hostile(entry.path.escape_ascii().to_string()));
        }
        if first {
            return self.write_root(entry, from);
        }
        let parts = components(&entry.path)?;
        let Some((name, parents)) = parts.split_last() else { return Ok(()) };
        let parent_path = parents.join(&b'/');
        let dir = self.open_parent(&parent_path)?;
        let written = self.put(&dir, name, entry, from);
        self.parent = Some((parent_path, dir));
        written
    }

    /// The root itself is where the user said: links on the way to it are the user's.
    fn write_root(&mut self, entry: &Entry, from: &mut impl Read) -> Result<(), CopyError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if entry.kind == Kind::Directory && self.root.is_dir() {
            let opened = rustix::fs::open(&self.root, flags, Mode::empty());
            self.tree = Some(opened.map_err(self.failed(b""))?);
            return Ok(());
        }
        let parent = match self.root.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let name = self.root.file_name().map(|name| name.as_bytes().to_vec()).unwrap_or_default();
        components(&name)?;
        let opened = rustix::fs::open(&parent, flags, Mode::empty());
        let dir = opened.map_err(|error| CopyError::File { path: parent, source: error.into() })?;
        self.put(&dir, &name, entry, from)?;
        if entry.kind == Kind::Directory {
            self.tree = Some(open_dir(&dir, &name).map_err(self.failed(b""))?);
        }
        Ok(())
    }

    /// The directory of that path below the tree.
    fn open_parent(&mut self, path: &[u8]) -> Result<OwnedFd, CopyError> {
        match self.parent.take() {
            Some((known, dir)) if known == path => Ok(dir),
            _ => self.descend(path),
        }
    }

    fn put(
        &mut self,
        dir: &OwnedFd,
        name: &[u8],
        entry: &Entry,
        from: &mut impl Read,
    ) -> Result<(), CopyError> {
        let there = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Some(FileType::from_raw_mode(found.st_mode)),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(self.failed(&entry.path)(error)),
        };
        match (&entry.kind, there) {
            (Kind::Directory, Some(FileType::Directory)) => return Ok(()),
            (Kind::Directory, Some(_)) => {
                return Err(CopyError::InTheWay {
                    path: self.shown(&entry.path),
                    what: "something that is no directory is in the way",
                });
            }
            (_, Some(FileType::Directory)) => {
                return Err(CopyError::InTheWay {
                    path: self.shown(&entry.path),
                    what: "a directory is in the way",
                });
            }
            (_, Some(_)) => {
                // Not written through: it may be a link, or in use.
                rustix::fs::unlinkat(dir, name, AtFlags::empty()).map_err(self.failed(&entry.path))?;
            }
            (_, None) => {}
        }
        match &entry.kind {
            Kind::Directory => self.put_directory(dir, name, entry),
            Kind::File(size) => self.put_file(dir, name, entry, *size, from),
            Kind::Symlink(target) => {
                let made = rustix::fs::symlinkat(target.as_slice(), dir, name);
                made.and_then(|()| self.own(dir, name)).map_err(self.failed(&entry.path))
            }
        }
    }

    fn own(&self, dir: &OwnedFd, name: &[u8]) -> rustix::io::Result<()> {
        let Some(Owner { uid, gid }) = self.owner else { return Ok(()) };
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        rustix::fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
    }

    fn put_directory(&mut self, dir: &OwnedFd, name: &[u8], entry: &Entry) -> Result<(), CopyError> {
        let made = rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o700));
        let opened = made.and_then(|()| self.own(dir, name)).and_then(|()| open_dir(dir, name));
        let opened = opened.map_err(self.failed(&entry.path))?;
        if entry.mode & 0o700 == 0o700 {
            return rustix::fs::fchmod(&opened, permissions(entry.mode)).map_err(self.failed(&entry.path));
        }
        self.closed.push((entry.path.clone(), entry.mode));
        Ok(())
    }

    fn put_file(
        &mut self,
        dir: &OwnedFd,
        name: &[u8],
        entry: &Entry,
        size: u64,
        from: &mut impl Read,
    ) -> Result<(), CopyError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600));
        let mut file = File::from(opened.map_err(self.failed(&entry.path))?);
        self.fill(&mut file, &entry.path, size, from)?;
        if let Some(Owner { uid, gid }) = self.owner {
            let owned = rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            owned.map_err(self.failed(&entry.path))?;
        }
        rustix::fs::fchmod(&file, permissions(entry.mode)).map_err(self.failed(&entry.path))?;
        let time = Timespec { tv_sec: entry.mtime.0, tv_nsec: entry.mtime.1.into() };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::futimens(&file, &times).map_err(self.failed(&entry.path))
    }

    fn fill(
        &mut self,
        file: &mut File,
        path: &[u8],
        size: u64,
        from: &mut impl Read,
    ) -> Result<(), CopyError> {
        match carry(from, file, size, &mut self.piece) {
            Ok(count) if count == size => Ok(()),
            Ok(_) => Err(CopyError::Stream("a file is cut off".to_owned())),
            Err(Broken::Reading(error)) => Err(CopyError::stream(error)),
            Err(Broken::Writing(error)) => Err(CopyError::file(&self.shown(path))(error)),
        }
    }

    /// A directory below the tree, opened name by name.
    fn descend(&self, path: &[u8]) -> Result<OwnedFd, CopyError> {
        let tree = self.tree.as_ref().ok_or_else(|| CopyError::Stream("files below a file".to_owned()))?;
        let mut dir = tree.try_clone().map_err(CopyError::file(&self.root))?;
        for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            dir = open_dir(&dir, part).map_err(self.failed(path))?;
        }
        Ok(dir)
    }

    /// Takes away what was only allowed while the tree was written: children before their parents.
    fn finish(mut self) -> Result<(), CopyError> {
        self.parent = None;
        for (path, mode) in std::mem::take(&mut self.closed).into_iter().rev() {
            let dir = self.descend(&path)?;
            rustix::fs::fchmod(&dir, permissions(mode)).map_err(self.failed(&path))?;
        }
        Ok(())
    }
}
