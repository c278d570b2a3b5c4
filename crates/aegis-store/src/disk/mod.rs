//! Making an instance's writable disk: a sparse file with an empty ext4.
//!
//! `mkfs.ext4` runs once per size, for a template in the cache, which then gets what every guest needs on it; a disk is a copy of it, by reflink where the file
//! system can, else of its few hundred KiB of data. The file system is complete: nothing is left for the guest
//! kernel to initialise in the background, which would fill the sparse file for nothing.
//!
//! All functions block; asynchronous callers run them on a blocking thread.

mod skeleton;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::free_space::{SpaceCheck, check_for};
use crate::orphans::PARTIAL;

/// The smallest disk, in bytes: the journal alone takes 16 MiB.
pub const MIN_DISK_BYTES: u64 = 64 * 1024 * 1024;

/// A disk's size is a multiple of this, in bytes.
pub const DISK_BLOCK_BYTES: u64 = 4096;

const COMMAND: &str = "mkfs.ext4";

/// Named one by one, so that the disk does not depend on the host's `mke2fs.conf`, which in newer releases asks
/// for more than every guest kernel and host `e2fsck` know.
const FEATURES: &str = "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,\
                        large_file,huge_file,dir_nlink,extra_isize,metadata_csum";

/// Everything initialised now; the file is new, so nothing in it has to be zeroed for that.
const EXTENDED: &str = "lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0";

/// Known to e2fsprogs 1.46.4 and newer. Older ones zero the inode tables, which the copy turns into holes again.
const PREZEROED: &str = ",assume_storage_prezeroed=1";

/// Bytes read at once; a multiple of the block size.
const BUFFER: usize = 256 * 1024;
const BLOCK: usize = 4096;
static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// What can go wrong with making a disk. No unfinished file stays under the disk's name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// There is no `mkfs.ext4` on this machine.
    #[error("mkfs.ext4 was not found in {}: install e2fsprogs", list(searched))]
    MkfsMissing {
        /// The directories that were searched.
        searched: Vec<PathBuf>,
    },
    /// `mkfs.ext4` could not be run.
    #[error("cannot run {}", path.display())]
    MkfsRun {
        /// The program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `mkfs.ext4` failed.
    #[error("{} failed ({status}): {stderr}", path.display())]
    MkfsFailed {
        /// The program.
        path: PathBuf,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it said.
        stderr: String,
    },
    /// A size that no disk can have.
    #[error(
        "a disk cannot have {size} bytes: at least {MIN_DISK_BYTES}, and a multiple of {DISK_BLOCK_BYTES}"
    )]
    InvalidSize {
        /// The size asked for, in bytes.
        size: u64,
    },
    /// The disk exists already; it was not touched.
    #[error("the disk {} exists already", path.display())]
    Exists {
        /// The disk.
        path: PathBuf,
    },
    /// A file could not be worked with, perhaps because the host's disk is full.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was being done.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DiskError {
    move |source| DiskError::Io { operation, path: path.to_owned(), source }
}

/// Makes disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskMaker {
    /// Where templates are kept, one per size; they may be deleted at any time.
    pub cache_dir: PathBuf,
    /// The `mkfs.ext4` to run.
    pub mkfs: PathBuf,
}

