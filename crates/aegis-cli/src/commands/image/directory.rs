//! A directory with an image as an archive of it. It may be a workspace that a guest changes at this moment, so nothing in
//! it leads out of it: a link is a link, and a directory exchanged for one is an error.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use aegis_paths::Dir;
use rustix::fs::{FileType, Mode, OFlags};

/// Deepest nesting; layouts of images have four.
const MOST_DEPTH: usize = 64;

/// Writes files, directories and links below `root`, which the user typed. Pipes, sockets and devices are left out.
pub(super) fn archive(root: &Path, to: impl Write) -> io::Result<()> {
    let root = Dir::open_root(root)?;
    let mut archive = tar::Builder::new(to);
    let mut pending = vec![PathBuf::new()];
    while let Some(dir) = pending.pop() {
        if dir.components().count() > MOST_DEPTH {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is nested too deeply"));
        }
        for path in children(&root, &dir)? {
            let found = root.open_beneath(&path, OFlags::PATH, Mode::empty())?;
            match FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) {
                FileType::RegularFile => append(&mut archive, &path, root.file_beneath(&path)?)?,
                FileType::Directory => pending.push(path),
                FileType::Symlink => {
                    let target = rustix::fs::readlinkat(&found, "", Vec::new())?.into_bytes();
                    let mut header = tar::Header::new_gnu();
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_size(0);
                    archive.append_link(&mut header, &path, std::ffi::OsString::from_vec(target))?;
                }
                _ => {}
            }
        }
    }
    archive.into_inner()?.flush()
}

fn children(root: &Dir, path: &Path) -> io::Result<Vec<PathBuf>> {
    let opened = root.open_beneath(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
    let mut children = Vec::new();
    for entry in rustix::fs::Dir::new(opened)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            children.push(path.join(OsStr::from_bytes(name)));
        }
    }
    children.sort_unstable();
    Ok(children)
}

/// A file of the size that it has now, whatever becomes of it meanwhile.
fn append(archive: &mut tar::Builder<impl Write>, path: &Path, file: File) -> io::Result<()> {
    let size = file.metadata()?.len();
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o644);
    header.set_size(size);
    let mut contents = Exactly { file: file.take(size), left: size };
    archive.append_data(&mut header, path, &mut contents)
}

/// A file that must not end before its size: the archive would go on in the middle of it.
struct Exactly {
    file: io::Take<File>,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buf)?;
        if count == 0 && self.left > 0 && !buf.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a file changed while it was read"));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn entries(root: &Path) -> io::Result<Vec<(String, String)>> {
        let mut bytes = Vec::new();
        archive(root, &mut bytes)?;
        let mut read = tar::Archive::new(bytes.as_slice());
        let entries = read.entries()?.map(|entry| {
            let mut entry = entry?;
            let link = entry.link_name()?.map(|link| link.display().to_string());
            let mut text = String::new();
            entry.read_to_string(&mut text)?;
            Ok((entry.path()?.display().to_string(), link.unwrap_or(text)))
        });
        entries.collect()
    }

    #[test]
    fn a_directory_is_archived_with_its_links_and_without_what_they_lead_to() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("layout");
        let deep = root.join("blobs").join("x".repeat(120));
        fs::create_dir_all(&deep).unwrap();
        fs::write(dir.path().join("secret"), "SECRET").unwrap();
        fs::write(root.join("index.json"), "{}").unwrap();
        fs::write(deep.join("blob"), "data").unwrap();
        symlink("../secret", root.join("link")).unwrap();
        symlink("..", root.join("up")).unwrap();
        rustix::fs::mkfifoat(File::open(&root).unwrap(), "pipe", 0o600.into()).unwrap();
        symlink("layout", dir.path().join("typed")).unwrap();
        let expected = [
            ("index.json".to_owned(), "{}".to_owned()),
            ("link".to_owned(), "../secret".to_owned()),
            ("up".to_owned(), "..".to_owned()),
            (format!("blobs/{}/blob", "x".repeat(120)), "data".to_owned()),
        ];
        assert_eq!(entries(&root).unwrap(), expected);
        assert_eq!(entries(&dir.path().join("typed")).unwrap(), expected);
        assert!(entries(&dir.path().join("absent")).is_err());
    }

    #[test]
    fn a_file_that_shrinks_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), "12345").unwrap();
        let file = File::open(dir.path().join("f")).unwrap();
        let mut contents = Exactly { file: file.take(9), left: 9 };
        assert!(contents.read_to_end(&mut Vec::new()).is_err());
    }
}
