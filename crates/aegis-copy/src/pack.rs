//! Reading a tree.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use aegis_paths::{Dir, Mounts, is_kernel_interface};
use rustix::fs::{FileType, Mode, OFlags, Stat};

use crate::chunks::{self, Chunk};
use crate::send::{Broken, Sender};
use crate::skipped::Cause;
use crate::target::At;
use crate::wire::{self, Entry, GREETING, Kind, MOST_TEXT, Record};
use crate::{CopyError, LeftOut, Target};

/// Of how many file systems it is remembered what they are.
const MOST_DEVICES: usize = 1024;
/// The number of file systems whose files a program keeps (`FUSE_SUPER_MAGIC`).
const FUSE: i128 = 0x6573_5546;

/// What was read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// Files, directories and links.
    pub entries: u64,
    /// What is not copied.
    pub left_out: LeftOut,
}

/// Writes the tree at `root`, which may be one file, to `to`. Symbolic links are copied as such; only `root` itself is
/// followed, if its path ends with `/`. Of a file with several names there will be several. What goes while it is copied is
/// left out, and so is what cannot be read, but for `root`. Below it file systems of what the kernel makes up are not
/// descended into, unless `root` is on that one. If it fails, the other end is told.
///
/// # Errors
/// If `root` cannot be read or is no file, directory or link, or nobody takes the stream any more.
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
    let outcome = open().and_then(|target| Walk::of(target).run(&mut to));
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

    /// The paths of what is in a directory; the last one is the first by name.
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
        children.sort_unstable_by(|a, b| b.cmp(a));
        Ok(children)
    }
}

/// What something is that is no file, directory or link.
fn no_file(kind: FileType) -> Option<&'static str> {
    match kind {
        FileType::Directory | FileType::RegularFile | FileType::Symlink => None,
        FileType::BlockDevice | FileType::CharacterDevice => Some("a device"),
        FileType::Fifo => Some("a pipe"),
        FileType::Socket => Some("a socket"),
        FileType::Unknown => Some("neither file nor directory"),
    }
}

/// A tree that is being read.
struct Walk {
    source: Source,
    packed: Packed,
    sender: Sender,
    /// The file system of the root.
    device: Option<u64>,
    /// By device: whether it is no store of files, but what the kernel makes up.
    made_up: HashMap<u64, bool>,
    /// What is to be visited, the next one last.
    pending: Vec<PathBuf>,
}

impl Walk {
    fn of(target: Target) -> Walk {
        Walk {
            source: Source::of(target),
            packed: Packed::default(),
            sender: Sender::new(),
            device: None,
            made_up: HashMap::new(),
            pending: vec![PathBuf::new()],
        }
    }

    fn run(mut self, to: &mut impl Write) -> Result<Packed, CopyError> {
        while let Some(path) = self.pending.pop() {
            let Err(error) = self.visit(&path, to) else { continue };
            match Cause::of(&error) {
                Some(cause) if !path.as_os_str().is_empty() => self.leave_out(cause, &path, &error),
                _ => return Err(error),
            }
        }
        Ok(self.packed)
    }

    fn leave_out(&mut self, cause: Cause, path: &Path, error: &CopyError) {
        let why = match error {
            // Its path is told with it.
            CopyError::File { source, .. } => source.to_string(),
            CopyError::Changed(_) => "it changed while it was read".to_owned(),
            CopyError::Endless(_) => "it does not end".to_owned(),
            other => other.to_string(),
        };
        self.packed.left_out.add(cause, &self.source.shown(path), why);
    }

    fn visit(&mut self, path: &Path, to: &mut impl Write) -> Result<(), CopyError> {
        if path.as_os_str().len() > MOST_TEXT {
            let error = rustix::io::Errno::NAMETOOLONG.into();
            return Err(CopyError::File { path: self.source.shown(path), source: error });
        }
        let mut found = self.source.look(path)?;
        if let Some(what) = no_file(found.kind) {
            let shown = self.source.shown(path);
            if path.as_os_str().is_empty() {
                return Err(CopyError::NoFile { path: shown, what });
            }
            self.packed.left_out.add(Cause::NoFile, &shown, what);
            return Ok(());
        }
        match found.kind {
            FileType::Directory => self.directory(path, &mut found, to),
            FileType::Symlink => self.link(path, &found, to),
            _ => self.file(path, &mut found, to),
        }
    }

