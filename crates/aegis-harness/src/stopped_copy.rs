//! Copies from and to an instance that is stopped: what would not be there, or not be found again, is refused.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aegis_copy::Target;
use aegis_guest_protocol::stopped_copy::AtRest;
use thiserror::Error;

use crate::ephemeral_directories::EMPTIED;

/// File systems in memory (`linux/magic.h`).
const IN_MEMORY: [i128; 2] = [
    0x0102_1994, // tmpfs, and that of devices
    0x8584_58f6, // ramfs
];

/// Why a place is not taken.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum StoppedCopyError {
    /// It is emptied at each start.
    #[error("{}: the instance is stopped, and what is there is emptied at its next start", .0.display())]
    Volatile(PathBuf),
    /// The directory of the host that should be there is not.
    #[error("{}: the directory of the host that is to be there does not exist any more", .0.display())]
    Absent(PathBuf),
}

/// The path that is meant by one that may be relative.
pub(crate) fn absolute(rest: Option<&AtRest>, path: &OsStr) -> PathBuf {
    match rest {
        // In this form one that ends with a slash still does.
        Some(rest) if !path.is_empty() => Path::new(&rest.workdir).join(path),
        _ => PathBuf::from(path),
    }
}

fn absent(rest: Option<&AtRest>, path: &Path) -> bool {
    rest.is_some_and(|rest| rest.absent.iter().any(|at| path.starts_with(at)))
}

/// Checks a path that is read, or leads to where something is written.
///
/// # Errors
/// [`StoppedCopyError::Absent`].
pub(crate) fn check_read(rest: Option<&AtRest>, path: &Path) -> Result<(), StoppedCopyError> {
    if absent(rest, path) { Err(StoppedCopyError::Absent(path.to_owned())) } else { Ok(()) }
}

/// Checks a place that is written to, which is open.
///
/// # Errors
/// [`StoppedCopyError`].
pub(crate) fn check_written(rest: Option<&AtRest>, target: &Target) -> Result<(), StoppedCopyError> {
    if rest.is_none() {
        return Ok(());
    }
    let (dir, name) = target.place();
    // Where the kernel has it, whatever links led there.
    let Ok(real) = fs::read_link(format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd())) else { return Ok(()) };
    let real = name.map_or(real.clone(), |name| real.join(name));
    if absent(rest, &real) {
        return Err(StoppedCopyError::Absent(real));
    }
    let in_memory = rustix::fs::fstatfs(dir).is_ok_and(|found| IN_MEMORY.contains(&i128::from(found.f_type)));
    if in_memory || is_emptied(&real) && is_on_own_disk(dir) {
        return Err(StoppedCopyError::Volatile(real));
    }
    Ok(())
}

fn is_emptied(path: &Path) -> bool {
    EMPTIED.iter().any(|dir| path.starts_with(Path::new("/").join(dir)))
}

/// A directory of the host may be at one of those places, and is not emptied.
fn is_on_own_disk(dir: impl AsFd) -> bool {
    let device = rustix::fs::fstat(dir).map(|found| found.st_dev);
    fs::metadata("/").is_ok_and(|root| device.is_ok_and(|device| device == root.dev()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rest(absent: &[&str]) -> AtRest {
        AtRest { workdir: "/workspace".into(), absent: absent.iter().map(|at| (*at).to_owned()).collect() }
    }

    #[test]
    fn relative_paths_begin_where_the_instance_would() {
        let rest = rest(&[]);
        let of = |path: &str| absolute(Some(&rest), OsStr::new(path)).into_os_string().into_string().unwrap();
        assert_eq!(
            (of("a/b"), of("/srv/"), of("a/")),
            ("/workspace/a/b".into(), "/srv/".into(), "/workspace/a/".into())
        );
        assert_eq!(absolute(None, OsStr::new("a")), Path::new("a"));
    }

    #[test]
    fn what_is_not_there_is_refused_and_the_rest_is_not() {
        let rest = rest(&["/workspace", "/data/in"]);
        for path in ["/workspace", "/workspace/a", "/data/in/x"] {
            assert!(check_read(Some(&rest), Path::new(path)).is_err(), "{path}");
        }
        for path in ["/", "/workspaces", "/data", "/srv/workspace"] {
            assert_eq!(check_read(Some(&rest), Path::new(path)), Ok(()), "{path}");
        }
        assert_eq!(check_read(None, Path::new("/workspace")), Ok(()));
    }

    #[test]
    fn what_is_emptied_is_refused_while_it_is_stopped() {
        let place = |path: &str| Target::exactly(Path::new(path)).unwrap();
        if is_on_own_disk(fs::File::open("/tmp").unwrap()) {
            let told = check_written(Some(&rest(&[])), &place("/tmp/file"));
            assert_eq!(told, Err(StoppedCopyError::Volatile("/tmp/file".into())));
        }
        assert!(check_written(Some(&rest(&[])), &place("/dev/shm/file")).is_err());
        assert_eq!(check_written(None, &place("/dev/shm/file")), Ok(()));
        let usr = rustix::fs::statfs("/usr").unwrap().f_type;
        if !IN_MEMORY.contains(&i128::from(usr)) {
            assert_eq!(check_written(Some(&rest(&[])), &place("/usr/file")), Ok(()));
        }
    }
}
