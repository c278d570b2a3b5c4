//! The machine's disks.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use aegis_harness::machine_parts::Disk;
use aegis_sys::device_mapper;

use crate::kernel_arguments::machine_parts;

/// The kernel's driver of our disks.
const DRIVER: &str = "/sys/bus/virtio/drivers/virtio_blk";

/// Unit of `/sys/block/*/size`, bytes.
const SECTOR: u64 = 512;

/// Where the superblock is, and how much of it is read, bytes.
const SUPERBLOCK: (u64, usize) = (1024, 1024);

/// Serial number of the disk that holds the read-only root.
const ROOT_SERIAL: &str = "aegis-root";
/// Serial number of the disk that takes the instance's changes.
const DATA_SERIAL: &str = "aegis-data";

/// The block devices that are for this, in order, on a machine whose disks have no serial numbers.
fn numbered(of: Disk) -> impl Iterator<Item = PathBuf> {
    // The kernel names them by letters, and there are fewer disks than those.
    let letters = machine_parts().numbers(of).filter_map(|number| ('a'..='z').nth(number));
    letters.map(|letter| PathBuf::from(format!("/dev/vd{letter}")))
}

/// The disk with the read-only root.
pub(crate) fn root() -> io::Result<PathBuf> {
    let parts: Vec<PathBuf> = numbered(Disk::Root).collect();
    match parts.as_slice() {
        [] => find(ROOT_SERIAL),
        [whole] => Ok(whole.clone()),
        _ => joined(&parts),
    }
}

/// The disk that takes the instance's changes.
pub(crate) fn data() -> io::Result<PathBuf> {
    numbered(Disk::Data).next().map_or_else(|| find(DATA_SERIAL), Ok)
}

/// The disk with the kernel's modules, where they do not follow the root on its disk.
pub(crate) fn modules() -> Option<PathBuf> {
    numbered(Disk::Modules).next()
}

/// Disks as a single one, which can only be read.
fn joined(parts: &[PathBuf]) -> io::Result<PathBuf> {
    let part = |path: &PathBuf| {
        let device = rustix::fs::stat(path)?.st_rdev;
        Ok((rustix::fs::major(device), rustix::fs::minor(device), sectors(path)?))
    };
    let parts = parts.iter().map(part).collect::<io::Result<Vec<_>>>()?;
    device_mapper::join("aegis-root", &parts).map(|number| PathBuf::from(format!("/dev/dm-{number}")))
}

/// How long a disk is.
fn sectors(device: &Path) -> io::Result<u64> {
    let name = device.file_name().unwrap_or_default();
    let sectors = fs::read_to_string(Path::new("/sys/block").join(name).join("size"))?;
    sectors.trim().parse::<u64>().map_err(io::Error::other)
}

/// The block device with this serial number.
fn find(serial: &str) -> io::Result<PathBuf> {
    Ok(Path::new("/dev").join(name(serial)?))
}

/// Makes the ext4 that is mounted at `mounted` as long as its device, which may have grown since it was made.
pub(crate) fn fill(device: &Path, mounted: &Path) -> io::Result<()> {
    let bytes = sectors(device)?.saturating_mul(SECTOR);
    let mut superblock = [0; SUPERBLOCK.1];
    File::open(device)?.read_exact_at(&mut superblock, SUPERBLOCK.0)?;
    match longer(&superblock, bytes) {
        Some(blocks) => aegis_sys::ext4::resize(&File::open(mounted)?, blocks),
        None => Ok(()),
    }
}

/// How many blocks a file system with this superblock has room for on so many bytes, if those are more than it has. See
/// `struct ext4_super_block` of the kernel's `fs/ext4/ext4.h`.
fn longer(superblock: &[u8; SUPERBLOCK.1], bytes: u64) -> Option<u64> {
    let number = |at: usize| {
        let bytes = superblock.get(at..at + 4)?.try_into().ok()?;
        Some(u64::from(u32::from_le_bytes(bytes)))
    };
    let (low, high, size) = (number(0x4)?, number(0x150)?, number(0x18)?);
    let block = 1024_u64.checked_shl(u32::try_from(size).ok()?).filter(|block| *block > 0)?;
    let (now, room) = (high << 32 | low, bytes / block);
    (room > now).then_some(room)
}

fn name(serial: &str) -> io::Result<OsString> {
    for entry in fs::read_dir("/sys/block")? {
        let entry = entry?;
        let found = fs::read_to_string(entry.path().join("serial")).unwrap_or_default();
        if found.trim() == serial {
            return Ok(entry.file_name());
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("no disk with serial {serial}")))
}

/// Disks that no driver has: whoever takes them up sees what they are then, not what they were before.
#[derive(Debug, Default)]
pub(crate) struct DiskReport {
    devices: Vec<OsString>,
}

/// The names of virtio devices that are disks, in the order in which the kernel found them.
fn devices() -> io::Result<Vec<OsString>> {
    let names = fs::read_dir(DRIVER)?.map(|entry| Ok(entry?.file_name()));
    let mut names = names.collect::<io::Result<Vec<OsString>>>()?;
    // Beside its devices the directory holds the driver's own files.
    names.retain(|name| {
        name.to_string_lossy().strip_prefix("virtio").is_some_and(|rest| rest.parse::<u32>().is_ok())
    });
    names.sort_by_key(|name| (name.len(), name.clone()));
    Ok(names)
}

impl DiskReport {
    /// Takes all disks from their driver. A monitor that cannot name its disks cannot begin them anew either (Firecracker):
    /// they stay, and nothing has been read from them yet that would be remembered.
    pub(crate) fn all() -> io::Result<DiskReport> {
        if !machine_parts().disks.is_empty() {
            return Ok(DiskReport::default());
        }
        DiskReport { devices: devices()? }.unbound()
    }

    /// Takes the instance's disk from its driver.
    pub(crate) fn data() -> io::Result<DiskReport> {
        let device = fs::canonicalize(Path::new("/sys/block").join(name(DATA_SERIAL)?).join("device"))?;
        let devices = device.file_name().map(OsString::from).into_iter().collect();
        DiskReport { devices }.unbound()
    }

    fn unbound(self) -> io::Result<DiskReport> {
        for name in &self.devices {
            fs::write(Path::new(DRIVER).join("unbind"), name.as_encoded_bytes())?;
        }
        // In this order they get their names again.
        Ok(self)
    }

    /// Gives them back to their driver.
    pub(crate) fn take_up(self) -> io::Result<()> {
        self.devices
            .iter()
            .try_for_each(|name| fs::write(Path::new(DRIVER).join("bind"), name.as_encoded_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_grows_to_whole_blocks_and_never_shrinks() {
        let mut superblock = [0; SUPERBLOCK.1];
        superblock[0x4..0x8].copy_from_slice(&1000_u32.to_le_bytes());
        superblock[0x18..0x1c].copy_from_slice(&2_u32.to_le_bytes());
        for (bytes, blocks) in [(4096 * 999, None), (4096 * 1001 - 1, None), (4096 * 5000 + 17, Some(5000))] {
            assert_eq!(longer(&superblock, bytes), blocks, "{bytes}");
        }
        superblock[0x150] = 1;
        assert_eq!(longer(&superblock, 4096 * 5000), None, "it is longer than 2^32 blocks");
        superblock[0x18] = 0xff;
        assert_eq!(longer(&superblock, u64::MAX), None, "such blocks are none");
    }
}
