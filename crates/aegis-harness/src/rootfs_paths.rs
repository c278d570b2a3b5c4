//! Paths in the guest's root, which is of an image: it may have anything there, or nothing.
//!
//! All of this is done when the root has been entered, so that links, absolute ones too, lead nowhere out of it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

/// Most links that are followed to a place.
const MOST_LINKS: u32 = 16;
/// Longest file that is read, bytes.
const MOST_READ: u64 = 1 << 20;
/// Whoever opens a pipe would wait for its other end.
const NO_WAIT: i32 = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();

/// Makes sure that a directory is at `path`. What else is there gives way; where a link leads it is made, unless something
/// else is there: then the link gives way.
pub(crate) fn directory(path: &Path) -> io::Result<()> {
    if make(path, MOST_LINKS)? {
        return Ok(());
    }
    fs::remove_file(path)?;
    make(path, 0).map(drop)
}

/// Makes sure that a directory is at `path`, or where a link there leads, and removes nothing for it.
pub(crate) fn reach(path: &Path) -> io::Result<()> {
    if make(path, MOST_LINKS)? { Ok(()) } else { Err(io::ErrorKind::NotADirectory.into()) }
}

/// Whether there is a directory at `path` now; if not, something else is in its place.
fn make(path: &Path, links: u32) -> io::Result<bool> {
    if fs::metadata(path).is_ok_and(|meta| meta.is_dir()) {
        return Ok(true);
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_symlink() && links > 0 => {
            let target = parent.join(fs::read_link(path)?);
            Ok(make(&target, links - 1)? && fs::metadata(path).is_ok_and(|meta| meta.is_dir()))
        }
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if !parent.as_os_str().is_empty() && !make(parent, links)? {
                return Ok(false);
            }
            match DirBuilder::new().mode(0o755).create(path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
                _ => Ok(fs::metadata(path).is_ok_and(|meta| meta.is_dir())),
            }
        }
        // A circle, or a way through what is no directory.
        Err(_) => Ok(false),
    }
}

/// Gives a small file these contents, whatever was in its place: a link that leads nowhere, a device, an empty directory.
pub(crate) fn put(path: &Path, text: &[u8]) -> io::Result<()> {
    put_by(overwrite, path, text)
}

/// As [`put`], for a file that is likely to be the image's.
pub(crate) fn put_over_image(path: &Path, text: &[u8]) -> io::Result<()> {
    put_by(empty_and_write, path, text)
}

fn put_by(write: fn(&Path, &[u8]) -> io::Result<()>, path: &Path, text: &[u8]) -> io::Result<()> {
    let Err(error) = write(path, text) else { return Ok(()) };
    if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::ReadOnlyFilesystem) {
        return Err(error);
    }
    if let Some(parent) = path.parent() {
        directory(parent)?;
    }
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir(path)?,
        Ok(_) => fs::remove_file(path)?,
        Err(_) => {}
    }
    write(path, text)
}

/// Gives a small file these contents. It is made empty first, so that overlayfs copies nothing of an image's file to the
/// instance's disk: it would wait until that has been written.
fn empty_and_write(path: &Path, text: &[u8]) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).custom_flags(NO_WAIT).open(path)?;
    file.write_all(text)
}

/// Gives a small file these contents. Its blocks stay what they are: for a file that is made empty first ext4 allocates
/// others, and begins to write them when it is closed, which in a fork takes half of the time of its new names.
pub(crate) fn overwrite(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).custom_flags(NO_WAIT).open(path)?;
    let before = file.metadata()?;
    if !before.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    file.write_all_at(text, 0)?;
    let length = u64::try_from(text.len()).unwrap_or(u64::MAX);
    if length < before.len() { file.set_len(length) } else { Ok(()) }
}

/// What is in a regular file, up to a megabyte.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file: File = OpenOptions::new().read(true).custom_flags(NO_WAIT).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    file.take(MOST_READ).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_directory_is_made_where_a_link_leads_and_in_place_of_what_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        symlink("var/run", at("run")).unwrap();
        symlink(at("deep/er/tmp"), at("tmp")).unwrap();
        symlink("circle", at("circle")).unwrap();
        fs::write(at("file"), "x").unwrap();
        symlink("file", at("link")).unwrap();
        symlink("file/below", at("through")).unwrap();
        for name in ["run", "tmp", "circle", "file", "link", "through", "new/one", "run/below"] {
            if name == "file" {
                assert!(!at("link").is_dir());
            }
            directory(&at(name)).unwrap();
            assert!(at(name).is_dir(), "{name}");
            directory(&at(name)).unwrap();
        }
        assert!(at("var/run").is_dir() && at("deep/er/tmp").is_dir() && at("run").is_symlink());
    }

    #[test]
    fn what_a_link_leads_to_is_not_removed_for_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("kept"), "x").unwrap();
        symlink("kept", at("link")).unwrap();
        directory(&at("link")).unwrap();
        assert!(at("link").is_dir() && !at("link").is_symlink());
        assert_eq!(fs::read(at("kept")).unwrap(), b"x");
    }

    #[test]
    fn a_place_that_is_only_reached_keeps_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        symlink(at("srv/data"), at("data")).unwrap();
        reach(&at("data/deep")).unwrap();
        assert!(at("srv/data/deep").is_dir());
        fs::write(at("file"), "x").unwrap();
        for name in ["file", "file/below"] {
            assert_eq!(reach(&at(name)).unwrap_err().kind(), io::ErrorKind::NotADirectory, "{name}");
        }
        assert_eq!(fs::read(at("file")).unwrap(), b"x");
    }

    #[test]
    fn a_file_is_put_in_place_of_whatever_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        symlink("/nowhere/at/all", at("dangling")).unwrap();
        symlink("circle", at("circle")).unwrap();
        symlink("/dev/null", at("device")).unwrap();
        symlink("real", at("link")).unwrap();
        fs::write(at("real"), "old and long").unwrap();
        fs::create_dir(at("empty")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            at("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        for name in ["dangling", "circle", "device", "link", "empty", "pipe", "new/dir/file"] {
            put(&at(name), b"text").unwrap();
            assert_eq!(read(&at(name)).unwrap(), b"text", "{name}");
            put_over_image(&at(name), b"new").unwrap();
            assert_eq!(read(&at(name)).unwrap(), b"new", "{name}");
        }
        std::fs::remove_file(at("device")).unwrap();
        symlink("/dev/null", at("device")).unwrap();
        put_over_image(&at("device"), b"text").unwrap();
        assert_eq!(read(&at("device")).unwrap(), b"text");
        assert_eq!(fs::read(at("real")).unwrap(), b"new", "through a link to a file");
        fs::create_dir_all(at("full/of")).unwrap();
        assert!(put(&at("full"), b"text").is_err(), "what is in a directory stays");
    }

    #[test]
    fn a_file_that_is_overwritten_has_the_new_text_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("name");
        for text in ["long-name\n", "x\n", "longer-name\n"] {
            overwrite(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
}
