//! A program that does nothing, to try namespaces and control groups with.

use std::path::PathBuf;

/// A program that does nothing.
const TRUE: &str = "true";

pub(crate) fn find_true() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/bin", "/usr/bin"].map(PathBuf::from));
    dirs.map(|dir| dir.join(TRUE)).find(|file| file.is_absolute() && file.is_file())
}
