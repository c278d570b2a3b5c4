//! Removal of files that belong to no instance: what a crash left behind between two steps.
//!
//! Only names that this project gives are ever touched: those of instances (see [`is_instance_id`]), with or
//! without a suffix, and files that were never finished (`*.partial`). Anything else was put there by somebody
//! else and stays.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aegis_paths::remove_tree;

use crate::home::{Home, check_own_dir, is_instance_id};

/// The suffix of files that are still being made.
pub const PARTIAL: &str = ".partial";

/// Names found in the directories that hold instances' things.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnedNames {
    /// In `data/disks`.
    pub disks: Vec<OsString>,
    /// In `data/logs`.
    pub logs: Vec<OsString>,
    /// In `run`.
    pub run: Vec<OsString>,
}

/// What of a listing is to be removed; each name is to be taken in the directory it was found in.
///
/// That is everything of an instance that is not `known`, and every `*.partial`, whosever it is: a listing must
/// therefore not be made while instances are being created. Names that are no valid instance's are left alone.
#[must_use]
pub fn strays(listing: &OwnedNames, known: &BTreeSet<String>) -> OwnedNames {
    let pick = |names: &[OsString]| {
        let stray = |name: &&OsString| name.to_str().is_some_and(|name| is_stray(name, known));
        names.iter().filter(stray).cloned().collect()
    };
    OwnedNames { disks: pick(&listing.disks), logs: pick(&listing.logs), run: pick(&listing.run) }
}

fn is_stray(name: &str, known: &BTreeSet<String>) -> bool {
    let (id, suffix) = name.split_once('.').unwrap_or((name, ""));
    let plain = suffix.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
    plain && is_instance_id(id) && (name.ends_with(PARTIAL) || !known.contains(id))
}

/// Removes the strays of `home`, directories with everything in them, and returns what was removed. To be run
/// when the daemon starts, under its lock, before the first instance is created. Symbolic links are removed,
/// never followed; a directory that is itself a symbolic link is left alone.
///
/// # Errors
/// The first failure, with its path in the message; everything else that could be removed has been.
pub fn sweep(home: &Home, known: &BTreeSet<String>) -> io::Result<Vec<PathBuf>> {
    let (disks, logs) = (home.disks(), home.logs());
    let found = OwnedNames { disks: names(&disks)?, logs: names(&logs)?, run: Vec::new() };
    let found = strays(&found, known);
    let mut paths: Vec<PathBuf> = found.disks.iter().map(|name| disks.join(name)).collect();
    paths.extend(found.logs.iter().map(|name| logs.join(name)));
    for run in [home.run(), home.short_run()] {
        let found = OwnedNames { run: names(&run)?, ..OwnedNames::default() };
        paths.extend(strays(&found, known).run.iter().map(|name| run.join(name)));
    }

    let mut failure = None;
    paths.retain(|path| match remove(path) {
        Ok(removed) => removed,
        Err(error) => {
            failure.get_or_insert_with(|| in_context(path, &error));
            false
        }
    });
    home.remove_empty_short_run();
    failure.map_or(Ok(paths), Err)
}

/// The names in a directory; none if it is not there, or not a directory of this user.
fn names(directory: &Path) -> io::Result<Vec<OsString>> {
    let list = || -> io::Result<Vec<OsString>> {
        if check_own_dir(directory)?.is_err() {
            return Ok(Vec::new());
        }
        fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.file_name())).collect()
    };
    match list() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        result => result.map_err(|error| in_context(directory, &error)),
    }
}

