//! Ephemeral directories, which hold at each start what the image has in them: `/tmp` on the instance's disk, where there is
//! room, `/run` and `/dev/shm` in memory.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, fchown, lchown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, mknodat};

use crate::rootfs_paths;

/// Most entries that are copied from an image into memory.
const MOST_ENTRIES: u32 = 20_000;
/// Most bytes of them.
const MOST_BYTES: u64 = 64 << 20;
/// How deep directories may be below each other there.
const MOST_DEPTH: u32 = 64;
/// The mode of a directory in which everybody makes files, and nobody removes those of others.
pub(crate) const SHARED: u32 = 0o1777;

/// Directories whose changes end with the machine, as the instance's disk has them.
pub(crate) const EMPTIED: [&str; 3] = ["tmp", "run", "dev/shm"];

/// Forgets what was changed in these directories; `changes` is what lies over the image, and not mounted yet.
pub(crate) fn empty(changes: &Path) {
    for dir in EMPTIED {
        let dir = changes.join(dir);
        // What is no directory is a change of the root, which stays.
        if fs::symlink_metadata(&dir).is_ok_and(|meta| meta.is_dir()) {
            // What cannot be removed stays, and the machine comes up.
            let _rest = aegis_paths::remove_tree(&dir);
        }
    }
}

/// A directory of the image, before something is mounted over it.
pub(crate) fn open(path: &str) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).ok()
}

/// Lets everybody make files in `/tmp`, and nobody remove those of others.
pub(crate) fn share(path: &Path) -> io::Result<()> {
    rootfs_paths::directory(path)?;
    if fs::metadata(path)?.mode() & 0o7777 == SHARED {
        return Ok(());
    }
    fs::set_permissions(path, Permissions::from_mode(SHARED))
}

/// Makes what was mounted over a directory of an image like it: its owner, its mode, unless another is given, and what is in
/// it. Stops where that becomes too much.
pub(crate) fn copy(from: Option<OwnedFd>, to: &Path, mode: Option<u32>) -> io::Result<()> {
    let Some(from) = from else { return Ok(()) };
    let from = PathBuf::from(format!("/proc/self/fd/{}", from.as_raw_fd()));
    let meta = fs::metadata(&from)?;
    chown(to, Some(meta.uid()), Some(meta.gid()))?;
    fs::set_permissions(to, Permissions::from_mode(mode.unwrap_or(meta.mode() & 0o7777)))?;
    Copy::default().directory(&from, to, 0)
}

#[derive(Default)]
struct Copy {
    entries: u32,
    bytes: u64,
}

impl Copy {
    fn directory(&mut self, from: &Path, to: &Path, depth: u32) -> io::Result<()> {
        if depth > MOST_DEPTH {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let (source, target) = (entry.path(), to.join(entry.file_name()));
            let meta = fs::symlink_metadata(&source)?;
            self.entries += 1;
            self.bytes += if meta.is_file() { meta.len() } else { 0 };
            if self.entries > MOST_ENTRIES || self.bytes > MOST_BYTES {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            self.entry(&source, &target, &meta, depth)?;
        }
        Ok(())
    }

    fn entry(&mut self, source: &Path, target: &Path, meta: &fs::Metadata, depth: u32) -> io::Result<()> {
        let (kind, owner) = (meta.file_type(), (Some(meta.uid()), Some(meta.gid())));
        if kind.is_symlink() {
            symlink(fs::read_link(source)?, target)?;
            return lchown(target, owner.0, owner.1);
        }
        if kind.is_dir() {
            fs::create_dir(target)?;
            self.directory(source, target, depth + 1)?;
        } else if kind.is_file() {
            let (mut from, mut to) = (File::open(source)?, File::create_new(target)?);
            io::copy(&mut from, &mut to)?;
            fchown(&to, owner.0, owner.1)?;
            to.set_permissions(Permissions::from_mode(meta.mode() & 0o7777))?;
            return to.set_modified(meta.modified()?);
        } else {
            let form = match kind {
                kind if kind.is_char_device() => FileType::CharacterDevice,
                kind if kind.is_block_device() => FileType::BlockDevice,
                kind if kind.is_fifo() => FileType::Fifo,
                _ => FileType::Socket,
            };
            mknodat(rustix::fs::CWD, target, form, Mode::empty(), meta.rdev())?;
        }
        lchown(target, owner.0, owner.1)?;
        fs::set_permissions(target, Permissions::from_mode(meta.mode() & 0o7777))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_image_has_is_copied_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("sshd/deep")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("sshd/deep/key"), "secret").unwrap();
        fs::set_permissions(from.join("sshd/deep/key"), Permissions::from_mode(0o4640)).unwrap();
        fs::set_permissions(from.join("sshd"), Permissions::from_mode(0o710)).unwrap();
        symlink("/run/sshd", from.join("link")).unwrap();
        mknodat(rustix::fs::CWD, from.join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        fs::set_permissions(&from, Permissions::from_mode(0o2775)).unwrap();
        copy(open(from.to_str().unwrap()), &to, None).unwrap();
        let mode = |name: &str| fs::symlink_metadata(to.join(name)).unwrap().mode() & 0o7777;
        assert_eq!((mode("."), mode("sshd"), mode("sshd/deep/key")), (0o2775, 0o710, 0o4640));
        assert_eq!(fs::read_to_string(to.join("sshd/deep/key")).unwrap(), "secret");
        assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("/run/sshd"));
        assert!(fs::symlink_metadata(to.join("pipe")).unwrap().file_type().is_fifo());
        copy(open("/nowhere"), &to, None).unwrap();
        let shared = dir.path().join("shared");
        fs::create_dir(&shared).unwrap();
        copy(open(from.to_str().unwrap()), &shared, Some(SHARED)).unwrap();
        assert_eq!(fs::metadata(&shared).unwrap().mode() & 0o7777, SHARED);
    }

    #[test]
    fn what_is_too_much_for_memory_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(&from).unwrap();
        fs::create_dir(&to).unwrap();
        File::create(from.join("large")).unwrap().set_len(MOST_BYTES + 1).unwrap();
        assert!(copy(open(from.to_str().unwrap()), &to, None).is_err());
        assert_eq!(fs::read_dir(&to).unwrap().count(), 0);
    }

    #[test]
    fn changes_of_volatile_directories_are_forgotten_and_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["tmp/build", "run", "dev/shm/x", "var/tmp"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        empty(dir.path());
        assert!(!at("tmp").exists() && !at("run").exists() && !at("dev/shm").exists());
        assert!(at("var/tmp").exists() && at("dev").exists());
        symlink("var/tmp", at("tmp")).unwrap();
        empty(dir.path());
        assert!(at("tmp").is_symlink() && at("var/tmp").exists());
    }
}
