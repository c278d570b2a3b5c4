//! Kit discovery: directories of the host, the first of them first.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aegis_paths::Dir;
use rustix::fs::{Mode, OFlags};

use crate::manifest::{Broken, Format, MOST_BYTES, Manifest, is_name};

/// A kit, or what is left of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kit {
    /// Its name: that of its file or directory.
    pub name: String,
    /// The directory that its files are in.
    pub dir: PathBuf,
    /// Its manifest's file.
    pub source: PathBuf,
    /// What it says, or what is wrong.
    pub manifest: Result<Manifest, Broken>,
}

/// The directories where kits are.
#[derive(Debug, Clone)]
pub struct KitDiscovery {
    dirs: Vec<PathBuf>,
}

fn format(path: &Path) -> Option<Format> {
    match path.extension()?.to_str()? {
        "json" => Some(Format::Json),
        "toml" => Some(Format::Toml),
        _ => None,
    }
}

/// A manifest by its name in a directory that is open, so that what it names is looked for where it was.
fn read(dir: &Dir, name: &OsStr) -> Result<String, Broken> {
    let failed = |error: std::io::Error| Broken(format!("cannot be read: {error}"));
    let mut text = String::new();
    // A pipe among the kits would keep whoever looks at them waiting.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(dir, name, flags, Mode::empty());
    let file = fs::File::from(opened.map_err(|error| failed(error.into()))?);
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() {
        return Err(Broken("is no file".to_owned()));
    }
    // What it names is executed on this host.
    let of_dir = rustix::fs::fstat(dir).map_err(|error| failed(error.into()))?;
    if let Some(uid) = [meta.uid(), of_dir.st_uid].into_iter().find_map(aegis_paths::foreign_owner) {
        return Err(Broken(format!("belongs to another user (uid {uid})")));
    }
    file.take(MOST_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MOST_BYTES {
        return Err(Broken(format!("has more than {MOST_BYTES} bytes")));
    }
    Ok(text)
}

/// The manifest of a directory.
fn in_directory(dir: &Path) -> Option<PathBuf> {
    ["kit.toml", "kit.json"].map(|name| dir.join(name)).into_iter().find(|path| path.is_file())
}

impl Kit {
    /// The kit of a manifest's file, or of a directory that has one.
    #[must_use]
    pub fn load(path: &Path) -> Kit {
        Kit::open(path).0
    }

    /// The same, and its directory, which was opened before its manifest was read: what the manifest names is in there,
    /// whatever has become of the directory's name meanwhile. There is none for a broken kit.
    #[must_use]
    pub fn open(path: &Path) -> (Kit, Option<Dir>) {
        let (source, dir, name) = if path.is_dir() {
            (in_directory(path).unwrap_or_else(|| path.join("kit.toml")), path.to_owned(), path.file_name())
        } else {
            let dir = path.parent().unwrap_or(Path::new("/"));
            let named_by_dir = path.file_stem().is_some_and(|stem| stem == "kit");
            let name = if named_by_dir { dir.file_name() } else { path.file_stem() };
            (path.to_owned(), dir.to_owned(), name)
        };
        let name = name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let opened = Dir::open_root(&dir).map_err(|error| Broken(format!("its directory: {error}")));
        let checked = opened.and_then(|opened| Ok((Kit::check(&source, &dir, &opened, &name)?, opened)));
        let (manifest, opened) = match checked {
            Ok((manifest, opened)) => (Ok(manifest), Some(opened)),
            Err(broken) => (Err(broken), None),
        };
        (Kit { name, dir, source, manifest }, opened)
    }

    fn check(source: &Path, dir: &Path, opened: &Dir, name: &str) -> Result<Manifest, Broken> {
        let format = format(source).ok_or_else(|| Broken("is neither .json nor .toml".to_owned()))?;
        let manifest = Manifest::parse(&read(opened, source.file_name().unwrap_or_default())?, format)?;
        if manifest.name != name {
            return Err(Broken(format!("name: {:?}, in a file or directory named {name:?}", manifest.name)));
        }
        Kit::check_files(&manifest, opened)?;
        for daemon in &manifest.instance_daemons {
            let program = daemon.command.first().filter(|program| program.contains('/'));
            if let Some(program) = program.filter(|program| !dir.join(program).is_file()) {
                return Err(Broken(format!("instance_daemons: there is no program {program:?}")));
            }
        }
        Ok(manifest)
    }

    /// Files are what the kit has, and not what its links lead to.
    fn check_files(manifest: &Manifest, dir: &Dir) -> Result<(), Broken> {
        let missing = |what: String, error: std::io::Error| {
            let link = error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error());
            let why = if link { " that is reached without symbolic links" } else { "" };
            Broken(format!("{what} in the kit's directory{why}"))
        };
        for file in &manifest.files {
            let found = dir.stat_beneath(Path::new(&file.from));
            found.map_err(|error| missing(format!("files: there is no {:?}", file.from), error))?;
        }
        if let Some(template) = &manifest.workspace {
            let found = dir.dir_beneath(Path::new(template));
            found
                .map_err(|error| missing(format!("workspace: there is no directory {template:?}"), error))?;
        }
        Ok(())
    }
}

impl KitDiscovery {
    /// The kits in these directories; of those with one name the first counts.
    #[must_use]
    pub fn new(dirs: Vec<PathBuf>) -> KitDiscovery {
        KitDiscovery { dirs }
    }

