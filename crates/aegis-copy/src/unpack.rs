//! Writing a tree.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use aegis_paths::Dir;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::limits::Limits;
use crate::receive::{Received, Receiver};
use crate::target::At;
use crate::temporary::Temporary;
use crate::wire::{self, Entry, Kind, Record};
use crate::{CopyError, Target};

/// Longest name in a directory.
const MOST_NAME: usize = 255;
/// Most bytes of paths of directories that are kept until all is done. Beyond that times are left as they are.
const MOST_LEFT_NAMES: usize = 64 << 20;

/// Who is to own what is written, if not whoever writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Writes the tree that comes from `from` so that its root is at `target`; returns the number of entries. What is there
/// already is replaced when what takes its place is complete, but for directories, which are filled, and devices. Of modes
/// the permissions of user, group and others count.
///
/// # Errors
/// If the stream is broken, hostile or too much, something is in the way, or cannot be written. What was written
/// before stays.
pub fn unpack(
    target: Target,
    mut from: impl Read,
    owner: Option<Owner>,
    limits: Limits,
) -> Result<u64, CopyError> {
    wire::greeted(&mut from)?;
    let mut writer = Writer {
        root: target.shown,
        tree: None,
        parent: None,
        owner,
        link: limits.link,
        unfinished: Vec::new(),
        unfinished_names: 0,
        contents: Receiver::new(limits),
    };
    let mut entries = 0;
    loop {
        let entry = match wire::read(&mut from)? {
            Record::Entry(entry) => entry,
            Record::Failure(cause) => return Err(CopyError::OtherEnd(cause)),
            Record::End(count) if count == entries && entries > 0 => break,
            Record::End(_) => return Err(CopyError::Stream("entries are missing".to_owned())),
        };
        entries += 1;
        if entries > limits.entries {
            return Err(CopyError::TooMuch { what: "files", limit: limits.entries });
        }
        if entries == 1 {
            writer.write_root(&target.at, &entry, &mut from)?;
        } else {
            writer.write(&entry, &mut from)?;
        }
    }
    writer.finish()?;
    Ok(entries)
}

/// A directory that was made.
struct Unfinished {
    path: Vec<u8>,
    /// Its mode, if nobody may write into it when all is done.
    closed: Option<u16>,
    mtime: (i64, u32),
}

struct Writer {
    root: PathBuf,
    /// The directory that everything is below; nothing if the root is no directory.
    tree: Option<Dir>,
    /// The directory that was written into last, with its path.
    parent: Option<(Vec<u8>, Dir)>,
    owner: Option<Owner>,
    /// Whether the root may be a link.
    link: bool,
    /// Directories that were made: their times are set when nothing is written into them any more.
    unfinished: Vec<Unfinished>,
    /// Length of their paths together, bytes.
    unfinished_names: usize,
    contents: Receiver,
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

    fn write(&mut self, entry: &Entry, from: &mut impl Read) -> Result<(), CopyError> {
        let parts = components(&entry.path)?;
        let Some((name, parents)) = parts.split_last() else { return Ok(()) };
        let parent_path = parents.join(&b'/');
        let dir = self.open_parent(&parent_path)?;
        let written = self.put(&dir, name, entry, from);
        self.parent = Some((parent_path, dir));
        written
    }

    fn write_root(&mut self, at: &At, entry: &Entry, from: &mut impl Read) -> Result<(), CopyError> {
        if !entry.path.is_empty() {
            return Err(CopyError::Hostile(entry.path.escape_ascii().to_string()));
        }
        let is_directory = entry.kind == Kind::Directory;
        match at {
            At::Directory(dir) if is_directory => {
                self.tree = Some(dir.try_clone().map_err(CopyError::file(&self.root))?);
            }
            At::Directory(_) => return Err(self.in_the_way(b"", "a directory is in the way")),
            At::Name(..) if matches!(entry.kind, Kind::Symlink(_)) && !self.link => {
                return Err(CopyError::Stream(
                    "it sends a link in the place of what was asked for".to_owned(),
                ));
            }
            At::Name(dir, name) => {
                components(name.as_bytes())?;
                self.put(dir, name.as_bytes(), entry, from)?;
                if is_directory {
                    self.tree = Some(dir.dir_beneath(Path::new(name)).map_err(CopyError::file(&self.root))?);
                }
            }
        }
        Ok(())
    }

    /// The directory of that path below the tree.
    fn open_parent(&mut self, path: &[u8]) -> Result<Dir, CopyError> {
        match self.parent.take() {
            Some((known, dir)) if known == path => Ok(dir),
            _ => self.descend(path),
        }
    }

