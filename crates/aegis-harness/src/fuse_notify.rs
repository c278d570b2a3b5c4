//! Raises `inotify(7)` events for what others change in directories of the host, and invalidates what the kernel has cached
//! of it.
//!
//! FUSE has no message that raises an event. So one thread does here what has been done there: it makes the name that was
//! made, removes the one that was removed. None of that reaches the host ([`crate::fuse_replay`]). It works on mounts of its own,
//! which nobody sees, so nothing that is mounted over them in the guest is ever touched. It may wait for the server and for
//! whoever uses a directory; nobody waits for it. What comes meanwhile is bounded by what the server may send.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex};

use aegis_guest_protocol::changes::{Change, Spot, Touch, Type, WINDOW};
use aegis_sys::guest::fuse_node;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Statx, StatxFlags, Timespec, Timestamps,
    UTIME_NOW, UTIME_OMIT, openat, openat2, statx, utimensat,
};
use rustix::io::Errno;

use crate::fuse_replay::{Entry, Known, ReplayedChange, Step, forget_contents, forget_name, step, thread_of};
use crate::sync::lock;

/// Most changes that wait: those of this server, and of some before it.
const MOST_WAITING: usize = 4 * WINDOW as usize;
/// After how many changes the server hears that they have been dealt with: it is to send on before all have been.
const AT_ONCE: u64 = WINDOW as u64 / 4;
/// Nodes from here on are this thread's own: names that are gone and that the kernel never knew.
const OWN_NODES: u64 = 1 << 63;

/// A change of what one mount shows, as the server with this number has told it.
#[derive(Debug)]
pub(crate) struct ChangeNotification {
    pub(crate) server: u64,
    pub(crate) mount: u32,
    pub(crate) change: Change,
}

/// What is shared with those who carry requests and changes.
#[derive(Debug)]
pub(crate) struct Shared {
    waiting: Mutex<VecDeque<ChangeNotification>>,
    more: Condvar,
    /// The thread that repeats changes, 0 until it runs.
    thread: AtomicU32,
    repeated: Mutex<ReplayedChange>,
}

impl Shared {
    pub(crate) fn new() -> Shared {
        Shared {
            waiting: Mutex::default(),
            more: Condvar::new(),
            thread: AtomicU32::new(0),
            repeated: Mutex::new(ReplayedChange::Touch),
        }
    }

    /// Takes a change. What there is no room for is seen when the kernel asks again.
    pub(crate) fn put(&self, told: ChangeNotification) {
        let mut waiting = lock(&self.waiting);
        if waiting.len() < MOST_WAITING {
            waiting.push_back(told);
            self.more.notify_one();
        }
    }

    fn take(&self) -> VecDeque<ChangeNotification> {
        let mut waiting = lock(&self.waiting);
        while waiting.is_empty() {
            waiting = self.more.wait(waiting).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        std::mem::take(&mut waiting)
    }

    /// What to do with a request; `None` if it is not of the thread that repeats changes.
    pub(crate) fn step(&self, message: &[u8]) -> Option<Step> {
        let thread = self.thread.load(Ordering::Acquire);
        (thread != 0 && thread_of(message) == Some(thread)).then(|| step(message, &lock(&self.repeated)))
    }
}

/// A mount, as this thread uses it.
#[derive(Debug)]
pub(crate) struct MountedExport {
    /// Where the kernel takes messages for it.
    pub(crate) device: OwnedFd,
    /// A mount of the same that nobody else sees.
    pub(crate) root: OwnedFd,
}

#[derive(Debug)]
struct ChangeReplayer<'a> {
    shared: &'a Shared,
    places: Vec<MountedExport>,
    /// The roots, not only for reference.
    opened: Vec<OwnedFd>,
    own: u64,
}

/// Repeats changes for as long as the machine lives. `done` is told how many of which server's have been dealt with.
pub(crate) fn repeat(
    shared: &Shared,
    places: Vec<MountedExport>,
    done: impl Fn(u64, u64) -> io::Result<()>,
) -> io::Result<()> {
    // Before the first request: what it asks for is never taken for anybody else's.
    shared.thread.store(rustix::thread::gettid().as_raw_pid().cast_unsigned(), Ordering::Release);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |place: &MountedExport| openat(&place.root, ".", flags, Mode::empty());
    let opened = places.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let mut repeater = ChangeReplayer { shared, places, opened, own: OWN_NODES };
    loop {
        let all = shared.take();
        // All of it is out of date at once, however long the rest takes.
        all.iter().for_each(|told| repeater.forget(told));
        let (mut server, mut count) = (0, 0);
        for told in all {
            repeater.repeat(&told);
            if told.server != server || count >= AT_ONCE {
                done(server, std::mem::take(&mut count))?;
            }
            (server, count) = (told.server, count + 1);
        }
        done(server, count)?;
    }
}

