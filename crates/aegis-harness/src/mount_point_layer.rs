//! Mount points that an image lacks, in a layer of their own between it and the instance's changes. Made in the root they would
//! be changes of the instance, for each of which overlayfs copies all directories above to its disk: half of a start.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

/// Most links that are followed to a place.
const MOST_LINKS: u32 = 8;

/// A directory that the root is to have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// Where, an absolute path.
    pub(crate) at: &'a Path,
    /// Its mode, if it is made.
    pub(crate) mode: u32,
    /// Whether those above it are made as well, and links followed to them.
    pub(crate) with_parents: bool,
}

/// The layer, while it is made.
struct Layer<'a> {
    image: &'a Path,
    dir: &'a Path,
    /// Directories of the image that are in it, and how they are there.
    copied: Vec<(PathBuf, Metadata)>,
}

/// Makes in `dir` a layer with those of the directories that `image` lacks. Where that cannot be told, or not be done, there is
/// none in it: it is made in the root then.
pub(crate) fn lay(image: &Path, dir: &Path, wanted: &[Wanted<'_>]) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let mut layer = Layer { image, dir, copied: Vec::new() };
    for one in wanted {
        let _made_later = layer.add(*one);
    }
    // Now that nothing is made in them any more.
    layer.copied.iter().try_for_each(|(path, meta)| set_times(path, meta))
}

impl Layer<'_> {
    fn add(&mut self, wanted: Wanted<'_>) -> io::Result<()> {
        let place = self.resolve(wanted.at, if wanted.with_parents { MOST_LINKS } else { 0 })?;
        let there = place.ancestors().find(|above| self.image.join(above).is_dir());
        let there = there.unwrap_or(Path::new("")).to_owned();
        let missing: Vec<&Path> = place.ancestors().take_while(|path| *path != there).collect();
        if missing.is_empty() || missing.len() > 1 && !wanted.with_parents {
            return Ok(());
        }
        let above: Vec<&Path> = there.ancestors().filter(|path| !path.as_os_str().is_empty()).collect();
        above.into_iter().rev().try_for_each(|path| self.copy(path))?;
        for path in missing.into_iter().rev() {
            let mode = if path == place { wanted.mode } else { 0o755 };
            fs::DirBuilder::new().recursive(true).mode(mode).create(self.dir.join(path))?;
        }
        Ok(())
    }

    /// Where the links of the image lead, relative to its root.
    fn resolve(&self, at: &Path, most_links: u32) -> io::Result<PathBuf> {
        let mut rest: Vec<PathBuf> = parts(at)?;
        let (mut found, mut links) = (PathBuf::new(), 0);
        while let Some(name) = rest.pop() {
            let next = found.join(&name);
            match fs::symlink_metadata(self.image.join(&next)) {
                Ok(meta) if meta.is_symlink() && links < most_links => {
                    links += 1;
                    let target = fs::read_link(self.image.join(&next))?;
                    if target.is_absolute() {
                        found = PathBuf::new();
                    }
                    rest.extend(parts(&target)?);
                }
                Ok(meta) if !meta.is_dir() => return Err(io::ErrorKind::NotADirectory.into()),
                _ => found = next,
            }
        }
        Ok(found)
    }

    /// A directory of the image, which the layer is to have: what lies above counts for what is said of it.
    fn copy(&mut self, path: &Path) -> io::Result<()> {
        let (from, to) = (self.image.join(path), self.dir.join(path));
        if self.copied.iter().any(|(made, _)| *made == to) {
            return Ok(());
        }
        if rustix::fs::listxattr(&from, &mut [0_u8; 0])? > 0 {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let meta = fs::symlink_metadata(&from)?;
        match fs::create_dir(&to) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        chown(&to, Some(meta.uid()), Some(meta.gid()))?;
        fs::set_permissions(&to, fs::Permissions::from_mode(meta.mode() & 0o7777))?;
        self.copied.push((to, meta));
        Ok(())
    }
}

/// The names of a path, the last one first; of one that leads upwards none.
fn parts(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for component in path.components().rev() {
        match component {
            Component::Normal(name) => names.push(PathBuf::from(name)),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(io::ErrorKind::Unsupported.into()),
        }
    }
    Ok(names)
}

fn set_times(path: &Path, meta: &Metadata) -> io::Result<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: meta.atime(), tv_nsec: meta.atime_nsec() as _ },
        last_modification: Timespec { tv_sec: meta.mtime(), tv_nsec: meta.mtime_nsec() as _ },
    };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn wanted(at: &str) -> Wanted<'_> {
        Wanted { at: Path::new(at), mode: 0o711, with_parents: at.starts_with("/lib") }
    }

    #[test]
    fn a_layer_has_what_the_image_lacks_and_all_above_it_as_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let (image, layer) = (dir.path().join("image"), dir.path().join("layer"));
        for name in ["usr/lib", "var/lib/full", "srv"] {
            fs::create_dir_all(image.join(name)).unwrap();
        }
        symlink("usr/lib", image.join("lib")).unwrap();
        symlink("/srv", image.join("libraries")).unwrap();
        symlink("srv", image.join("data")).unwrap();
        symlink("../outside", image.join("usr/lib/up")).unwrap();
        symlink("circle", image.join("circle")).unwrap();
        fs::write(image.join("file"), "").unwrap();
        fs::set_permissions(image.join("var/lib"), fs::Permissions::from_mode(0o1750)).unwrap();
        let of = |path: PathBuf| {
            let meta = fs::symlink_metadata(path).unwrap();
            (meta.mode() & 0o7777, meta.mtime(), meta.mtime_nsec())
        };
        let names = ["/lib/modules/6.1", "/var/lib/docker", "/var/lib/full", "/libraries/x", "/srv"];
        let no_names = ["/lib/up/x", "/data/x", "/circle/x", "/file", "/file/x", "/none/x/y"];
        let all: Vec<Wanted<'_>> = names.into_iter().chain(no_names).map(wanted).collect();
        for _again in 0..2 {
            lay(&image, &layer, &all).unwrap();
            for path in ["usr", "usr/lib", "var", "var/lib", "srv"] {
                assert_eq!(of(layer.join(path)), of(image.join(path)), "{path}");
            }
        }
        assert!(layer.join("usr/lib/modules/6.1").is_dir() && layer.join("srv/x").is_dir());
        assert_eq!(of(layer.join("var/lib/docker")).0, 0o711);
        let mut top: Vec<_> = fs::read_dir(&layer).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        top.sort();
        assert_eq!(top, ["srv", "usr", "var"], "nothing is made where links lead nowhere");
        assert!(!layer.join("var/lib/full").exists(), "what is there needs no other");
    }
}
