//! What is mounted where, and what by its nature is no store of files.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, StatxFlags, fstatfs, statx};

/// File systems that are an interface to the kernel or to its processes, by the number that `statfs` tells
/// (`linux/magic.h`). Whoever may write there may do with the host what the writer may.
const KERNEL_INTERFACES: [u32; 19] = [
    0x0000_9fa0, // proc
    0x6265_6572, // sysfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0xcafe_4a11, // bpf
    0x6265_6570, // configfs
    0xde5e_81e4, // efivarfs
    0x6165_676c, // pstore
    0xf97c_ff8c, // selinuxfs
    0x4341_5d53, // smackfs
    0x0000_1cd1, // devpts
    0x6e73_6673, // nsfs
    0x4249_4e4d, // binfmt_misc
    0x1980_0202, // mqueue
    0x6573_5543, // fusectl
    0x0765_5821, // resctrl
];

/// The name of the file system of devices, which has the number of another one.
const DEVICES: &str = "devtmpfs";

/// Whether what is open is on a file system that is an interface to the kernel, not a store of files.
///
/// # Errors
/// The system's.
pub fn is_kernel_interface(fd: impl AsFd) -> io::Result<bool> {
    Ok(KERNEL_INTERFACES.contains(&file_system(fd)?))
}

/// The number of the file system that what is open is on.
pub(crate) fn file_system(fd: impl AsFd) -> io::Result<u32> {
    // 32 bits, which each C library has in a word of another type.
    let number = i128::from(fstatfs(fd)?.f_type) & 0xffff_ffff;
    u32::try_from(number).map_err(io::Error::other)
}

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct MountPoint {
    id: u64,
    device: String,
    /// The directory of the file system that is there.
    root: PathBuf,
    at: PathBuf,
    kind: String,
}

/// What is mounted, as this process sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mounts(Vec<MountPoint>);

/// Where a directory is on its file system, wherever that is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    device: String,
    path: PathBuf,
}

impl Location {
    /// Whether the other one is this one, or is below it.
    #[must_use]
    pub fn contains(&self, other: &Location) -> bool {
        self.device == other.device && other.path.starts_with(&self.path)
    }
}

/// Takes the kernel's `\\ooo` for white space and back slashes back.
fn unescape(text: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = tail;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(bytes)
}

impl Mounts {
    /// Reads what is mounted now.
    ///
    /// # Errors
    /// The system's.
    pub fn read() -> io::Result<Mounts> {
        Ok(Mounts::parse(&std::fs::read("/proc/self/mountinfo")?))
    }

    /// `id parent major:minor root mountpoint options [optional fields] - type source options`; lines that are none are
    /// left out. See `proc_pid_mountinfo(5)`.
    fn parse(text: &[u8]) -> Mounts {
        let words = |line: &[u8]| -> Option<MountPoint> {
            let mut words = line.split(|byte| *byte == b' ');
            let text = |word: &[u8]| Some(std::str::from_utf8(word).ok()?.to_owned());
            let id = text(words.next()?)?.parse().ok()?;
            let device = text(words.nth(1)?)?;
            let (root, at) = (unescape(words.next()?).into(), unescape(words.next()?).into());
            let kind = text(words.skip_while(|word| *word != b"-").nth(1)?)?;
            Some(MountPoint { id, device, root, at, kind })
        };
        Mounts(text.split(|byte| *byte == b'\n').filter_map(words).collect())
    }

    /// Where what is open is on its file system; `None` where the kernel does not tell (before 5.8), or it is not
    /// reachable from here.
    #[must_use]
    pub fn location(&self, fd: impl AsFd) -> Option<Location> {
        let mount = self.of(&fd)?;
        let path = path_of(&fd)?;
        let below = path.strip_prefix(&mount.at).ok()?;
        // A trailing slash is no name.
        let path = if below.as_os_str().is_empty() { mount.root.clone() } else { mount.root.join(below) };
        Some(Location { device: mount.device.clone(), path })
    }

