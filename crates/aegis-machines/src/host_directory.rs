//! Directories of the host that users name for their instances: which may be named, and how they are opened.
//!
//! A guest may own a part of a path that its user names: what is below a directory that some guest writes can be
//! exchanged for a symbolic link at any moment. So a directory is what it was when it was named ([`named`]): its
//! identity is stored with the instance and compared at each start ([`open`]), and what is opened is used by its
//! descriptor from then on. Nothing here follows a symbolic link.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use aegis_kits::Kit;
use aegis_paths::{Dir, Identity, Location, Mounts, Trail, Unopened, open_unchanged, trail};
use aegis_store::home::Home;
use rustix::fs::{FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use thiserror::Error;

use aegis_spec::mount::{Mount, Source};

/// Where a directory is. For people, and for what is not opened: whoever opens it uses [`open`].
#[must_use]
pub fn path_of(source: &Source, home: &Home) -> PathBuf {
    match source {
        Source::Named(name) => home.workspaces().join(name),
        Source::Path(path) => path.clone(),
    }
}

/// Deepest path that is followed upwards.
const MOST_DEPTH: usize = 4096;

/// Where kits of the system are.
const SYSTEM_KITS: &str = "/usr/share/aegis/kits";

/// A directory of the host cannot be what an instance sees.
#[derive(Debug, Error)]
pub enum DirectoryError {
    /// It cannot be opened.
    #[error("cannot open {}: {source}", path.display())]
    Unopened {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its path leads through a symbolic link.
    #[error("{} leads through a symbolic link; name the directory by its own path", path.display())]
    Linked {
        /// Its path.
        path: PathBuf,
    },
    /// A symbolic link that was followed may be a guest's.
    #[error("a symbolic link in {} was followed, where a guest could put it", path.display())]
    Planted {
        /// The directory that the link is in.
        path: PathBuf,
    },
    /// Another directory, or a symbolic link, is where it was.
    #[error(
        "{} is not the directory any more that it was when it was named; to have the instance see the one that is there \
         now, start it with --workspace or --mount once more",
        path.display()
    )]
    Changed {
        /// Its path.
        path: PathBuf,
    },
    /// It is what the daemon works with, or near it.
    #[error("{} cannot be shown to an instance: {why}", path.display())]
    Refused {
        /// Its path.
        path: PathBuf,
        /// What it has to do with the daemon.
        why: &'static str,
    },
}

/// Opens a directory that a user names for the first time, and returns which it is.
///
/// # Errors
/// If it is none, its path leads through a symbolic link, or it may not be shown to an instance.
pub fn named(path: &Path, home: &Home) -> Result<Identity, DirectoryError> {
    let directory = open_plainly(path)?;
    refuse(&directory, path, home)?;
    identity(&directory, path)
}

/// Refuses a link that a guest may have put where it is, which is in `dir`: in a workspace that Aegis keeps, or where `shown`
/// says of a directory and all above it that guests could write there.
///
/// # Errors
/// If that is so, or cannot be found out.
pub fn check_followed(
    dir: &Path,
    home: &Home,
    shown: impl FnOnce(&[Identity]) -> bool,
) -> Result<(), DirectoryError> {
    let opened = open_plainly(dir)?;
    let above = above(&opened, dir)?;
    let kept = identity_of(&home.workspaces()).is_some_and(|kept| above.iter().any(|one| one.is(&kept)));
    if kept || shown(&above) {
        return Err(DirectoryError::Planted { path: dir.to_owned() });
    }
    Ok(())
}

/// Opens the directory of a mount.
///
/// # Errors
/// If it is not the one that was named, cannot be opened, or may not be shown to an instance.
pub fn open(mount: &Mount, home: &Home) -> Result<OwnedFd, DirectoryError> {
    let path = match &mount.source {
        Source::Named(name) => return open_workspace(name, home),
        Source::Path(path) => path,
    };
    let directory = match &mount.identity {
        Some(known) => open_unchanged(path, known).map_err(|error| match error {
            Unopened::Changed => DirectoryError::Changed { path: path.clone() },
            Unopened::Io(source) => DirectoryError::Unopened { path: path.clone(), source },
        })?,
        // Of an instance that an earlier version made, which did not note what it was.
        None => open_plainly(path)?,
    };
    refuse(&directory, path, home)?;
    Ok(directory)
}

