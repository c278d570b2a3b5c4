//! Certificate authorities that a host has been given of its own: where they stand between an instance and the world, its
//! programs fail until they trust them too.

use std::path::{Path, PathBuf};

/// Where administrators put them: on Debian and its like, Red Hat and its like, SUSE, and Arch.
const PLACES: [&str; 4] = [
    "/usr/local/share/ca-certificates",
    "/etc/pki/ca-trust/source/anchors",
    "/etc/pki/trust/anchors",
    "/etc/ca-certificates/trust-source/anchors",
];
/// What names of their files end with.
const ENDS: [&str; 3] = ["crt", "pem", "cer"];
/// Most of them that are named.
const MOST: usize = 3;

/// How deep below such a directory they are looked for, as `update-ca-certificates` does.
const MOST_DEPTH: u32 = 4;

/// Their files in these directories.
fn own(places: &[&Path]) -> Vec<PathBuf> {
    let is_one = |path: &PathBuf| {
        path.extension().is_some_and(|end| ENDS.iter().any(|one| end.eq_ignore_ascii_case(one)))
    };
    let (mut files, mut level) = (Vec::new(), places.iter().map(PathBuf::from).collect::<Vec<_>>());
    for _ in 0..MOST_DEPTH {
        let entries = level.iter().filter_map(|place| std::fs::read_dir(place).ok()).flatten().flatten();
        let (below, beside): (Vec<_>, Vec<_>) = entries
            .map(|entry| (entry.file_type().is_ok_and(|kind| kind.is_dir()), entry.path()))
            .partition(|(is_dir, _)| *is_dir);
        files.extend(beside.into_iter().map(|(_, path)| path).filter(is_one));
        level = below.into_iter().map(|(_, path)| path).collect();
    }
    files.sort();
    files
}

/// What the host's own authorities are called, for people; `None` if it has none.
pub(crate) fn of_host() -> Option<String> {
    let files = own(&PLACES.map(Path::new));
    let names = files.iter().take(MOST).filter_map(|file| file.file_name());
    let names = names.map(|name| name.to_string_lossy()).collect::<Vec<_>>().join(", ");
    let more = if files.len() > MOST { ", …" } else { "" };
    (!files.is_empty()).then(|| format!("{names}{more}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_found_wherever_a_distribution_keeps_them() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("corp/ca.crt")).unwrap();
        for name in ["corporate.crt", "OTHER.PEM", "README", "old.crt.bak", "corp/root.crt"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let found = own(&[Path::new("/nowhere"), dir.path()]);
        assert_eq!(found, ["OTHER.PEM", "corp/root.crt", "corporate.crt"].map(|name| dir.path().join(name)));
        assert!(own(&[Path::new("/nowhere")]).is_empty());
    }
}