    /// Whether what is open is on the file system of devices, or on one that is an interface to the kernel.
    ///
    /// # Errors
    /// The system's.
    pub fn is_no_store(&self, fd: impl AsFd) -> io::Result<bool> {
        let devices = self.of(&fd).is_some_and(|mount| mount.kind == DEVICES);
        Ok(devices || is_kernel_interface(fd)?)
    }

    /// Where other file systems, or parts of them, are mounted below a directory that is open.
    #[must_use]
    pub fn below(&self, fd: impl AsFd) -> Vec<&Path> {
        let Some(path) = path_of(&fd) else { return Vec::new() };
        let places = self.0.iter().map(|mount| mount.at.as_path());
        places.filter(|at| *at != path && at.starts_with(&path)).collect()
    }

    fn of(&self, fd: impl AsFd) -> Option<&MountPoint> {
        let status = statx(fd, OsStr::new(""), AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
        let told = status.stx_mask & StatxFlags::MNT_ID.bits() != 0;
        self.0.iter().find(|mount| told && mount.id == status.stx_mnt_id)
    }
}

/// The path of what is open, as the kernel has it at this moment; none of what has been deleted.
fn path_of(fd: impl AsFd) -> Option<PathBuf> {
    let path = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())).ok()?;
    let deleted = path.as_os_str().as_bytes().ends_with(b" (deleted)");
    (path.is_absolute() && !deleted).then_some(path)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_place_is_known_by_its_file_system_and_not_by_where_that_is_mounted() {
        let text = b"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
            30 22 8:2 /home/u /home/u rw shared:5 - btrfs /dev/sdb rw\n\
            31 22 8:2 / /mnt/a\\040b rw shared:5 master:6 - btrfs /dev/sdb rw\n\
            nonsense\n";
        let mounts = Mounts::parse(text);
        assert_eq!(mounts.0.len(), 3);
        assert_eq!(mounts.0[2].at, Path::new("/mnt/a b"));
        let location = |device: &str, path: &str| Location { device: device.into(), path: path.into() };
        assert!(location("8:2", "/").contains(&location("8:2", "/home/u/.aegis")));
        assert!(location("8:2", "/home/u").contains(&location("8:2", "/home/u")));
        assert!(!location("8:2", "/home/u").contains(&location("8:2", "/home/uv")));
        assert!(!location("8:1", "/").contains(&location("8:2", "/home/u")));
    }

    #[test]
    fn what_is_open_here_has_a_location_and_proc_is_no_store() {
        let mounts = Mounts::read().unwrap();
        let (dir, proc) = (tempfile::tempdir().unwrap(), File::open("/proc/self").unwrap());
        let inner = dir.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        let (outer, inner) = (File::open(dir.path()).unwrap(), File::open(inner).unwrap());
        let (of_outer, of_inner) = (mounts.location(&outer).unwrap(), mounts.location(&inner).unwrap());
        assert!(of_outer.contains(&of_inner) && !of_inner.contains(&of_outer));
        assert!(!mounts.is_no_store(&outer).unwrap());
        assert!(mounts.is_no_store(&proc).unwrap());
        let root = File::open("/").unwrap();
        assert!(mounts.below(&root).contains(&Path::new("/proc")));
        assert!(mounts.below(&inner).is_empty());
    }

    proptest! {
        #[test]
        fn arbitrary_lines_never_panic(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _mounts = Mounts::parse(&text);
        }

        #[test]
        fn what_the_kernel_escapes_is_taken_back(name in "[a-z \\\\\t\n]{0,20}") {
            let escaped: String = name.bytes().map(|byte| match byte {
                b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}"),
                other => char::from(other).to_string(),
            }).collect();
            prop_assert_eq!(unescape(escaped.as_bytes()), OsString::from(name));
        }
    }
}
