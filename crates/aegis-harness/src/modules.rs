//! The kernel's modules: an image in the initramfs, loaded from when the kernel asks, and shown in the guest's root.
//!
//! The kernel calls `/sbin/modprobe` of the root that its threads have, which is the initramfs, whatever an image has there.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use aegis_harness::catalogue::Catalogue;
use aegis_sys::loops;
use rustix::fs::{FileType, Mode, mknodat};
use rustix::mount::{MountFlags, mount};

use crate::{places, trees};

/// As what the kernel calls the harness for a module; also `CONFIG_MODPROBE_PATH` of `guest/kernel/workloads.config`.
pub(crate) const MODPROBE: &str = "/sbin/modprobe";
/// The image, in the initramfs.
const IMAGE: &str = "/modules.erofs";
/// Where it is mounted there.
const MOUNTED: &str = "/mnt/modules";
/// How often a loop device is looked for that nobody takes in between.
const TRIES: usize = 8;

/// Mounts the image, in the namespace of mounts that the kernel's own threads are in.
pub(crate) fn mount_image() -> io::Result<()> {
    fs::create_dir_all(MOUNTED)?;
    let image = File::open(IMAGE)?;
    let control = File::open("/dev/loop-control")?;
    let device = (0..TRIES).find_map(|_| loop_device(&control, &image).transpose()).transpose()?;
    let (path, _open) = device.ok_or(io::ErrorKind::ResourceBusy)?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount(&path, MOUNTED, "erofs", flags, None)?;
    make_devices(&fs::read_to_string(Path::new(MOUNTED).join("modules.devname"))?);
    Ok(())
}

/// The image as a block device; `None` if somebody was faster.
fn loop_device(control: &File, image: &File) -> io::Result<Option<(PathBuf, File)>> {
    let path = PathBuf::from(format!("/dev/loop{}", loops::free(control)?));
    let device = File::open(&path)?;
    match loops::show(&device, image) {
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

/// The mounted image, to be shown in a root that is entered later; `None` without one.
pub(crate) fn open() -> Option<OwnedFd> {
    trees::take(Path::new(MOUNTED)).ok()
}

/// Shows the image where programs look for the modules of this kernel; those of another in an image stay.
pub(crate) fn show(image: Option<OwnedFd>) -> io::Result<()> {
    let Some(image) = image else { return Ok(()) };
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let at = Path::new("/lib/modules").join(release);
    places::directory(&at)?;
    trees::put(&image, &at)
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
    let files = Catalogue::read(&needs, &aliases, &wishes).files_for(wanted);
    for file in &files {
        let file = File::open(image.join(file))?;
        match rustix::system::finit_module(&file, c"", 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(!files.is_empty())
}
