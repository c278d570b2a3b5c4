//! Free space of a file system, in bytes and in inodes, and when that is too little.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

/// Least room that is kept for what there is already, unless set otherwise, bytes.
const FLOOR_BYTES: u64 = 256 << 20;
/// Most that is kept free on a large disk without being asked to, bytes.
const MOST_FLOOR_BYTES: u64 = 4 << 30;
/// No more inodes than that are kept free.
const MOST_FLOOR_INODES: u64 = 2048;
/// No fewer inodes than that are kept free where there are enough: a start takes a dozen.
const LEAST_FLOOR_INODES: u64 = 64;
/// The default floor is at most this part of a file system, which may be small.
const SMALL_PART: u64 = 4;

/// What large writes of the daemon's own leave: guests have no room to write into what is nearly full.
const LEAST_LEFT_BYTES: u64 = 128 << 20;
/// On a small file system it is this part.
const LEAST_LEFT_PART: u64 = 16;
/// How much is written before the room is looked at once more.
const STRETCH: u64 = 64 << 20;

/// How often the room is looked at while there is plenty.
const CALM: Duration = Duration::from_secs(1);
/// How often it is looked at near the floor.
const ALERT: Duration = Duration::from_millis(50);
/// How fast a file system may fill up, bytes a second.
const FASTEST: u64 = 2 << 30;
/// How fast its inodes may go, a second.
const FASTEST_INODES: u64 = 50_000;

/// What a file system has, and what of it is left for a user without privileges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Size, bytes.
    pub total_bytes: u64,
    /// Left, bytes.
    pub free_bytes: u64,
    /// Inodes; 0 where the file system makes them as they are needed.
    pub total_inodes: u64,
    /// Inodes that are left.
    pub free_inodes: u64,
}

impl Room {
    /// The room of the file system that `path`, or the nearest directory above it that exists, is on.
    ///
    /// # Errors
    /// The system's.
    pub fn at(path: &Path) -> io::Result<Room> {
        let existing = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        Ok(Room::of(&rustix::fs::statvfs(existing)?))
    }

    fn of(stat: &rustix::fs::StatVfs) -> Room {
        Room {
            total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            total_inodes: stat.f_files,
            free_inodes: stat.f_favail,
        }
    }

    /// Whether so many bytes can be written, with enough left for what is written by others.
    fn has(&self, bytes: u64) -> bool {
        let left = LEAST_LEFT_BYTES.min(self.total_bytes / LEAST_LEFT_PART);
        self.free_bytes.saturating_sub(bytes) >= left
    }
}

/// Checks that what is about to be written into a file, bytes, leaves room on its file system.
///
/// # Errors
/// [`io::ErrorKind::StorageFull`], or the system's.
pub fn check_for(file: impl AsFd, bytes: u64) -> io::Result<()> {
    let room = Room::of(&rustix::fs::fstatvfs(file)?);
    if room.has(bytes) {
        return Ok(());
    }
    let (free, wanted) = (room.free_bytes >> 20, bytes >> 20);
    let text = format!(
        "the host's disk is nearly full: {free} MiB are free, and {wanted} MiB more are to be written"
    );
    Err(io::Error::new(io::ErrorKind::StorageFull, text))
}

/// Looks at the room from time to time while much is written.
#[derive(Debug, Default)]
pub struct SpaceCheck {
    /// What may be written before the next look.
    left: u64,
}

impl SpaceCheck {
    /// To be asked before so many bytes are written into a file.
    ///
    /// # Errors
    /// As of [`check_for`].
    pub fn check(&mut self, file: impl AsFd, bytes: u64) -> io::Result<()> {
        if bytes > self.left {
            check_for(file, STRETCH.max(bytes))?;
            self.left = STRETCH.max(bytes);
        }
        self.left -= bytes;
        Ok(())
    }
}

/// What is read to be written to the file system of `target`: it ends with an error before that is full.
#[derive(Debug)]
pub struct SpaceCheckedReader<R, F> {
    from: R,
    target: F,
    pace: SpaceCheck,
}

impl<R, F> SpaceCheckedReader<R, F> {
    /// What is read from `from`.
    pub fn new(from: R, target: F) -> SpaceCheckedReader<R, F> {
        SpaceCheckedReader { from, target, pace: SpaceCheck::default() }
    }
}