/// A workspace that Aegis keeps: no guest can reach what is above it.
fn open_workspace(name: &str, home: &Home) -> Result<OwnedFd, DirectoryError> {
    let opened = Dir::open_root(&home.workspaces()).and_then(|all| all.dir_beneath(Path::new(name)));
    let failed = |source| DirectoryError::Unopened { path: home.workspaces().join(name), source };
    opened.map(OwnedFd::from).map_err(failed)
}

fn open_plainly(path: &Path) -> Result<OwnedFd, DirectoryError> {
    let failed = |source| DirectoryError::Unopened { path: path.to_owned(), source };
    let below = path.strip_prefix("/").map_err(|_| failed(io::ErrorKind::InvalidInput.into()))?;
    let opened = Dir::open_root(Path::new("/")).and_then(|root| root.dir_beneath(below));
    opened.map(OwnedFd::from).map_err(|error| match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::LOOP) => DirectoryError::Linked { path: path.to_owned() },
        _ => failed(error),
    })
}

fn identity(directory: impl AsFd, path: &Path) -> Result<Identity, DirectoryError> {
    Identity::of(directory).map_err(|source| DirectoryError::Unopened { path: path.to_owned(), source })
}

/// Refuses what contains, is, or lies in what the daemon works with, whatever it is called: also what is mounted below
/// it is looked at, and other mounts of the same file system are.
fn refuse(directory: &OwnedFd, path: &Path, home: &Home) -> Result<(), DirectoryError> {
    let failed = |source| DirectoryError::Unopened { path: path.to_owned(), source };
    let refused = |why| Err(DirectoryError::Refused { path: path.to_owned(), why });
    let mounts = Mounts::read().map_err(failed)?;
    if mounts.is_no_store(directory).map_err(failed)? {
        return refused("it is an interface to the host's kernel");
    }
    let looked_at = Looked::at(directory, path, &mounts)?;
    if let Some(why) = looked_at.refusal(home) {
        return refused(why);
    }
    for mounted in mounts.below(directory) {
        // What cannot be opened cannot be shown either. An interface to the kernel is not entered by the server of the
        // files. Files are mounted as well as directories.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(inner) = rustix::fs::open(mounted, flags, Mode::empty()) else { continue };
        if let Some(why) = Looked::at(&inner, mounted, &mounts)?.refusal(home) {
            return refused(why);
        }
    }
    Ok(())
}

/// Where a directory, or a file that is mounted, is: what is above it by name, and its place on its file system.
struct Looked<'a> {
    /// The directory itself first, the root last.
    above: Vec<Identity>,
    location: Option<Location>,
    mounts: &'a Mounts,
}