/// Whether there was something to remove.
fn remove(path: &Path) -> io::Result<bool> {
    let removed = fs::symlink_metadata(path)
        .and_then(|meta| if meta.is_dir() { remove_tree(path) } else { fs::remove_file(path) });
    match removed {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn in_context(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;

    fn set(ids: &[&str]) -> BTreeSet<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn sweeps_what_nobody_knows_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::new(dir.path().join("h"), dir.path());
        home.create().unwrap();
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("keep"), "x").unwrap();

        for id in ["inst-known", "inst-gone"] {
            fs::write(home.disk(id), "x").unwrap();
            fs::create_dir_all(home.log_dir(id).join("deep")).unwrap();
            fs::create_dir(home.run().join(id)).unwrap();
        }
        fs::write(home.disks().join("inst-known.ext4.7-1.partial"), "x").unwrap();
        fs::write(home.disks().join("README"), "x").unwrap();
        symlink(&outside, home.logs().join("inst-link")).unwrap();
        symlink(&outside, home.log_dir("inst-gone").join("link")).unwrap();

        let mut removed = sweep(&home, &set(&["inst-known"])).unwrap();
        removed.sort();
        let mut expected = vec![
            home.disk("inst-gone"),
            home.disks().join("inst-known.ext4.7-1.partial"),
            home.log_dir("inst-gone"),
            home.logs().join("inst-link"),
            home.run().join("inst-gone"),
        ];
        expected.sort();
        assert_eq!(removed, expected);
        assert!(removed.iter().all(|path| fs::symlink_metadata(path).is_err()));
        assert!(outside.join("keep").exists() && home.disks().join("README").exists());
        assert!(home.disk("inst-known").exists() && home.log_dir("inst-known").join("deep").exists());
        assert_eq!(sweep(&home, &set(&["inst-known"])).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn reaches_the_short_run_directory_and_spares_linked_ones() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::new(dir.path().join("long".repeat(30)), dir.path());
        home.create().unwrap();
        let stray = home.run_dir("inst-gone").unwrap();
        let kept = home.run_dir("inst-known").unwrap();
        fs::remove_dir(home.disks()).unwrap();
        let elsewhere = dir.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        fs::write(elsewhere.join("inst-gone.ext4"), "x").unwrap();
        symlink(&elsewhere, home.disks()).unwrap();

        assert_eq!(sweep(&home, &set(&["inst-known"])).unwrap(), vec![stray]);
        assert!(kept.exists() && elsewhere.join("inst-gone.ext4").exists());
        fs::remove_dir_all(home.short_run()).unwrap();
    }

    #[test]
    fn a_home_that_is_not_there_has_no_strays() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::new(dir.path().join("none"), dir.path());
        assert!(sweep(&home, &BTreeSet::new()).unwrap().is_empty());
    }

    fn name() -> impl Strategy<Value = String> {
        prop_oneof![
            "inst-[0-9a-c]{1,2}",
            "inst-[0-9a-c]{1,2}\\.ext4",
            "inst-[0-9a-c]{0,2}(\\.[a-z0-9-]{0,4}){0,2}(\\.partial)?",
            "[./a-zA-Z-]{0,12}",
            any::<String>(),
        ]
    }

    proptest! {
        #[test]
        fn never_names_what_belongs_to_a_known_instance(
            names in prop::collection::vec(name(), 0..40),
            known in prop::collection::btree_set("inst-[0-9a-c]{1,2}", 0..12),
        ) {
            let names: Vec<OsString> = names.into_iter().map(OsString::from).collect();
            let listing = OwnedNames { disks: names.clone(), logs: names.clone(), run: names };
            let strays = strays(&listing, &known);
            let home = Home::new("/h", "/d");
            for id in &known {
                prop_assert!(!strays.disks.iter().any(|name| home.disks().join(name) == home.disk(id)));
                prop_assert!(!strays.logs.iter().any(|name| home.logs().join(name) == home.log_dir(id)));
                prop_assert!(!strays.run.iter().any(|name| home.run().join(name) == home.run_dir_path(id)));
            }
            for name in strays.disks.iter().chain(&strays.logs).chain(&strays.run) {
                let mut components = Path::new(name).components();
                prop_assert!(matches!(components.next(), Some(std::path::Component::Normal(_))));
                prop_assert!(components.next().is_none());
                prop_assert!(name.to_str().unwrap().starts_with("inst-"));
            }
        }

        #[test]
        fn names_everything_of_an_unknown_instance(id in "inst-[0-9a-z]{1,26}") {
            let home = Home::new("/h", "/d");
            let listing = OwnedNames {
                disks: vec![home.disk(&id).file_name().unwrap().to_owned()],
                logs: vec![OsString::from(&id)],
                run: vec![OsString::from(&id)],
            };
            prop_assert_eq!(strays(&listing, &BTreeSet::new()), listing);
        }
    }
}