impl<R: Read, F: AsFd> Read for SpaceCheckedReader<R, F> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(into)?;
        self.pace.check(&self.target, count as u64)?;
        Ok(count)
    }
}

/// How the room compares with its floors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// There is enough.
    Ample,
    /// Nothing new is begun.
    Low,
    /// What grows is paused.
    Full,
}

/// Below these nothing new is begun; below half of them, what grows is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Floors {
    /// Bytes.
    pub bytes: u64,
    /// Inodes; 0 where they are not counted.
    pub inodes: u64,
}

impl Floors {
    /// The floors of a file system of this size; `configured` bytes in place of the default.
    #[must_use]
    pub fn of(room: &Room, configured: Option<u64>) -> Floors {
        let part = (room.total_bytes / 100).min(MOST_FLOOR_BYTES);
        let usual = FLOOR_BYTES.max(part).min(room.total_bytes / SMALL_PART);
        let inodes = (room.total_inodes / 100).clamp(LEAST_FLOOR_INODES, MOST_FLOOR_INODES);
        Floors { bytes: configured.unwrap_or(usual), inodes: inodes.min(room.total_inodes / SMALL_PART) }
    }

    /// How the room compares with them.
    #[must_use]
    pub fn level(&self, room: &Room) -> Level {
        let of = |free: u64, floor: u64| {
            if free < floor / 2 {
                Level::Full
            } else if free < floor {
                Level::Low
            } else {
                Level::Ample
            }
        };
        of(room.free_bytes, self.bytes).max(of(room.free_inodes, self.inodes))
    }

    /// When to look again, so that nothing fills what is left between the floor and zero unseen.
    #[must_use]
    pub fn look_again(&self, room: &Room) -> Duration {
        if self.level(room) != Level::Ample {
            return ALERT;
        }
        let lasts =
            |free: u64, floor: u64, fastest: u64| free.saturating_sub(floor).saturating_mul(1000) / fastest;
        let bytes = lasts(room.free_bytes, self.bytes, FASTEST);
        // Without a floor they are not counted.
        let inodes = (self.inodes > 0).then(|| lasts(room.free_inodes, self.inodes, FASTEST_INODES));
        Duration::from_millis(bytes.min(inodes.unwrap_or(bytes))).clamp(ALERT, CALM)
    }

    /// Why nothing new is begun, with figures; `None` if there is room.
    #[must_use]
    pub fn refusal(&self, room: &Room) -> Option<String> {
        if self.level(room) == Level::Ample {
            return None;
        }
        let (free, floor) = (room.free_bytes >> 20, self.bytes >> 20);
        Some(if room.free_bytes < self.bytes {
            format!("the host's disk is full: {free} MiB are free, and {floor} MiB have to be")
        } else {
            let (free, floor) = (room.free_inodes, self.inodes);
            format!("the host's disk is full: {free} inodes are free, and {floor} have to be")
        })
    }
}

/// What sparse files may still take: each has a size and what is allocated of it, bytes.
#[must_use]
pub fn promised(disks: impl IntoIterator<Item = (u64, u64)>) -> u64 {
    disks.into_iter().fold(0, |sum, (size, taken)| sum.saturating_add(size.saturating_sub(taken)))
}