impl Looked<'_> {
    fn at<'a>(directory: &OwnedFd, path: &Path, mounts: &'a Mounts) -> Result<Looked<'a>, DirectoryError> {
        let failed =
            |source: Errno| DirectoryError::Unopened { path: path.to_owned(), source: source.into() };
        let kind = FileType::from_raw_mode(fstat(directory).map_err(failed)?.st_mode);
        // What is above a file is told by its location alone.
        let above = match kind {
            FileType::Directory => above(directory, path)?,
            _ => vec![identity(directory, path)?],
        };
        Ok(Looked { above, location: mounts.location(directory), mounts })
    }

    fn place(&self, path: &Path) -> Option<(Identity, Option<Location>)> {
        let open = File::open(path).ok()?;
        Some((Identity::of(&open).ok()?, self.mounts.location(&open)))
    }

    fn lies_in(&self, place: &Path) -> bool {
        let Some((identity, location)) = self.place(place) else { return false };
        let by_location =
            || self.location.as_ref().zip(location).is_some_and(|(own, place)| place.contains(own));
        self.above.iter().any(|one| one.is(&identity)) || by_location()
    }

    /// Whether a place is in it, or a link that leads to the place is: whoever writes the link chooses where it leads.
    fn contains(&self, place: &Path) -> bool {
        let Ok(Trail { links, end }) = trail(place) else { return false };
        self.holds(&end) || links.iter().any(|link| self.holds(&link.dir))
    }

    /// Whether a file or directory that is reached without links is in it.
    fn holds(&self, place: &Path) -> bool {
        let location = || self.place(place).and_then(|(_, location)| location);
        let by_location =
            || self.location.as_ref().zip(location()).is_some_and(|(own, place)| own.contains(&place));
        let own = self.above.first();
        all_above(place).iter().any(|one| own.is_some_and(|own| one.is(own))) || by_location()
    }

    fn is(&self, place: &Path) -> bool {
        let identity = identity_of(place);
        identity.is_some_and(|place| self.above.first().is_some_and(|own| place.is(own)))
    }

    /// Why it cannot be shown to an instance.
    fn refusal(&self, home: &Home) -> Option<&'static str> {
        // The home's parts by themselves, too: each may be a mount of its own, or be bound elsewhere.
        let parts = [
            home.root.clone(),
            home.data(),
            home.disks(),
            home.logs(),
            home.snapshots(),
            home.run(),
            home.cache(),
            home.images(),
            home.templates(),
        ];
        let workspaces = home.workspaces();
        let in_workspace = self.lies_in(&workspaces) && !self.is(&workspaces);
        if !in_workspace && parts.iter().any(|part| self.lies_in(part)) {
            return Some("it is in the home of the daemon");
        }
        if parts.iter().any(|part| self.contains(part)) {
            return Some("the home of the daemon is in it, with all instances and their secrets");
        }
        let near = |place: &Path| self.contains(place) || self.lies_in(place);
        if boots(home).iter().any(|part| near(part)) {
            return Some("what machines boot from is there");
        }
        if near(&home.config()) {
            return Some("the daemon's configuration is there");
        }
        let short = home.short_run();
        if short.exists() && near(&short) {
            return Some("the sockets of the daemon's machines are there");
        }
        let program = std::env::current_exe().ok();
        let programs = program.as_deref().and_then(Path::parent);
        if programs.is_some_and(near) {
            return Some("the daemon's own programs are there");
        }
        kits(home, programs)
            .iter()
            .any(|kit| near(kit))
            .then_some("a kit is there, whose programs run on the host")
    }
}

/// What machines boot from: the directories, and what is in them, which may be links to elsewhere.
fn boots(home: &Home) -> Vec<PathBuf> {
    let parts: Vec<PathBuf> = home
        .assets
        .iter()
        .flat_map(|assets| ["kernel", "base-rootfs"].map(|part| assets.join(part)))
        .collect();
    let entries = parts.iter().filter_map(|part| std::fs::read_dir(part).ok()).flatten().flatten();
    let entries: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    parts.into_iter().chain(entries).collect()
}

/// Where kits are: the user's own, those beside the directory of the daemon's programs, and the system's.
#[must_use]
pub fn kit_shelves(home: &Home, programs: Option<&Path>) -> Vec<PathBuf> {
    let beside = programs.and_then(Path::parent).map(|dir| dir.join("kits"));
    [Some(home.root.join("kits")), beside, Some(SYSTEM_KITS.into())].into_iter().flatten().collect()
}

/// Where kits are, each of them, its manifest, and the programs that it has executed on the host: all may be links to
/// elsewhere, and a kit may be one file.
fn kits(home: &Home, programs: Option<&Path>) -> Vec<PathBuf> {
    let shelves = kit_shelves(home, programs);
    let entries = shelves.iter().filter_map(|shelf| std::fs::read_dir(shelf).ok()).flatten().flatten();
    let entries: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    let each = entries.iter().flat_map(|entry| parts(Kit::load(entry))).collect::<Vec<_>>();
    shelves.into_iter().chain(entries).chain(each).filter(|path| path.exists()).collect()
}