    fn tell(&mut self, path: &Path, found: &Found, kind: Kind, to: &mut impl Write) -> Result<(), CopyError> {
        self.packed.entries += 1;
        wire::write(&head(path, found, kind), to)
    }

    fn directory(&mut self, path: &Path, found: &mut Found, to: &mut impl Write) -> Result<(), CopyError> {
        let device = found.stat.st_dev;
        if *self.device.get_or_insert(device) != device && self.is_made_up(&found.fd, device) {
            let shown = self.source.shown(path);
            self.packed.left_out.add(Cause::NoFile, &shown, "the kernel makes up what is there");
            return Ok(());
        }
        if path.as_os_str().is_empty() && self.source.name.is_some() {
            // Whatever takes its name from now on: this one was meant.
            let opened = found.fd.try_clone().map_err(CopyError::file(&self.source.root))?;
            self.source.dir = Dir::from(opened);
            self.source.name = None;
        }
        let children = self.source.children(path, found)?;
        self.tell(path, found, Kind::Directory, to)?;
        self.pending.extend(children);
        Ok(())
    }

    fn link(&mut self, path: &Path, found: &Found, to: &mut impl Write) -> Result<(), CopyError> {
        let target = rustix::fs::readlinkat(&found.fd, "", Vec::new());
        let target = target.map_err(|error| CopyError::file(&self.source.shown(path))(error.into()))?;
        self.tell(path, found, Kind::Symlink(target.into_bytes()), to)
    }

    fn file(&mut self, path: &Path, found: &mut Found, to: &mut impl Write) -> Result<(), CopyError> {
        let opened = File::from(self.source.reopen(path, found, OFlags::RDONLY)?);
        let size = u64::try_from(found.stat.st_size).unwrap_or(0);
        let taken = u64::try_from(found.stat.st_blocks).unwrap_or(0).saturating_mul(512);
        let made_up = self.is_made_up(&opened, found.stat.st_dev);
        self.tell(path, found, Kind::File, to)?;
        // What is made up has a size of nothing, or of a page, whatever it says.
        let sent = if made_up || size == 0 {
            self.sender.send_made_up(&opened, to)
        } else {
            settle(&opened, taken < size);
            self.sender.send(&opened, size, taken < size, to).map(|()| true)
        };
        let error = match sent {
            Ok(true) => return Ok(()),
            Ok(false) => CopyError::Endless(self.source.shown(path)),
            Err(Broken::Writing(error)) => return Err(CopyError::stream(error)),
            Err(Broken::Reading(error)) => CopyError::file(&self.source.shown(path))(error),
        };
        chunks::write(Chunk::Cut, to).map_err(CopyError::stream)?;
        Err(error)
    }

    fn is_made_up(&mut self, fd: &impl AsFd, device: u64) -> bool {
        if self.made_up.len() >= MOST_DEVICES {
            self.made_up.clear();
        }
        *self.made_up.entry(device).or_insert_with(|| made_up(fd).unwrap_or(false))
    }
}

/// Whether what is open is on a file system of what the kernel makes up. Where it cannot be told which mount that is, its
/// kind tells but for devices.
fn made_up(fd: &impl AsFd) -> io::Result<bool> {
    match Mounts::read() {
        Ok(mounts) => mounts.is_no_store(fd),
        Err(_) => is_kernel_interface(fd),
    }
}

/// A program that keeps files of a file system does not know what the kernel still holds for it, and would take that for
/// holes.
fn settle(file: &File, sparse: bool) {
    if sparse && rustix::fs::fstatfs(file).is_ok_and(|found| i128::from(found.f_type) == FUSE) {
        // What may not be written has nothing to be told.
        let _read_only = rustix::fs::fdatasync(file);
    }
}

fn head(path: &Path, Found { stat, .. }: &Found, kind: Kind) -> Record {
    let seconds = stat.st_mtime;
    let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    let mode = u16::try_from(stat.st_mode & 0o7777).unwrap_or(0);
    let path = path.as_os_str().as_bytes().to_vec();
    Record::Entry(Entry { path, kind, mode, mtime: (seconds, nanoseconds) })
}
