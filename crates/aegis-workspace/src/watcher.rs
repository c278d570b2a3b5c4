//! Which directories of the host are watched (`inotify(7)`), and what has happened in them.
//!
//! Those that the guest's kernel knows are watched: of the others it can believe nothing that is out of date, and nobody in
//! the guest can watch them. The host bounds how many directories a user may watch, and how many users of inotify there
//! may be. Where there is no room for one, the guest sees changes there as it does without: when it asks again.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use lru::LruCache;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use crate::fd_cache::path_of;

/// Most directories that one machine watches.
const MOST_WATCHES: usize = 8192;
/// Which part of what the host allows a user to watch one machine may take.
const SHARE: usize = 4;
/// Where the host says what it allows.
const ALLOWED: &str = "/proc/sys/fs/inotify/max_user_watches";
/// Most events that are taken at a time: whoever changes files without end does not keep the server from its guest.
const MOST_EVENTS: usize = 16_384;
/// How long, and how often, the second half of a rename is waited for.
const HALF_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
const HALF_ROUNDS: usize = 2;
/// How much is read at a time, bytes.
const PIECE: usize = 16 << 10;

/// A directory: the number of its export, and that of its node.
pub(crate) type Directory = (usize, u64);

/// Something that has happened to a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// Where; in as many exports as show it.
    pub(crate) directories: Vec<Directory>,
    /// What.
    pub(crate) what: ReadFlags,
    /// What the two halves of a rename have in common.
    pub(crate) cookie: u32,
    /// The name.
    pub(crate) name: Vec<u8>,
}

/// Directories that are watched.
#[derive(Debug)]
pub(crate) struct Watcher {
    fd: OwnedFd,
    watches: LruCache<Directory, i32>,
    directories: HashMap<i32, Vec<Directory>>,
    most: NonZeroUsize,
    /// Why not all is told.
    complaint: Option<&'static str>,
}

/// Whether the last of these renames lacks its second half. It may never come: what it was moved to is not watched.
fn has_half(events: &[Event]) -> bool {
    let moves = events
        .iter()
        .rev()
        .filter(|event| event.what.intersects(ReadFlags::MOVED_FROM | ReadFlags::MOVED_TO));
    moves.take(1).any(|event| event.what.contains(ReadFlags::MOVED_FROM))
}

fn interest() -> WatchFlags {
    WatchFlags::ATTRIB
        | WatchFlags::MODIFY
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO
        | WatchFlags::ONLYDIR
        | WatchFlags::EXCL_UNLINK
}

/// How many directories to watch where the host allows so many.
fn most(allowed: Option<usize>) -> NonZeroUsize {
    let most = allowed.map_or(MOST_WATCHES, |allowed| MOST_WATCHES.min(allowed / SHARE));
    NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN)
}

impl Watcher {
    /// Watches nothing yet. It is made before this process is confined.
    ///
    /// # Errors
    /// `EMFILE` if the user has too many of them already.
    pub(crate) fn new() -> Result<Watcher, Errno> {
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let allowed = std::fs::read_to_string(ALLOWED).ok().and_then(|text| text.trim().parse().ok());
        Ok(Watcher {
            fd,
            watches: LruCache::unbounded(),
            directories: HashMap::new(),
            most: most(allowed),
            complaint: None,
        })
    }

    /// Readable when something has happened.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether no more can be watched without giving up others.
    pub(crate) fn is_full(&self) -> bool {
        self.watches.len() >= self.most.get()
    }

