//! Descriptors of a directory's contents: each node is opened by its name in its directory, never through a symbolic
//! link, and checked to be what the guest's kernel knows under its number.

use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::rc::Rc;

use lru::LruCache;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, SeekFrom, Statx, StatxFlags, openat, statx};
use rustix::io::Errno;

use crate::inode_table::{InodeTable, Key, Place, ROOT, TableFull};

/// Most directories, files and listings kept open, each.
const MOST_OPEN: NonZeroUsize = NonZeroUsize::new(256).unwrap();
/// Most files without a name that are kept for whoever still has them open.
const MOST_NAMELESS: usize = 16_384;
/// Deepest nesting.
const MOST_DEPTH: usize = 4096;
/// How much of a directory is read at a time, bytes.
const LISTING: usize = 32 << 10;

const BEYOND: OFlags = OFlags::CLOEXEC.union(OFlags::NOFOLLOW);

/// What a name stands for on the host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub(crate) key: Key,
    pub(crate) status: Statx,
}

/// A name of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DirectoryName {
    pub(crate) inode: u64,
    /// Where the listing goes on behind it.
    pub(crate) next: u64,
    /// Type, as `d_type` has it.
    pub(crate) kind: u32,
    pub(crate) name: OsString,
}

#[derive(Debug)]
struct Listing {
    fd: OwnedFd,
    /// Read and not handed out.
    ready: VecDeque<DirectoryName>,
    /// Behind what was handed out.
    at: u64,
}

#[derive(Debug)]
struct Data {
    fd: Rc<OwnedFd>,
    writable: bool,
}

/// The nodes of one export, and descriptors of some of them.
#[derive(Debug)]
pub(crate) struct FdCache {
    pub(crate) nodes: InodeTable,
    root: Rc<OwnedFd>,
    root_key: Key,
    directories: LruCache<u64, Rc<OwnedFd>>,
    files: LruCache<u64, Data>,
    listings: LruCache<u64, Listing>,
    /// Nodes whose last name is gone: nothing else keeps them.
    nameless: HashMap<u64, Rc<OwnedFd>>,
    /// Directories that the kernel has been told of, and names of files that could be written and were closed, since
    /// somebody asked.
    news: SideEffects,
}

/// What a request has led to beside its answer.
#[derive(Debug, Default)]
pub(crate) struct SideEffects {
    pub(crate) directories: Vec<u64>,
    pub(crate) closed: Vec<Place>,
}

impl SideEffects {
    /// Whether it has led to nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.directories.is_empty() && self.closed.is_empty()
    }
}

fn status_at(directory: impl AsFd, name: &OsStr, flags: AtFlags) -> Result<Found, Errno> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let status = statx(directory, name, flags | AtFlags::SYMLINK_NOFOLLOW, wanted)?;
    let device = u64::from(status.stx_dev_major) << 32 | u64::from(status.stx_dev_minor);
    let born = if status.stx_mask & StatxFlags::BTIME.bits() != 0 {
        i128::from(status.stx_btime.tv_sec) * 1_000_000_000 + i128::from(status.stx_btime.tv_nsec)
    } else {
        0
    };
    Ok(Found { key: Key { device, inode: status.stx_ino, born }, status })
}

/// What an open descriptor is.
pub(crate) fn status_of(fd: impl AsFd) -> Result<Found, Errno> {
    status_at(fd, OsStr::new(""), AtFlags::EMPTY_PATH)
}