impl ChangeReplayer<'_> {
    fn place(&self, told: &ChangeNotification) -> Option<(&MountedExport, BorrowedFd<'_>)> {
        let index = usize::try_from(told.mount).ok()?;
        Some((self.places.get(index)?, self.opened.get(index)?.as_fd()))
    }

    /// Tells the kernel what is out of date.
    fn forget(&self, told: &ChangeNotification) {
        let Some((MountedExport { device, .. }, _)) = self.place(told) else { return };
        let notices = match &told.change {
            Change::Touched { node: 0, .. } => Vec::new(),
            Change::Touched { node, how, .. } => vec![forget_contents(*node, !how.contents)],
            Change::Made { at, .. } | Change::Gone { at, .. } => vec![forget_name(at)],
            Change::Moved { from, to, .. } => vec![forget_name(from), forget_name(to)],
        };
        for notice in notices {
            // What it does not know is not out of date.
            let _unknown = rustix::io::write(device, &notice);
        }
    }

    fn repeat(&mut self, told: &ChangeNotification) {
        if matches!(told.change, Change::Gone { .. } | Change::Moved { .. }) {
            // What was repeated before it may have found nothing at the name, which is believed for a while too.
            self.forget(told);
        }
        let done = match &told.change {
            Change::Touched { at, how, .. } => self.touch(told, at, *how),
            Change::Made { at, what } => self.make(told, at, *what),
            Change::Gone { at, node, directory } => self.remove(told, at, *node, *directory),
            Change::Moved { from, to, replaced, directory } => {
                self.rename(told, from, to, *replaced, *directory)
            }
        };
        // Something else has become of it meanwhile, which is told next.
        let _outrun = done;
    }

    /// Opens the directory of a name for reference; nothing is repeated yet.
    fn directory(&self, told: &ChangeNotification, at: &Spot) -> Result<OwnedFd, Errno> {
        *lock(&self.shared.repeated) = ReplayedChange::Touch;
        let (place, _) = self.place(told).ok_or(Errno::NOENT)?;
        let path = if at.path.is_empty() { b"." } else { &at.path[..] };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        openat2(&place.root, path, flags, Mode::empty(), within)
    }

    fn begin(&self, repeated: ReplayedChange) {
        *lock(&self.shared.repeated) = repeated;
    }

    fn touch(&self, told: &ChangeNotification, at: &Spot, how: Touch) -> Result<(), Errno> {
        let directory = self.directory(told, at)?;
        let name = &at.name[..];
        let file =
            openat(&directory, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let stamp = |last_access| {
            let times = Timestamps { last_access, last_modification: now };
            utimensat(&file, "", &times, AtFlags::EMPTY_PATH)
        };
        if how.attributes {
            stamp(now)?;
        }
        if how.contents {
            // The time of the last change alone is what the kernel takes for a change of the contents.
            stamp(Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT })?;
        }
        if how.closed && kind_of(&status_of(&file)?) == FileType::RegularFile {
            let flags =
                OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            drop(openat(&directory, name, flags, Mode::empty())?);
        }
        Ok(())
    }

    fn make(&self, told: &ChangeNotification, at: &Spot, what: Type) -> Result<(), Errno> {
        let directory = self.directory(told, at)?;
        let (name, mode) = (&at.name[..], Mode::from_raw_mode(0o600));
        self.begin(ReplayedChange::Making(at.clone()));
        let node = |kind| rustix::fs::mknodat(&directory, name, kind, mode, 0);
        match what {
            Type::File => node(FileType::RegularFile),
            Type::Pipe => node(FileType::Fifo),
            Type::Socket => node(FileType::Socket),
            Type::Directory => rustix::fs::mkdirat(&directory, name, mode),
            Type::SymbolicLink => rustix::fs::symlinkat("target", &directory, name),
        }
    }

    fn remove(
        &mut self,
        told: &ChangeNotification,
        at: &Spot,
        node: u64,
        is_directory: bool,
    ) -> Result<(), Errno> {
        let directory = self.directory(told, at)?;
        let entry = self.known(told, node).unwrap_or_else(|| self.unknown(node, is_directory));
        self.begin(ReplayedChange::Removing(at.clone(), entry));
        let flags = if is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        rustix::fs::unlinkat(&directory, &at.name[..], flags)
    }

    fn rename(
        &self,
        told: &ChangeNotification,
        from: &Spot,
        to: &Spot,
        replaced: u64,
        is_directory: bool,
    ) -> Result<(), Errno> {
        let (old, new) = (self.directory(told, from)?, self.directory(told, to)?);
        let replaced = self.known(told, replaced).filter(|_| !is_directory);
        self.begin(ReplayedChange::Moving(from.clone(), to.clone(), replaced));
        rustix::fs::renameat_with(&old, &from.name[..], &new, &to.name[..], RenameFlags::empty())
    }

    /// What the kernel has in memory of a node.
    fn known(&self, told: &ChangeNotification, node: u64) -> Option<Entry> {
        if node == 0 {
            return None;
        }
        let (_, opened) = self.place(told)?;
        let status = status_of(&fuse_node(opened, node).ok()?).ok()?;
        let of = |time: &rustix::fs::StatxTimestamp| (time.tv_sec, time.tv_nsec);
        let known = Known {
            node,
            inode: status.stx_ino,
            size: status.stx_size,
            blocks: status.stx_blocks,
            times: [of(&status.stx_atime), of(&status.stx_mtime), of(&status.stx_ctime)],
            mode: status.stx_mode.into(),
            links: status.stx_nlink,
            owner: (status.stx_uid, status.stx_gid),
        };
        Some(known.entry())
    }

    /// Something that the kernel does not have in memory, or never knew.
    fn unknown(&mut self, node: u64, is_directory: bool) -> Entry {
        self.own = OWN_NODES | self.own.wrapping_add(1);
        let node = if node == 0 { self.own } else { node };
        let mode = if is_directory { 0o040_700 } else { 0o100_600 };
        Known { node, inode: node, mode, links: 1, ..Known::default() }.entry()
    }
}

/// As the kernel has it: the server is not asked.
fn status_of(fd: &OwnedFd) -> Result<Statx, Errno> {
    statx(fd, "", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, StatxFlags::BASIC_STATS)
}

fn kind_of(status: &Statx) -> FileType {
    FileType::from_raw_mode(status.stx_mode.into())
}
