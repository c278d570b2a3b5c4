//! Room on the host's disk: what is left, and whether anything new may begin.
//!
//! Guests' disks are sparse, so together they may take more than there is. Below a floor nothing new is begun.
//! [`aegis_store::free_space`] decides about the levels.

use std::path::PathBuf;

use aegis_store::free_space::{Floors, Level, Room, allocated, promised};
use aegis_store::home::Home;
use aegis_store::reserve::{self, Reserve};

/// Settings of the host's disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskSettings {
    /// What is kept free, bytes; as the size of the file system suggests, unless set.
    pub floor: Option<u64>,
    /// Whether one disk may be larger than what is free.
    pub overcommit: bool,
}

/// The file system of the home.
#[derive(Debug)]
pub struct DiskSpace {
    data: PathBuf,
    settings: DiskSettings,
    reserve: Reserve,
}

/// What there is to say of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskReport {
    /// What is left.
    pub room: Room,
    /// What is kept free.
    pub floors: Floors,
    /// How these compare.
    pub level: Level,
    /// What is kept in reserve, bytes; `None` if nothing is.
    pub reserve: Option<u64>,
    /// What the disks of all instances may still take, bytes.
    pub promised: u64,
}

impl DiskReport {
    /// What there is to say while no daemon runs, going by the disks that are there. Blocks.
    ///
    /// # Errors
    /// The system's.
    pub fn at_rest(home: &Home, settings: DiskSettings) -> std::io::Result<DiskReport> {
        let room = Room::at(&home.data())?;
        let floors = Floors::of(&room, settings.floor);
        let found = std::fs::read_dir(home.disks()).into_iter().flatten().flatten();
        let disks = found.filter_map(|entry| Some((entry.metadata().ok()?.len(), allocated(&entry.path()))));
        let reserve = reserve::in_data(&home.data()).bytes();
        Ok(DiskReport { room, floors, level: floors.level(&room), reserve, promised: promised(disks) })
    }
}

impl DiskSpace {
    /// The disk that this directory is on.
    #[must_use]
    pub fn new(data: PathBuf, settings: DiskSettings) -> DiskSpace {
        DiskSpace { reserve: reserve::in_data(&data), data, settings }
    }

    /// What is left, and what is kept free; `None` if nobody can tell.
    #[must_use]
    pub fn look(&self) -> Option<(Room, Floors)> {
        let room = Room::at(&self.data).ok()?;
        Some((room, Floors::of(&room, self.settings.floor)))
    }

    /// Why nothing new is begun; `None` if there is room, or nobody can tell.
    ///
    /// Asks the system each time: that takes microseconds, and what was free a second ago may be gone.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        let (room, floors) = self.look()?;
        floors.refusal(&room)
    }

    /// How the disk is, when the instances' disks are so large and take so much, bytes; `None` if nobody can tell.
    #[must_use]
    pub fn report(&self, disks: impl Iterator<Item = (u64, u64)>) -> Option<DiskReport> {
        let (room, floors) = self.look()?;
        let (level, reserve) = (floors.level(&room), self.reserve.bytes());
        Some(DiskReport { room, floors, level, reserve, promised: promised(disks) })
    }

    /// Why a disk of so many MiB is not made: it could not be filled; `None` if it could, or that does not matter.
    #[must_use]
    pub fn overcommitment(&self, mib: u64) -> Option<String> {
        let (room, _) = self.look().filter(|_| !self.settings.overcommit)?;
        let free = room.free_bytes >> 20;
        (mib > free).then(|| {
            format!(
                "a disk of {mib} MiB cannot be filled: the host has {free} MiB free; ask for less with --disk, \
                 or allow it in config.toml: [disk] overcommit = true"
            )
        })
    }

    /// Keeps some room in reserve, which deleting something may need. Blocks.
    ///
    /// # Errors
    /// The system's.
    pub fn keep_reserve(&self) -> std::io::Result<()> {
        self.reserve.keep()
    }
}
