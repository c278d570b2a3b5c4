//! Kernel modules: an image that follows the root on its disk, loaded from when the kernel asks, and shown in the
//! guest's root.
//!
//! The kernel calls `/sbin/modprobe` of the root that its threads have, which is the initramfs, whatever an image has there.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use aegis_harness::module_index::ModuleIndex;
use aegis_sys::loop_device;
use rustix::fs::{FileType, Mode, mknodat};
use rustix::mount::{MountFlags, mount};

use crate::{detached_mounts, rootfs_paths};

/// As what the kernel calls the harness for a module; also `CONFIG_MODPROBE_PATH` of `guest/kernel/workloads.config`.
pub(crate) const MODPROBE: &str = "/sbin/modprobe";
/// Where the image is mounted, in the initramfs.
const MOUNTED: &str = "/mnt/modules";
/// How often a loop device is looked for that nobody takes in between.
const TRIES: usize = 8;

/// Where the superblock of an EROFS is, and how much of it is read, bytes.
const SUPERBLOCK: (u64, usize) = (1024, 128);
/// What it begins with.
const MAGIC: u32 = 0xe0f5_e1e2;

/// How long the EROFS is that begins at `start` of a disk, bytes. See `struct erofs_super_block` of the kernel's
/// `fs/erofs/erofs_fs.h`.
fn length(disk: &File, start: u64) -> io::Result<u64> {
    let mut superblock = [0; SUPERBLOCK.1];
    disk.read_exact_at(&mut superblock, start + SUPERBLOCK.0)?;
    let number = |at: usize| {
        let bytes = superblock.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u32::from_le_bytes)
    };
    let block = 1_u64.checked_shl(superblock[12].into()).unwrap_or(0);
    let bytes = u64::from(number(36)).checked_mul(block).filter(|bytes| *bytes > 0 && number(0) == MAGIC);
    bytes.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Mounts the image that this disk is, in the namespace of mounts that the kernel's own threads are in.
pub(crate) fn mount_image(disk: &Path) -> io::Result<()> {
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    fs::create_dir_all(MOUNTED)?;
    mount(disk, MOUNTED, "erofs", flags, None)?;
    make_devices(&fs::read_to_string(Path::new(MOUNTED).join("modules.devname"))?);
    Ok(())
}

/// Mounts the image that follows the root on this disk, likewise.
///
/// By a loop device: the kernel mounts no partition of a disk that is mounted as a whole.
pub(crate) fn mount_behind(disk: &Path) -> io::Result<()> {
    let disk = File::open(disk)?;
    let start = length(&disk, 0)?;
    let image = (start, length(&disk, start)?);
    let control = File::open("/dev/loop-control")?;
    let device = (0..TRIES).find_map(|_| loop_device(&control, &disk, image).transpose()).transpose()?;
    let (path, _open) = device.ok_or(io::ErrorKind::ResourceBusy)?;
    mount_image(&path)
}

/// This part of the disk, beginning and length, as a block device; `None` if somebody was faster.
fn loop_device(control: &File, disk: &File, part: (u64, u64)) -> io::Result<Option<(PathBuf, File)>> {
    let path = PathBuf::from(format!("/dev/loop{}", loop_device::free(control)?));
    let device = File::open(&path)?;
    match loop_device::show(&device, disk, part) {
        Ok(()) => Ok(Some((path, device))),
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes the devices by whose opening the kernel finds their module: lines of `modules.devname`, such as
/// `ppp_generic ppp c108:0`.
fn make_devices(list: &str) {
    for line in list.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace().skip(1);
        let (Some(name), Some(numbers)) = (words.next(), words.next()) else { continue };
        let Some(device) = numbers.strip_prefix('c').and_then(device_number) else { continue };
        let path = Path::new("/dev").join(name);
        let _there = path.parent().map(fs::create_dir_all);
        let mode = Mode::RUSR | Mode::WUSR;
        // Some are built in and there already.
        let _there = mknodat(rustix::fs::CWD, &path, FileType::CharacterDevice, mode, device);
    }
}

fn device_number(text: &str) -> Option<u64> {
    let (major, minor) = text.split_once(':')?;
    Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// The mounted image, to be shown in a root that is entered later; `None` without one, of which has been told.
pub(crate) fn open() -> Option<OwnedFd> {
    detached_mounts::take(Path::new(MOUNTED)).ok()
}

/// Shows the image where programs look for the modules of this kernel; those of another in an image stay.
pub(crate) fn show(image: Option<OwnedFd>) -> io::Result<()> {
    let Some(image) = image else { return Ok(()) };
    let at = place();
    rootfs_paths::directory(&at)?;
    detached_mounts::put(&image, &at)
}

/// Where programs look for the modules of this kernel.
pub(crate) fn place() -> PathBuf {
    Path::new("/lib/modules").join(&*rustix::system::uname().release().to_string_lossy())
}

/// Loads what the kernel asks for: the last argument, as in `modprobe -q -- fs-xfs`.
pub(crate) fn modprobe(arguments: &[OsString]) -> ExitCode {
    let wanted = arguments.last().and_then(|word| word.to_str()).unwrap_or_default();
    match load(Path::new(MOUNTED), wanted) {
        Ok(true) => ExitCode::SUCCESS,
        // The kernel looks again, whatever it is told, and tells its caller what it finds.
        Ok(false) | Err(_) => ExitCode::FAILURE,
    }
}

/// Returns whether there was anything to load.
fn load(image: &Path, wanted: &str) -> io::Result<bool> {
    let list = |name: &str| fs::read_to_string(image.join(name));
    let (needs, aliases, wishes) = (list("modules.dep")?, list("modules.alias")?, list("modules.softdep")?);
    let files = ModuleIndex::read(&needs, &aliases, &wishes).files_for(wanted);
    for file in &files {
        let file = File::open(image.join(file))?;
        match rustix::system::finit_module(&file, c"", 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(!files.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_found_behind_the_root_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let superblock = |blocks: u32| {
            let mut raw = [0; SUPERBLOCK.1];
            raw[..4].copy_from_slice(&MAGIC.to_le_bytes());
            raw[12] = 12;
            raw[36..40].copy_from_slice(&blocks.to_le_bytes());
            raw
        };
        fs::write(&path, vec![0; 5 << 12]).unwrap();
        let disk = File::options().read(true).write(true).open(&path).unwrap();
        assert_eq!(length(&disk, 0).unwrap_err().kind(), io::ErrorKind::InvalidData, "there is no root");
        disk.write_all_at(&superblock(2), SUPERBLOCK.0).unwrap();
        assert_eq!(length(&disk, 0).unwrap(), 2 << 12);
        assert!(length(&disk, 2 << 12).is_err(), "nothing follows it");
        disk.write_all_at(&superblock(3), (2 << 12) + SUPERBLOCK.0).unwrap();
        assert_eq!(length(&disk, 2 << 12).unwrap(), 3 << 12);
        assert_eq!(length(&disk, 5 << 12).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
