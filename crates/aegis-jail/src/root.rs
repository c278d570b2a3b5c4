//! The root of a confined process's own: what its rules name, where they name it, and `/proc`.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use aegis_sys::confine::Step;

use crate::profile::{Access, FileRule};

/// Something of the host, and where it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shown {
    source: PathBuf,
    target: PathBuf,
    is_directory: bool,
    is_device: bool,
    read_only: bool,
}

/// The steps that make a root with what these rules name. What is not there is left out.
pub(crate) fn steps(files: &[FileRule]) -> io::Result<Vec<Step>> {
    let mut steps = plan(files.iter().filter_map(look).collect())?;
    steps.extend([Step::Directory(c"proc".to_owned()), Step::Processes(c"proc".to_owned())]);
    Ok(steps)
}

fn look(rule: &FileRule) -> Option<Shown> {
    let source = rule.path.canonicalize().ok()?;
    let kind = source.metadata().ok()?.file_type();
    Some(Shown {
        source,
        target: rule.path.clone(),
        is_directory: kind.is_dir(),
        is_device: kind.is_char_device() || kind.is_block_device(),
        read_only: matches!(rule.access, Access::Read | Access::Execute),
    })
}

/// The order in which it is made: what is above before what is below, and nothing twice.
fn plan(mut all: Vec<Shown>) -> io::Result<Vec<Step>> {
    all.sort_by(|one, other| one.target.cmp(&other.target));
    all.dedup_by(|one, first| {
        let same = one.target == first.target;
        if same {
            // Whichever rule allows more counts.
            first.read_only &= one.read_only;
        }
        same
    });
    let (mut steps, mut made, mut shown) = (Vec::new(), BTreeSet::new(), Vec::<PathBuf>::new());
    for one in all {
        // It is there already, in a directory that is shown whole.
        if shown.iter().any(|above| one.target.starts_with(above)) {
            continue;
        }
        let target = relative(&one.target)?;
        let parents: Vec<&Path> =
            target.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()).collect();
        for parent in parents.into_iter().rev() {
            if made.insert(parent.to_owned()) {
                steps.push(Step::Directory(text(parent)?));
            }
        }
        steps.push(if one.is_directory { Step::Directory(text(target)?) } else { Step::File(text(target)?) });
        let (source, read_only, device) = (text(&one.source)?, one.read_only, one.is_device);
        steps.push(Step::Bind { source, target: text(target)?, read_only, device });
        if one.is_directory {
            made.insert(target.to_owned());
            shown.push(one.target.clone());
        }
    }
    Ok(steps)
}

/// The path below the root.
fn relative(path: &Path) -> io::Result<&Path> {
    path.strip_prefix("/")
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a rule's path is not absolute"))
}

fn text(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(path: &str, is_directory: bool) -> Shown {
        let path = PathBuf::from(path);
        Shown { source: path.clone(), target: path, is_directory, is_device: false, read_only: true }
    }

    #[test]
    fn directories_come_before_what_is_in_them_and_nothing_is_shown_twice() {
        let all = vec![shown("/usr/lib/x", false), shown("/home/u/disk", false), shown("/usr/lib", true)];
        let steps = plan(all).unwrap();
        let words: Vec<String> = steps
            .iter()
            .map(|step| match step {
                Step::Directory(path) => format!("dir {}", path.to_string_lossy()),
                Step::File(path) => format!("file {}", path.to_string_lossy()),
                Step::Bind { target, .. } | Step::Processes(target) => {
                    format!("bind {}", target.to_string_lossy())
                }
            })
            .collect();
        assert_eq!(
            words,
            [
                "dir home",
                "dir home/u",
                "file home/u/disk",
                "bind home/u/disk",
                "dir usr",
                "dir usr/lib",
                "bind usr/lib"
            ]
        );
    }

    proptest! {
        #[test]
        fn each_step_finds_what_it_needs(paths in proptest::collection::vec(("(/[ab]{1,2}){1,4}", any::<bool>()), 0..12)) {
            let steps = plan(paths.iter().map(|(path, is_directory)| shown(path, *is_directory)).collect()).unwrap();
            let mut there = BTreeSet::from([PathBuf::new()]);
            let path = |text: &CString| PathBuf::from(text.to_string_lossy().into_owned());
            for step in &steps {
                match step {
                    Step::Directory(one) | Step::File(one) => {
                        prop_assert!(there.contains(path(one).parent().unwrap()));
                        there.insert(path(one));
                    }
                    Step::Bind { target, .. } | Step::Processes(target) => prop_assert!(there.contains(&path(target))),
                }
            }
        }
    }
}