    fn put(&mut self, dir: &Dir, name: &[u8], entry: &Entry, from: &mut impl Read) -> Result<(), CopyError> {
        let there = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Some(FileType::from_raw_mode(found.st_mode)),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(self.failed(&entry.path)(error)),
        };
        let way = match (&entry.kind, there) {
            (Kind::Directory, Some(FileType::Directory)) => return Ok(()),
            (Kind::Directory, Some(FileType::Symlink)) => {
                Some("a symbolic link is in the way, and is not followed")
            }
            (Kind::Directory, Some(_)) => Some("something that is no directory is in the way"),
            (_, Some(FileType::Directory)) => Some("a directory is in the way"),
            (_, Some(FileType::BlockDevice | FileType::CharacterDevice)) => Some("a device is in the way"),
            // Not written through: it may be a link, or in use.
            (_, _) => None,
        };
        if let Some(what) = way {
            return Err(self.in_the_way(&entry.path, what));
        }
        match &entry.kind {
            Kind::Directory => self.put_directory(dir, name, entry),
            Kind::File => self.put_file(dir, name, entry, from),
            Kind::Symlink(target) => {
                let made = Temporary::make(dir, |name| rustix::fs::symlinkat(target.as_slice(), dir, name));
                made.and_then(|(link, ())| {
                    self.own(dir, link.name().as_bytes()).and_then(|()| link.keep(name))
                })
                .map_err(self.failed(&entry.path))
            }
        }
    }

    fn in_the_way(&self, path: &[u8], what: &'static str) -> CopyError {
        CopyError::InTheWay { path: self.shown(path), what }
    }

    fn own(&self, dir: &Dir, name: &[u8]) -> rustix::io::Result<()> {
        let Some(Owner { uid, gid }) = self.owner else { return Ok(()) };
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        rustix::fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
    }

    fn put_directory(&mut self, dir: &Dir, name: &[u8], entry: &Entry) -> Result<(), CopyError> {
        let made = rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o700));
        made.and_then(|()| self.own(dir, name)).map_err(self.failed(&entry.path))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let opened = dir.open_beneath(Path::new(OsStr::from_bytes(name)), flags, Mode::empty());
        let opened = opened.map_err(CopyError::file(&self.shown(&entry.path)))?;
        let closed = (entry.mode & 0o700 != 0o700).then_some(entry.mode);
        if closed.is_none() {
            rustix::fs::fchmod(&opened, permissions(entry.mode)).map_err(self.failed(&entry.path))?;
        }
        self.unfinished_names += entry.path.len();
        if self.unfinished_names <= MOST_LEFT_NAMES {
            self.unfinished.push(Unfinished { path: entry.path.clone(), closed, mtime: entry.mtime });
            return Ok(());
        }
        let limit = MOST_LEFT_NAMES as u64;
        closed.map_or(Ok(()), |_| {
            Err(CopyError::TooMuch { what: "bytes of names of closed directories", limit })
        })
    }

    fn put_file(
        &mut self,
        dir: &Dir,
        name: &[u8],
        entry: &Entry,
        from: &mut impl Read,
    ) -> Result<(), CopyError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made =
            Temporary::make(dir, |name| rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600)));
        let (temporary, file) = made.map_err(self.failed(&entry.path))?;
        let file = File::from(file);
        let shown = self.shown(&entry.path);
        let failed = |source| CopyError::File { path: shown.clone(), source };
        if self.contents.receive(from, &file, failed)? == Received::Cut {
            return Ok(());
        }
        self.dress(&file, entry).and_then(|()| temporary.keep(name)).map_err(self.failed(&entry.path))
    }

    /// Gives a file its owner, permissions and time.
    fn dress(&self, file: &File, entry: &Entry) -> rustix::io::Result<()> {
        if let Some(Owner { uid, gid }) = self.owner {
            rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        rustix::fs::fchmod(file, permissions(entry.mode))?;
        set_time(file, entry.mtime)
    }

    fn tree(&self) -> Result<&Dir, CopyError> {
        self.tree.as_ref().ok_or_else(|| CopyError::Stream("files below a file".to_owned()))
    }

    /// A directory below the tree.
    fn descend(&self, path: &[u8]) -> Result<Dir, CopyError> {
        let opened = self.tree()?.dir_beneath(Path::new(OsStr::from_bytes(path)));
        opened.map_err(CopyError::file(&self.shown(path)))
    }

    /// Sets times of directories, and takes away what was only allowed while the tree was written: children before their parents.
    fn finish(mut self) -> Result<(), CopyError> {
        self.parent = None;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        for Unfinished { path, closed, mtime } in std::mem::take(&mut self.unfinished).into_iter().rev() {
            let dir = self.tree()?.open_beneath(Path::new(OsStr::from_bytes(&path)), flags, Mode::empty());
            // One that somebody else has taken away meanwhile needs no time.
            if let Ok(dir) = &dir {
                let _kept = set_time(dir, mtime);
            }
            if let Some(mode) = closed {
                let dir = dir.map_err(CopyError::file(&self.shown(&path)))?;
                rustix::fs::fchmod(&dir, permissions(mode)).map_err(self.failed(&path))?;
            }
        }
        Ok(())
    }
}

fn set_time(of: impl AsFd, (seconds, nanoseconds): (i64, u32)) -> rustix::io::Result<()> {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    rustix::fs::futimens(of, &Timestamps { last_access: time, last_modification: time })
}