/// A kit's manifest, and whatever of the commands of its daemons is a file.
fn parts(kit: Kit) -> Vec<PathBuf> {
    let daemons = kit.manifest.map(|manifest| manifest.instance_daemons).unwrap_or_default();
    let words = daemons.into_iter().flat_map(|daemon| daemon.command).filter(|word| word.contains('/'));
    let named = words.map(|word| kit.dir.join(word)).filter(|path| path.is_file());
    std::iter::once(kit.source.clone()).chain(named).collect()
}

fn identity_of(path: &Path) -> Option<Identity> {
    Identity::of(File::open(path).ok()?).ok()
}

/// A directory of the daemon's own and all above it, or all above a file; nothing if it is not there.
fn all_above(path: &Path) -> Vec<Identity> {
    let directory = if path.is_dir() { Some(path) } else { path.parent() };
    let open = directory.and_then(|directory| File::open(directory).ok());
    open.and_then(|file| above(&file.into(), path).ok()).unwrap_or_default()
}

/// A directory and all above it, the root last.
fn above(directory: &OwnedFd, path: &Path) -> Result<Vec<Identity>, DirectoryError> {
    let failed = |source: Errno| DirectoryError::Unopened { path: path.to_owned(), source: source.into() };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut all: Vec<Identity> = vec![identity(directory, path)?];
    let mut current = openat(directory, ".", flags, Mode::empty()).map_err(failed)?;
    while all.len() < MOST_DEPTH {
        current = openat(&current, "..", flags, Mode::empty()).map_err(failed)?;
        let parent = identity(&current, path)?;
        // The root is its own parent.
        if all.last() == Some(&parent) {
            return Ok(all);
        }
        all.push(parent);
    }
    Err(failed(Errno::NAMETOOLONG))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    struct Place {
        dir: tempfile::TempDir,
        home: Home,
    }

    fn place() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let home = Home::new(root.join("home"), root.join("home"));
        fs::create_dir_all(home.workspaces().join("w/inner")).unwrap();
        fs::create_dir_all(root.join("project/data")).unwrap();
        fs::create_dir_all(root.join("other/data")).unwrap();
        Place { dir, home }
    }

    fn mount(path: &Path, identity: Option<Identity>) -> Mount {
        let source = Source::Path(path.to_owned());
        Mount { source, at: "/data".into(), read_only: false, limit: None, identity }
    }

    #[test]
    fn a_directory_is_the_one_that_was_named_or_none() {
        let Place { dir, home } = place();
        let root = dir.path().canonicalize().unwrap();
        let data = root.join("project/data");
        let known = named(&data, &home).unwrap();
        assert!(open(&mount(&data, Some(known)), &home).is_ok());
        // What a guest can do that may write the project.
        let exchanges: [&dyn Fn(); 4] = [
            &|| symlink("/", &data).unwrap(),
            &|| symlink(root.join("other/data"), &data).unwrap(),
            &|| fs::create_dir(&data).unwrap(),
            &|| fs::rename(root.join("other/data"), &data).unwrap(),
        ];
        fs::rename(&data, root.join("kept")).unwrap();
        for exchange in exchanges {
            exchange();
            assert!(matches!(open(&mount(&data, Some(known)), &home), Err(DirectoryError::Changed { .. })));
            fs::remove_file(&data).or_else(|_| fs::remove_dir(&data)).unwrap();
        }
        // A directory above it, too.
        fs::rename(root.join("kept"), &data).unwrap();
        assert!(open(&mount(&data, Some(known)), &home).is_ok());
        fs::rename(root.join("project"), root.join("moved")).unwrap();
        symlink(root.join("moved"), root.join("project")).unwrap();
        assert!(matches!(open(&mount(&data, Some(known)), &home), Err(DirectoryError::Changed { .. })));
        assert!(matches!(open(&mount(&data, None), &home), Err(DirectoryError::Linked { .. })));
        assert!(matches!(named(&data, &home), Err(DirectoryError::Linked { .. })));
    }

    #[test]
    fn what_the_daemon_works_with_is_never_shown() {
        let Place { dir, home } = place();
        let root = dir.path().canonicalize().unwrap();
        let program = std::env::current_exe().unwrap();
        let programs = program.parent().unwrap();
        for refused in [
            Path::new("/"),
            &root,
            &home.root,
            &home.data(),
            &home.workspaces(),
            programs,
            programs.parent().unwrap(),
        ] {
            let error = named(refused, &home);
            assert!(matches!(error, Err(DirectoryError::Refused { .. })), "{}: {error:?}", refused.display());
            // Also one that is stored already.
            assert!(matches!(open(&mount(refused, None), &home), Err(DirectoryError::Refused { .. })));
        }
        // A kit of the user's that is a link to where he works on it.
        fs::create_dir_all(home.root.join("kits")).unwrap();
        fs::create_dir_all(root.join("work/kit/src")).unwrap();
        symlink(root.join("work/kit"), home.root.join("kits/mine")).unwrap();
        for refused in ["work", "work/kit", "work/kit/src"].map(|path| root.join(path)) {
            let error = named(&refused, &home);
            assert!(matches!(error, Err(DirectoryError::Refused { .. })), "{}: {error:?}", refused.display());
        }
        for fine in [root.join("project"), home.workspaces().join("w"), home.workspaces().join("w/inner")] {
            named(&fine, &home).unwrap();
        }
    }

    #[test]
    fn neither_are_files_that_the_daemon_goes_by_nor_links_that_lead_to_them() {
        let Place { dir, home } = place();
        let root = dir.path().canonicalize().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            path
        };
        let program = |name: &str, command: &str| {
            format!(
                "name = \"{name}\"\n[[instance_daemons]]\nname = \"d\"\ncommand = [\"sh\", \"{command}\"]\n"
            )
        };
        let kits = home.root.join("kits");
        fs::create_dir_all(kits.join("dir")).unwrap();
        // A kit of one file, a kit's manifest, a program that a kit names, a part of the boot, the configuration.
        symlink(write("one/flat.toml", "name = \"flat\""), kits.join("flat.toml")).unwrap();
        symlink(write("two/any", "name = \"dir\""), kits.join("dir/kit.toml")).unwrap();
        let daemon = write("three/bin/daemon", "");
        write("home/kits/abs.toml", &program("abs", &daemon.display().to_string()));
        fs::create_dir_all(home.root.join("kernel")).unwrap();
        symlink(write("four/vmlinux", ""), home.root.join("kernel/vmlinux")).unwrap();
        symlink(write("five/config", ""), home.root.join("config.toml")).unwrap();
        for refused in ["one", "two", "three", "three/bin", "four", "five"] {
            let error = named(&root.join(refused), &home);
            assert!(matches!(error, Err(DirectoryError::Refused { .. })), "{refused}: {error:?}");
        }
        named(&root.join("project"), &home).unwrap();
        // A home that is reached by links: whoever writes one of them chooses another home.
        fs::create_dir_all(root.join("six")).unwrap();
        fs::create_dir_all(root.join("seven/inner")).unwrap();
        symlink(root.join("seven/inner/link"), root.join("six/home")).unwrap();
        symlink(&home.root, root.join("seven/inner/link")).unwrap();
        let linked = Home::new(root.join("six/home"), root.join("six/home"));
        for refused in ["six", "seven", "seven/inner"] {
            let error = named(&root.join(refused), &linked);
            assert!(matches!(error, Err(DirectoryError::Refused { .. })), "{refused}: {error:?}");
        }
        named(&root.join("project"), &linked).unwrap();
    }

    #[test]
    fn a_workspace_that_is_a_link_is_none() {
        let Place { dir, home } = place();
        symlink(dir.path().join("project"), home.workspaces().join("evil")).unwrap();
        let of = |name: &str| {
            open(&Mount { source: Source::Named(name.into()), ..mount(Path::new("/"), None) }, &home)
        };
        assert!(of("w").is_ok());
        assert!(of("evil").is_err() && of("..").is_err());
    }
}