impl DiskMaker {
    /// Finds `mkfs.ext4` in `PATH`, `/sbin` or `/usr/sbin`, where an ordinary user's `PATH` often does not lead.
    ///
    /// # Errors
    /// [`DiskError::MkfsMissing`].
    pub fn new(cache_dir: impl Into<PathBuf>) -> Result<Self, DiskError> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut searched: Vec<PathBuf> = std::env::split_paths(&path).collect();
        searched.extend(["/sbin", "/usr/sbin"].map(PathBuf::from));
        let found = searched.iter().map(|directory| directory.join(COMMAND)).find(|file| file.is_file());
        match found {
            Some(mkfs) => Ok(Self { cache_dir: cache_dir.into(), mkfs }),
            None => Err(DiskError::MkfsMissing { searched }),
        }
    }

    /// Makes an empty disk of `size_bytes` at `path`, whose directory must exist. Several calls at once are safe,
    /// also from several processes, and for the same size wait for one template.
    ///
    /// After a crash of the host the disk is there and valid, or not there at all.
    ///
    /// # Errors
    /// [`DiskError::InvalidSize`], [`DiskError::Exists`], [`DiskError::Io`]; for the first disk of a size also
    /// [`DiskError::MkfsRun`] and [`DiskError::MkfsFailed`].
    pub fn create(&self, path: &Path, size_bytes: u64) -> Result<(), DiskError> {
        if size_bytes < MIN_DISK_BYTES || !size_bytes.is_multiple_of(DISK_BLOCK_BYTES) {
            return Err(DiskError::InvalidSize { size: size_bytes });
        }
        if fs::symlink_metadata(path).is_ok() {
            return Err(DiskError::Exists { path: path.to_owned() });
        }
        let template = self.template(size_bytes)?;
        let partial = Partial::create(unique(path))?;
        partial.fill_from(&template, size_bytes)?;
        // Once the disk has its name it is a valid one, also after a crash of the host.
        partial.file.sync_data().map_err(failed("sync", &partial.path))?;
        partial.link(path)
    }

    /// The template of this size, made if it is not there.
    fn template(&self, size: u64) -> Result<File, DiskError> {
        let path = self.cache_dir.join(format!("ext4-{size}-v2.img"));
        if let Some(template) = open_template(&path, size)? {
            return Ok(template);
        }
        let lock_path = self.cache_dir.join(format!("ext4-{size}-v2.lock"));
        let lock = File::create(&lock_path).map_err(failed("create", &lock_path))?;
        lock.lock().map_err(failed("lock", &lock_path))?;
        if let Some(template) = open_template(&path, size)? {
            return Ok(template);
        }
        // Under the lock these names are ours; what a crash left under them is replaced.
        let made = Partial::create(with_suffix(&path, ".mkfs"))?;
        self.make_file_system(&made, size)?;
        if let Err(error) = skeleton::put(&self.mkfs, &made.path) {
            tracing::debug!(%error, "each guest prepares its new disk itself");
            self.make_file_system(&made, size)?;
        }
        let source = File::open(&made.path).map_err(failed("open", &made.path))?;
        let sparse = Partial::create(with_suffix(&path, ""))?;
        sparse.fill_from(&source, size)?;
        // A template that a crash of the host left without its content would spoil every later disk.
        sparse.file.sync_all().map_err(failed("sync", &sparse.path))?;
        fs::rename(&sparse.path, &path).map_err(failed("name the template", &path))?;
        File::open(&path).map_err(failed("open", &path))
    }

    fn make_file_system(&self, target: &Partial, size: u64) -> Result<(), DiskError> {
        let output = self.run_mkfs(target, size, &format!("{EXTENDED}{PREZEROED}"))?;
        if output.status.success() {
            return Ok(());
        }
        let output = self.run_mkfs(target, size, EXTENDED)?;
        if output.status.success() {
            return Ok(());
        }
        Err(DiskError::MkfsFailed {
            path: self.mkfs.clone(),
            status: output.status,
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }

    fn run_mkfs(&self, target: &Partial, size: u64, extended: &str) -> Result<Output, DiskError> {
        // Emptied first: what an earlier attempt wrote must not count as zeroed.
        let sized = target.file.set_len(0).and_then(|()| target.file.set_len(size));
        sized.map_err(failed("resize", &target.path))?;
        Command::new(&self.mkfs)
            .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-i", "16384", "-m", "0"])
            .args(["-J", "size=16", "-L", "aegis", "-O", FEATURES, "-E", extended])
            .arg(&target.path)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .map_err(|source| DiskError::MkfsRun { path: self.mkfs.clone(), source })
    }
}

/// Copies a disk that nobody writes meanwhile: by reflink where the file system can, else what is neither a hole nor
/// zero. Nothing may be at `to`. The copy does not outlive a crash of the host before it is [`settle`]d.
///
/// # Errors
/// [`DiskError::Exists`], [`DiskError::Io`].
pub fn copy(from: &Path, to: &Path) -> Result<(), DiskError> {
    let source = File::open(from).map_err(failed("open", from))?;
    let size = source.metadata().map_err(failed("examine", from))?.len();
    let partial = Partial::create(unique(to))?;
    partial.fill_from(&source, size)?;
    partial.link(to)
}

/// Makes a disk that nobody uses `size_bytes` long, if it is shorter; its file system grows to that when it is next
/// mounted. After a crash of the host the disk is as long as before, or as long as asked for.
///
/// # Errors
/// [`DiskError::InvalidSize`], [`DiskError::Io`].
pub fn grow(path: &Path, size_bytes: u64) -> Result<(), DiskError> {
    if !size_bytes.is_multiple_of(DISK_BLOCK_BYTES) {
        return Err(DiskError::InvalidSize { size: size_bytes });
    }
    let length = fs::metadata(path).map_err(failed("examine", path))?.len();
    if length >= size_bytes {
        return Ok(());
    }
    let file = OpenOptions::new().write(true).open(path).map_err(failed("open", path))?;
    file.set_len(size_bytes).map_err(failed("resize", path))
}

/// Makes a disk outlive a crash of the host. Others may write to it meanwhile.
///
/// # Errors
/// [`DiskError::Io`].
pub fn settle(path: &Path) -> Result<(), DiskError> {
    let file = File::open(path).map_err(failed("open", path))?;
    file.sync_data().map_err(failed("sync", path))
}

/// The template, unless it is missing or not of the right size.
fn open_template(path: &Path, size: u64) -> Result<Option<File>, DiskError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(failed("open", path)(source)),
    };
    let length = file.metadata().map_err(failed("examine", path))?.len();
    Ok((length == size).then_some(file))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.push(PARTIAL);
    PathBuf::from(name)
}