/// The path under which an open descriptor can be used by calls that take none: it leads to what is open, whatever
/// has happened to its name.
pub(crate) fn path_of(fd: &impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// Whether the guest may have what is open there. Other file systems may be mounted below the directory; those that are
/// no store of files, but an interface to the host's kernel, would give the guest what the daemon's user may do there.
fn check_store(fd: impl AsFd, key: &Key, root: &Key) -> Result<(), Errno> {
    if key.device == root.device {
        return Ok(());
    }
    match aegis_paths::is_kernel_interface(fd) {
        Ok(false) => Ok(()),
        _ => Err(Errno::ACCESS),
    }
}

/// Whether a status is that of a regular file.
pub(crate) fn is_file(status: &Statx) -> bool {
    FileType::from_raw_mode(status.stx_mode.into()) == FileType::RegularFile
}

/// Whether a status is that of a directory.
fn is_directory(status: &Statx) -> bool {
    FileType::from_raw_mode(status.stx_mode.into()) == FileType::Directory
}

/// Permissions may keep us out where they would not keep out the guest's root: what we own is opened up for a moment.
pub(crate) fn with_access<T>(
    fd: &impl AsFd,
    extra: Mode,
    attempt: impl Fn() -> Result<T, Errno>,
) -> Result<T, Errno> {
    match attempt() {
        Err(Errno::ACCESS) => {}
        other => return other,
    }
    let status = status_of(fd)?.status;
    let old = Mode::from_raw_mode(u32::from(status.stx_mode) & 0o777);
    let path = path_of(fd);
    rustix::fs::chmod(path.as_str(), old | extra).map_err(|_| Errno::ACCESS)?;
    let result = attempt();
    rustix::fs::chmod(path.as_str(), old)?;
    result
}

impl FdCache {
    /// The tree below a directory.
    pub(crate) fn of(root: OwnedFd) -> Result<FdCache, Errno> {
        let key = status_of(&root)?.key;
        Ok(FdCache {
            nodes: InodeTable::new(key),
            root: Rc::new(root),
            root_key: key,
            directories: LruCache::new(MOST_OPEN),
            files: LruCache::new(MOST_OPEN),
            listings: LruCache::new(MOST_OPEN),
            nameless: HashMap::new(),
            news: SideEffects::default(),
        })
    }

    /// The directory itself.
    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Looks a name up, and counts it as held by the kernel.
    pub(crate) fn look_up(&mut self, parent: u64, name: &OsStr) -> Result<(u64, Found), Errno> {
        let directory = self.directory(parent)?;
        let found = with_access(&directory, Mode::XUSR, || status_at(&directory, name, AtFlags::empty()))?;
        Ok((self.hold(parent, name, &found)?, found))
    }

    /// Counts what stands at a name as held by the kernel once more.
    pub(crate) fn hold(&mut self, parent: u64, name: &OsStr, found: &Found) -> Result<u64, Errno> {
        let id = self.nodes.found(parent, name, found.key).map_err(|TableFull| Errno::NFILE)?;
        if is_directory(&found.status) {
            self.news.directories.push(id);
        }
        Ok(id)
    }

    /// What has come up since the last call.
    pub(crate) fn take_news(&mut self) -> SideEffects {
        std::mem::take(&mut self.news)
    }

    /// Opens a directory to watch it.
    pub(crate) fn watchable(&mut self, id: u64) -> Result<Rc<OwnedFd>, Errno> {
        let fd = self.reference(id)?;
        let Found { key, status } = status_of(&fd)?;
        if !is_directory(&status) {
            return Err(Errno::NOTDIR);
        }
        check_store(&fd, &key, &self.root_key)?;
        Ok(fd)
    }

    /// A descriptor of a file is kept no more.
    fn closing(&mut self, id: u64, data: &Data) {
        if data.writable {
            self.news.closed.extend(self.nodes.places(id));
        }
    }

    fn put(&mut self, id: u64, data: Data) {
        if let Some((other, gone)) = self.files.push(id, data) {
            self.closing(other, &gone);
        }
    }

    /// What stands at a name; the kernel does not hold it for that.
    pub(crate) fn status_in(&mut self, parent: u64, name: &OsStr) -> Result<Found, Errno> {
        let directory = self.directory(parent)?;
        status_at(&directory, name, AtFlags::empty())
    }

    /// Takes back what the kernel holds, and closes what it has forgotten. Returns what a nameless node still was.
    pub(crate) fn forget(&mut self, id: u64, times: u64) -> Option<Rc<OwnedFd>> {
        let places = self.files.peek(&id).map(|_| self.nodes.places(id));
        if !self.nodes.forget(id, times) {
            return None;
        }
        self.directories.pop(&id);
        if self.files.pop(&id).is_some_and(|data| data.writable) {
            self.news.closed.extend(places.into_iter().flatten());
        }
        self.listings.pop(&id);
        self.nameless.remove(&id)
    }

    /// Opens a node for reference only, whatever it is.
    pub(crate) fn reference(&mut self, id: u64) -> Result<Rc<OwnedFd>, Errno> {
        if id == ROOT {
            return Ok(Rc::clone(&self.root));
        }
        if let Some(fd) = self.nameless.get(&id).or_else(|| self.directories.get(&id)) {
            return Ok(Rc::clone(fd));
        }
        let key = self.nodes.key(id).ok_or(Errno::STALE)?;
        for place in self.nodes.places(id) {
            let Ok(parent) = self.directory(place.parent) else { continue };
            let opened = with_access(&parent, Mode::XUSR, || {
                openat(&parent, &place.name, OFlags::PATH | BEYOND, Mode::empty())
            });
            let Ok(fd) = opened else { continue };
            if status_of(&fd)?.key == key {
                return Ok(Rc::new(fd));
            }
        }
        Err(Errno::STALE)
    }

    /// Opens a directory for reference. Those above it are opened first, the highest first.
    pub(crate) fn directory(&mut self, id: u64) -> Result<Rc<OwnedFd>, Errno> {
        let mut missing = Vec::new();
        let mut current = id;
        while current != ROOT && !self.nameless.contains_key(&current) && !self.directories.contains(&current)
        {
            missing.push(current);
            if missing.len() > MOST_DEPTH {
                return Err(Errno::NAMETOOLONG);
            }
            match self.nodes.places(current).first() {
                Some(Place { parent, .. }) => current = *parent,
                None => return Err(Errno::STALE),
            }
        }
        while let Some(next) = missing.pop() {
            let fd = self.reference(next)?;
            let Found { key, status } = status_of(&fd)?;
            if !is_directory(&status) {
                return Err(Errno::NOTDIR);
            }
            check_store(&fd, &key, &self.root_key)?;
            self.directories.put(next, fd);
        }
        self.reference(id)
    }

    /// Attributes of a node.
    pub(crate) fn status(&mut self, id: u64) -> Result<Found, Errno> {
        if let Some(data) = self.files.get(&id) {
            return status_of(&data.fd);
        }
        if id == ROOT || self.nameless.contains_key(&id) || self.directories.contains(&id) {
            return status_of(&self.reference(id)?);
        }
        let key = self.nodes.key(id).ok_or(Errno::STALE)?;
        for place in self.nodes.places(id) {
            let Ok(parent) = self.directory(place.parent) else { continue };
            match status_at(&parent, &place.name, AtFlags::empty()) {
                Ok(found) if found.key == key => return Ok(found),
                _ => {}
            }
        }
        status_of(&self.reference(id)?)
    }

    /// Opens a regular file for its contents. Nothing else is ever opened: a pipe or device would not be the file
    /// system's matter, and might never answer.
    pub(crate) fn file(&mut self, id: u64, write: bool) -> Result<Rc<OwnedFd>, Errno> {
        if let Some(data) = self.files.get(&id).filter(|data| data.writable || !write) {
            return Ok(Rc::clone(&data.fd));
        }
        let reference = self.reference(id)?;
        let Found { key, status } = status_of(&reference)?;
        if !is_file(&status) {
            return Err(Errno::INVAL);
        }
        check_store(&reference, &key, &self.root_key)?;
        let path = path_of(&reference);
        let (access, extra) =
            if write { (OFlags::RDWR, Mode::RUSR | Mode::WUSR) } else { (OFlags::RDONLY, Mode::RUSR) };
        let flags = access | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = Rc::new(with_access(&reference, extra, || {
            rustix::fs::open(path.as_str(), flags, Mode::empty())
        })?);
        self.put(id, Data { fd: Rc::clone(&fd), writable: write });
        Ok(fd)
    }

    /// Keeps the descriptor of a file that was just made and is held.
    pub(crate) fn keep(&mut self, id: u64, fd: OwnedFd) {
        self.put(id, Data { fd: Rc::new(fd), writable: true });
    }

    /// Whatever stands at a name is about to lose it: what the kernel holds of it is kept open, so that whoever has it
    /// open in the guest can go on. Returns what that is.
    pub(crate) fn rescue(&mut self, parent: u64, name: &OsStr) -> Option<(u64, Rc<OwnedFd>)> {
        let id = self.nodes.at(parent, name)?;
        let fd = self.reference(id).ok().filter(|_| self.nameless.len() < MOST_NAMELESS)?;
        Some((id, fd))
    }

    /// A name is gone. What [`FdCache::rescue`] has kept lives on if that was its last.
    pub(crate) fn gone(&mut self, parent: u64, name: &OsStr, rescued: Option<(u64, Rc<OwnedFd>)>) {
        self.nodes.gone(parent, name);
        if let Some((id, fd)) = rescued
            && self.nodes.places(id).is_empty()
        {
            self.nameless.insert(id, fd);
        }
    }

    /// The names of a directory from `offset` on, as far as `take` takes them.
    pub(crate) fn list(
        &mut self,
        id: u64,
        offset: u64,
        mut take: impl FnMut(&mut FdCache, &DirectoryName) -> bool,
    ) -> Result<(), Errno> {
        let kept = self.listings.pop(&id).filter(|listing| offset != 0 && listing.at == offset);
        let mut listing = match kept {
            Some(listing) => listing,
            None => self.listing(id, offset)?,
        };
        loop {
            if listing.ready.is_empty() && !listing.fill()? {
                break;
            }
            let Some(next) = listing.ready.front() else { break };
            if !take(self, next) {
                break;
            }
            listing.at = next.next;
            listing.ready.pop_front();
        }
        self.listings.put(id, listing);
        Ok(())
    }

    fn listing(&mut self, id: u64, offset: u64) -> Result<Listing, Errno> {
        let directory = self.directory(id)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = with_access(&directory, Mode::RUSR | Mode::XUSR, || {
            openat(&directory, ".", flags, Mode::empty())
        })?;
        if offset != 0 {
            rustix::fs::seek(&fd, SeekFrom::Start(offset))?;
        }
        Ok(Listing { fd, ready: VecDeque::new(), at: offset })
    }
}

impl Listing {
    /// Reads on. Returns whether there was more.
    fn fill(&mut self) -> Result<bool, Errno> {
        let mut buffer = [MaybeUninit::<u8>::uninit(); LISTING];
        let mut entries = RawDir::new(&self.fd, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            self.ready.push_back(DirectoryName {
                inode: entry.ino(),
                next: entry.next_entry_cookie(),
                kind: kind_of(entry.file_type()),
                name: OsString::from_vec(entry.file_name().to_bytes().to_vec()),
            });
            if entries.is_buffer_empty() {
                break;
            }
        }
        Ok(!self.ready.is_empty())
    }
}

/// `d_type` of a file type: the type's bits of a mode, moved down.
fn kind_of(kind: FileType) -> u32 {
    kind.as_raw_mode() >> 12
}

/// Type and permissions as the guest is told them, without set-user-id bits.
pub(crate) fn shown_mode(status: &Statx) -> u32 {
    let mode = u32::from(status.stx_mode);
    mode & (0o170_000 | 0o777)
}