    /// All kits by name, broken ones included.
    #[must_use]
    pub fn all(&self) -> BTreeMap<String, Kit> {
        let mut all = BTreeMap::new();
        for dir in &self.dirs {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                let path = entry.path();
                let is_kit =
                    if path.is_dir() { in_directory(&path).is_some() } else { format(&path).is_some() };
                if is_kit {
                    let kit = Kit::load(&path);
                    all.entry(kit.name.clone()).or_insert(kit);
                }
            }
        }
        all
    }

    /// A kit by name, if there is one.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Kit> {
        self.open(name).map(|(kit, _)| kit)
    }

    /// The same, and its directory; see [`Kit::open`].
    #[must_use]
    pub fn open(&self, name: &str) -> Option<(Kit, Option<Dir>)> {
        if !is_name(name) {
            return None;
        }
        let places = self.dirs.iter().flat_map(|dir| {
            [dir.join(name), dir.join(format!("{name}.toml")), dir.join(format!("{name}.json"))]
        });
        let mut found =
            places.filter(|path| if path.is_dir() { in_directory(path).is_some() } else { path.is_file() });
        found.next().map(|path| Kit::open(&path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kits_are_files_or_directories_and_the_first_of_a_name_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (own, system) = (dir.path().join("own"), dir.path().join("system"));
        fs::create_dir_all(own.join("deep")).unwrap();
        fs::create_dir_all(&system).unwrap();
        fs::write(own.join("deep/kit.toml"), "name = \"deep\"\n[[files]]\nfrom = \"f\"\nto = \"/f\"")
            .unwrap();
        fs::write(own.join("deep/f"), "x").unwrap();
        fs::write(own.join("flat.json"), r#"{"name":"flat","version":"1"}"#).unwrap();
        fs::write(system.join("flat.toml"), "name = \"flat\"\nversion = \"2\"").unwrap();
        fs::write(system.join("bad.toml"), "name = \"bad\"\n[[files]]\nfrom = \"f\"\nto = \"/f\"").unwrap();
        fs::write(system.join("other.toml"), "name = \"another\"").unwrap();
        fs::write(system.join("README"), "").unwrap();
        let shelf = KitDiscovery::new(vec![own, system, dir.path().join("absent")]);
        let all = shelf.all();
        assert_eq!(all.keys().collect::<Vec<_>>(), ["bad", "deep", "flat", "other"]);
        assert!(all["deep"].manifest.is_ok());
        assert_eq!(all["flat"].manifest.as_ref().unwrap().version, "1");
        assert!(all["bad"].manifest.as_ref().unwrap_err().0.contains("\"f\""));
        assert!(all["other"].manifest.as_ref().unwrap_err().0.contains("another"));
        for (name, kit) in all {
            assert_eq!(shelf.find(&name), Some(kit));
        }
        assert_eq!(shelf.find("../own/deep"), None);
        assert_eq!(shelf.find("absent"), None);
    }

    #[test]
    fn links_of_a_kit_lead_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let kit = dir.path().join("k");
        fs::create_dir_all(kit.join("real")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/key"), "secret").unwrap();
        fs::write(kit.join("real/f"), "x").unwrap();
        std::os::unix::fs::symlink("../outside", kit.join("out")).unwrap();
        std::os::unix::fs::symlink("real", kit.join("in")).unwrap();
        let told = |lines: &str| {
            fs::write(kit.join("kit.toml"), format!("name = \"k\"\n{lines}")).unwrap();
            Kit::load(&kit).manifest.map(drop).map_err(|broken| broken.0)
        };
        let files = |from: &str| told(&format!("[[files]]\nfrom = \"{from}\"\nto = \"/f\""));
        for fine in ["real", "real/f", "real/", "./real/f", "out"] {
            assert_eq!(files(fine), Ok(()), "{fine}: a link itself is copied as one");
        }
        for from in ["out/key", "in/f", "out/", "out/.", "in/."] {
            assert!(files(from).unwrap_err().contains("without symbolic links"), "{from}");
        }
        assert_eq!(told("workspace = \"real\""), Ok(()));
        for template in ["out", "in", "out/.", "real/f", "absent"] {
            assert!(told(&format!("workspace = \"{template}\"")).is_err(), "{template}");
        }
    }

    #[test]
    fn a_directory_that_is_exchanged_after_it_was_opened_is_still_the_kits() {
        let dir = tempfile::tempdir().unwrap();
        let (kit, outside) = (dir.path().join("k"), dir.path().join("outside"));
        for (place, text) in [(&kit, "the kit's"), (&outside, "secret")] {
            fs::create_dir(place).unwrap();
            fs::write(place.join("f"), text).unwrap();
        }
        fs::write(kit.join("kit.toml"), "name = \"k\"\n[[files]]\nfrom = \"f\"\nto = \"/f\"").unwrap();
        let (loaded, opened) = KitDiscovery::new(vec![dir.path().to_owned()]).open("k").unwrap();
        assert!(loaded.manifest.is_ok());
        fs::rename(&kit, dir.path().join("aside")).unwrap();
        std::os::unix::fs::symlink("outside", &kit).unwrap();
        let mut text = String::new();
        opened.unwrap().file_beneath(Path::new("f")).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "the kit's");
        // Opened now, it has no manifest.
        assert!(Kit::open(&kit).1.is_none());
    }

    #[test]
    fn a_pipe_among_the_kits_keeps_nobody_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let parent = fs::File::open(dir.path()).unwrap();
        rustix::fs::mkfifoat(&parent, "pipe.toml", 0o600.into()).unwrap();
        fs::create_dir(dir.path().join("d.toml")).unwrap();
        let all = KitDiscovery::new(vec![dir.path().to_owned()]).all();
        assert!(all["pipe"].manifest.as_ref().unwrap_err().0.contains("no file"));
        assert!(Kit::load(&dir.path().join("pipe.toml")).manifest.is_err());
    }
}