    /// Watches a directory, which `open` opens if it is not watched already.
    pub(crate) fn watch<D: AsFd>(&mut self, directory: Directory, open: impl FnOnce() -> Result<D, Errno>) {
        if self.watches.get(&directory).is_some() {
            return;
        }
        // One that cannot be opened is none of the guest's.
        let Ok(opened) = open() else { return };
        while self.is_full() && !self.watches.is_empty() {
            self.complaint = Some("the guest uses more directories than are watched");
            self.drop_oldest();
        }
        let number = match inotify::add_watch(&self.fd, path_of(&opened).as_str(), interest()) {
            Ok(number) => number,
            Err(Errno::NOSPC) => {
                self.complaint =
                    Some("the host allows no more directories to be watched (fs.inotify.max_user_watches)");
                // From now on others have to go first.
                self.most = NonZeroUsize::new(self.watches.len()).unwrap_or(NonZeroUsize::MIN);
                return;
            }
            Err(_) => return,
        };
        self.watches.push(directory, number);
        let same = self.directories.entry(number).or_default();
        if !same.contains(&directory) {
            same.push(directory);
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((directory, number)) = self.watches.pop_lru() {
            self.unwatch(directory, number);
        }
    }

    fn unwatch(&mut self, directory: Directory, number: i32) {
        let Some(same) = self.directories.get_mut(&number) else { return };
        same.retain(|other| *other != directory);
        if same.is_empty() {
            self.directories.remove(&number);
            // If the directory is gone, so is the watch.
            let _gone = inotify::remove_watch(&self.fd, number);
        }
    }

    /// The guest's kernel does not know this directory any more.
    pub(crate) fn forget(&mut self, directory: Directory) {
        if let Some(number) = self.watches.pop(&directory) {
            self.unwatch(directory, number);
        }
    }

    /// What has happened since the last call.
    pub(crate) fn take(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        self.read(&mut events);
        // The second half of a rename comes a moment after the first one, which may have been what woke this process.
        for _ in 0..HALF_ROUNDS {
            if !has_half(&events) || events.len() >= MOST_EVENTS {
                break;
            }
            let _more = poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&HALF_WAIT));
            self.read(&mut events);
        }
        events
    }

    fn read(&mut self, events: &mut Vec<Event>) {
        let mut buffer = [MaybeUninit::uninit(); PIECE];
        let mut gone = Vec::new();
        let mut reader = inotify::Reader::new(&self.fd, &mut buffer);
        while events.len() < MOST_EVENTS || !reader.is_buffer_empty() {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::INTR) => continue,
                Err(_) => break,
            };
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                self.complaint = Some("more has been changed at once than the host tells of");
            }
            if event.events().contains(ReadFlags::IGNORED) {
                gone.push(event.wd());
            }
            if let (Some(directories), Some(name)) = (self.directories.get(&event.wd()), event.file_name()) {
                events.push(Event {
                    directories: directories.clone(),
                    what: event.events(),
                    cookie: event.cookie(),
                    name: name.to_bytes().to_vec(),
                });
            }
        }
        for number in gone {
            for directory in self.directories.remove(&number).into_iter().flatten() {
                self.watches.pop(&directory);
            }
        }
    }

    /// Why not all is told, if something has come up since the last call.
    pub(crate) fn complaint(&mut self) -> Option<&'static str> {
        self.complaint.take()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    #[test]
    fn one_machine_takes_a_part_of_what_the_host_allows() {
        assert_eq!(most(None).get(), MOST_WATCHES);
        assert_eq!(most(Some(1 << 20)).get(), MOST_WATCHES);
        assert_eq!(most(Some(8192)).get(), 2048);
        assert_eq!(most(Some(0)).get(), 1);
    }

    #[test]
    fn what_happens_is_told_of_the_directories_used_last() {
        let dir = tempfile::tempdir().unwrap();
        let mut watcher = Watcher::new().unwrap();
        watcher.most = NonZeroUsize::new(2).unwrap();
        for (number, name) in (0u64..).zip(["a", "b", "c"]) {
            fs::create_dir(dir.path().join(name)).unwrap();
            watcher.watch((0, number), || Ok(File::open(dir.path().join(name)).unwrap()));
        }
        for name in ["a", "b", "c"] {
            fs::write(dir.path().join(name).join("f"), "x").unwrap();
        }
        let events = watcher.take();
        let told = |event: &Event| (event.directories.clone(), event.name.clone());
        assert!(events.iter().all(|event| told(event).0 != [(0, 0)]), "{events:?}");
        for number in [1, 2] {
            let there: Vec<_> = events.iter().filter(|event| event.directories == [(0, number)]).collect();
            let what: Vec<_> = there.iter().map(|event| event.what).collect();
            assert_eq!(what, [ReadFlags::CREATE, ReadFlags::MODIFY, ReadFlags::CLOSE_WRITE]);
            assert!(there.iter().all(|event| event.name == b"f"));
        }
        assert!(watcher.complaint().is_some() && watcher.complaint().is_none());
        // A directory that is gone is watched no more, and one that is forgotten neither.
        fs::remove_dir_all(dir.path().join("b")).unwrap();
        watcher.forget((0, 2));
        fs::write(dir.path().join("c/g"), "x").unwrap();
        assert!(watcher.take().iter().all(|event| event.directories == [(0, 1)]));
        assert_eq!((watcher.watches.len(), watcher.directories.len()), (0, 0));
    }

    #[test]
    fn both_halves_of_a_rename_are_taken_together() {
        let dir = tempfile::tempdir().unwrap();
        let mut watcher = Watcher::new().unwrap();
        watcher.watch((0, 1), || Ok(File::open(dir.path()).unwrap()));
        let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
        fs::write(&a, "").unwrap();
        let _made = watcher.take();
        let mover = std::thread::spawn(move || {
            for _ in 0..2000 {
                fs::rename(&a, &b).unwrap();
                fs::rename(&b, &a).unwrap();
            }
        });
        let mut all = Vec::new();
        while !mover.is_finished() {
            let events = watcher.take();
            all.push(!has_half(&events));
        }
        // A processor that is taken away for long enough is no fault.
        assert!(all.iter().filter(|whole| !**whole).count() <= all.len() / 50 + 2);
    }

    #[test]
    fn a_directory_that_is_shown_twice_is_told_of_twice() {
        let dir = tempfile::tempdir().unwrap();
        let mut watcher = Watcher::new().unwrap();
        let open = || Ok(File::open(dir.path()).unwrap());
        watcher.watch((0, 1), open);
        watcher.watch((1, 1), open);
        fs::write(dir.path().join("f"), "").unwrap();
        assert_eq!(watcher.take().first().map(|event| event.directories.clone()), Some(vec![(0, 1), (1, 1)]));
        watcher.forget((0, 1));
        fs::write(dir.path().join("g"), "").unwrap();
        assert_eq!(watcher.take().first().map(|event| event.directories.clone()), Some(vec![(1, 1)]));
    }
}