/// A name beside `path` that no other call uses.
fn unique(path: &Path) -> PathBuf {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    with_suffix(path, &format!(".{}-{number}", std::process::id()))
}

/// A file being made; its name goes when it is dropped, whether it was given another one or not.
struct Partial {
    path: PathBuf,
    file: File,
}

impl Partial {
    fn create(path: PathBuf) -> Result<Self, DiskError> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        match file {
            Ok(file) => Ok(Self { path, file }),
            Err(source) => Err(failed("create", &path)(source)),
        }
    }

    /// Gives the disk its name.
    fn link(&self, path: &Path) -> Result<(), DiskError> {
        // A link, unlike a rename, never replaces a disk that somebody made meanwhile.
        fs::hard_link(&self.path, path).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => DiskError::Exists { path: path.to_owned() },
            _ => DiskError::Io { operation: "name the disk", path: path.to_owned(), source },
        })
    }

    fn fill_from(&self, source: &File, size: u64) -> Result<(), DiskError> {
        if reflink(source, &self.file) {
            return Ok(());
        }
        copy_sparse(source, &self.file, size).map_err(failed("write", &self.path))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.path.display(), %error, "cannot remove an unfinished disk");
            }
            _ => {}
        }
    }
}

/// Shares the source's blocks, where the file system can do that.
#[cfg(target_os = "linux")]
fn reflink(source: &File, target: &File) -> bool {
    // Whatever the reason it failed for, a plain copy is tried next and reports what is really wrong.
    rustix::fs::ioctl_ficlone(target, source).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn reflink(_source: &File, _target: &File) -> bool {
    false
}

/// Copies what is neither a hole nor zero, and leaves holes for the rest.
fn copy_sparse(source: &File, target: &File, size: u64) -> io::Result<()> {
    check_for(target, source.metadata()?.blocks().saturating_mul(512))?;
    target.set_len(size)?;
    let (mut buffer, mut pace) = (vec![0; BUFFER], SpaceCheck::default());
    let mut position = 0;
    while let Some((start, end)) = next_data(source, position, size)? {
        position = start;
        while position < end {
            let wanted = usize::try_from(end - position).unwrap_or(BUFFER).min(BUFFER);
            source.read_exact_at(&mut buffer[..wanted], position)?;
            pace.check(target, wanted as u64)?;
            write_blocks(target, &buffer[..wanted], position)?;
            position += wanted as u64;
        }
    }
    Ok(())
}

/// The next range that may hold data, from `position` on.
fn next_data(source: &File, position: u64, size: u64) -> io::Result<Option<(u64, u64)>> {
    if position >= size {
        return Ok(None);
    }
    let start = match rustix::fs::seek(source, SeekFrom::Data(position)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        // No knowledge of holes: all of it may be data.
        Err(Errno::INVAL) => return Ok(Some((position, size))),
        Err(error) => return Err(error.into()),
    };
    let end = rustix::fs::seek(source, SeekFrom::Hole(start))?;
    Ok((start < size).then_some((start, end.min(size))))
}

/// Writes the runs of blocks that are not all zero.
fn write_blocks(target: &File, data: &[u8], position: u64) -> io::Result<()> {
    let mut run = 0;
    for (index, block) in data.chunks(BLOCK).enumerate() {
        let at = index * BLOCK;
        if *block == ZEROS[..block.len()] {
            target.write_all_at(&data[run..at], position + run as u64)?;
            run = at + block.len();
        }
    }
    target.write_all_at(&data[run..], position + run as u64)
}

#[cfg(test)]
mod tests;