/// What a file takes of its file system, bytes; nothing if there is none.
#[must_use]
pub fn allocated(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    // In units of 512 bytes, whatever the file system's blocks are.
    std::fs::metadata(path).map_or(0, |meta| meta.blocks().saturating_mul(512))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn room(total_bytes: u64, free_bytes: u64, total_inodes: u64, free_inodes: u64) -> Room {
        Room { total_bytes, free_bytes, total_inodes, free_inodes }
    }

    #[test]
    fn what_is_nearly_used_up_is_looked_at_often_bytes_and_inodes_alike() {
        let look = |room: Room| Floors::of(&room, None).look_again(&room);
        assert_eq!(look(room(1 << 40, 1 << 39, 1 << 24, 1 << 23)), CALM);
        assert_eq!(look(room(1 << 40, 1 << 39, 0, 0)), CALM);
        assert_eq!(look(room(1 << 40, 1 << 39, 6080, 2000)), ALERT);
        assert!(look(room(1 << 30, 600 << 20, 1 << 24, 1 << 23)) < CALM);
    }

    #[test]
    fn large_writes_leave_room_for_those_of_others() {
        let room = |total: u64, free: u64| Room {
            total_bytes: total << 20,
            free_bytes: free << 20,
            total_inodes: 0,
            free_inodes: 0,
        };
        let can = |room: Room, mebibytes: u64| room.has(mebibytes << 20);
        assert!(can(room(1 << 20, 1128), 1000) && !can(room(1 << 20, 1128), 1001), "a large disk");
        assert!(can(room(160, 110), 100) && !can(room(160, 110), 101), "a small one");
        assert!(!can(room(160, 9), 0));
        let file = tempfile::tempfile().unwrap();
        assert_eq!(check_for(&file, u64::MAX).unwrap_err().kind(), io::ErrorKind::StorageFull);
        let mut paced = SpaceCheckedReader::new(&b"abc"[..], &file);
        assert_eq!(io::read_to_string(&mut paced).unwrap(), "abc");
    }

    #[test]
    fn the_floors_fit_the_file_system() {
        let floors = |total, inodes| Floors::of(&room(total, 0, inodes, 0), None);
        assert_eq!(floors(10 << 40, 1 << 30), Floors { bytes: 4 << 30, inodes: 2048 });
        assert_eq!(floors(100 << 30, 100_000).bytes, (100 << 30) / 100);
        assert_eq!(floors(10 << 30, 100_000), Floors { bytes: 256 << 20, inodes: 1000 });
        assert_eq!(floors(400 << 20, 1000), Floors { bytes: 100 << 20, inodes: 64 });
        assert_eq!(floors(400 << 20, 0).inodes, 0);
        assert_eq!(Floors::of(&room(1 << 40, 0, 0, 0), Some(7)).bytes, 7);
    }

    #[test]
    fn a_refusal_names_what_is_missing() {
        let floors = Floors { bytes: 100 << 20, inodes: 64 };
        assert_eq!(floors.refusal(&room(1 << 30, 100 << 20, 1000, 64)), None);
        let bytes = floors.refusal(&room(1 << 30, 99 << 20, 1000, 1)).unwrap();
        assert_eq!(bytes, "the host's disk is full: 99 MiB are free, and 100 MiB have to be");
        let inodes = floors.refusal(&room(1 << 30, 100 << 20, 1000, 63)).unwrap();
        assert_eq!(inodes, "the host's disk is full: 63 inodes are free, and 64 have to be");
        // Not counted, so never missing.
        assert_eq!(Floors { inodes: 0, ..floors }.level(&room(1 << 30, 1 << 30, 0, 0)), Level::Ample);
    }

    #[test]
    fn the_room_of_a_path_that_is_not_there_yet_is_that_of_its_file_system() {
        let there = Room::at(Path::new("/tmp")).unwrap();
        assert_eq!(Room::at(Path::new("/tmp/nowhere/at/all")).unwrap().total_bytes, there.total_bytes);
    }

    proptest! {
        #[test]
        fn less_room_is_never_a_better_level_and_is_looked_at_in_time(
            total: u64, free: u64, less: u64, inodes: u64, free_inodes: u64, configured in proptest::option::of(any::<u64>()),
        ) {
            let before = room(total, free, inodes, free_inodes);
            let after = Room { free_bytes: free.saturating_sub(less), ..before };
            let floors = Floors::of(&before, configured);
            prop_assert!(floors.level(&after) >= floors.level(&before));
            prop_assert_eq!(floors.refusal(&after).is_some(), floors.level(&after) != Level::Ample);
            let wait = floors.look_again(&before);
            prop_assert!((ALERT..=CALM).contains(&wait));
            // From where nothing is wrong, the pause comes before zero also at the greatest speed.
            if configured.is_none() && floors.bytes >= FLOOR_BYTES && floors.level(&before) == Level::Ample {
                let filled = u64::try_from(wait.as_millis()).unwrap() * (FASTEST / 1000);
                prop_assert!(filled < free);
            }
        }

        #[test]
        fn what_is_promised_is_the_sum_of_what_is_not_taken(disks in proptest::collection::vec((0u64..1 << 50, 0u64..1 << 50), 0..20)) {
            let sum = disks.iter().map(|(size, taken)| size.saturating_sub(*taken)).sum::<u64>();
            prop_assert_eq!(promised(disks), sum);
        }
    }
}
