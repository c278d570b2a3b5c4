//! Directories of the host, as `--workspace` and `--mount` take them.

use std::path::{Path, PathBuf};

use aegis_api::workspace::{HostDirectory, HostMount, check_name};
use aegis_paths::{Trail, trail};

/// A directory of the host as the user wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Name, or absolute path.
    pub source: String,
    /// Whether the guest may only read.
    pub read_only: bool,
    /// Directories in which links were followed to it.
    pub followed: Vec<String>,
}

/// Another directory of the host, at some place in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedMount {
    /// The directory.
    pub directory: Wanted,
    /// Where it is in the guest.
    pub at: String,
}

impl WantedMount {
    /// As the API takes it.
    #[must_use]
    pub fn request(self) -> HostMount {
        let Wanted { source, read_only, .. } = self.directory;
        HostMount { source, at: self.at, read_only }
    }
}

/// Takes `:ro` or `:rw` off the end.
fn access(text: &str) -> (&str, bool) {
    match text.rsplit_once(':') {
        Some((source, "ro")) => (source, true),
        Some((source, "rw")) => (source, false),
        _ => (text, false),
    }
}

/// What a source means here: a path contains `/` or begins with `.` or `~`, all else is a name. Links are followed; the
/// directories that they are in are told, too.
fn source(text: &str, home: Option<&Path>) -> Result<(String, Vec<String>), String> {
    if !text.contains('/') && !text.starts_with('.') && !text.starts_with('~') {
        check_name(text).map_err(|error| format!("{error}; a path contains '/'"))?;
        return Ok((text.to_owned(), Vec::new()));
    }
    let path = match (text.strip_prefix('~'), home) {
        (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => {
            home.join(rest.trim_start_matches('/'))
        }
        (Some(_), _) => return Err("only ~ and ~/ are understood".to_owned()),
        (None, _) => PathBuf::from(text),
    };
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    // Both from one walk: somebody may exchange what is on the way meanwhile.
    let Trail { links, end } = trail(&path).map_err(failed)?;
    if !end.symlink_metadata().map_err(failed)?.is_dir() {
        return Err(format!("{} is no directory", path.display()));
    }
    let text =
        |path: PathBuf| path.into_os_string().into_string().map_err(|_| "the path is no UTF-8".to_owned());
    let followed = links.into_iter().map(|link| text(link.dir)).collect::<Result<Vec<_>, _>>()?;
    Ok((text(end)?, followed))
}

fn home() -> Option<PathBuf> {
    std::env::var_os("HOME").map(PathBuf::from)
}

/// Parses `NAME|PATH[:ro]`.
///
/// # Errors
/// A sentence.
pub fn wanted(text: &str) -> Result<Wanted, String> {
    let (text, read_only) = access(text);
    let (source, followed) = source(text, home().as_deref())?;
    Ok(Wanted { source, read_only, followed })
}

/// Parses `HOST:GUEST[:ro]`.
///
/// # Errors
/// A sentence.
pub fn mount(text: &str) -> Result<WantedMount, String> {
    let (text, read_only) = access(text);
    let (host, at) = text.rsplit_once(':').ok_or("expected HOST:GUEST[:ro]")?;
    if !at.starts_with('/') {
        return Err(format!("the place in the guest, {at:?}, is not absolute"));
    }
    let (source, followed) = source(host, home().as_deref())?;
    Ok(WantedMount { directory: Wanted { source, read_only, followed }, at: at.to_owned() })
}

/// The workspace as the API takes it.
#[must_use]
pub fn directory(wanted: Wanted, quota_mb: Option<u64>) -> HostDirectory {
    HostDirectory { source: wanted.source, read_only: wanted.read_only, quota_mb }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_told_from_a_path() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("app")).unwrap();
        let whole = dir.path().canonicalize().unwrap();
        let of = |text: &str| source(text, Some(&whole)).map(|(source, _)| source);
        assert_eq!(of("app"), Ok("app".to_owned()));
        assert_eq!(of("~/app"), Ok(whole.join("app").display().to_string()));
        assert_eq!(of("~"), Ok(whole.display().to_string()));
        assert_eq!(
            of("."),
            Ok(std::env::current_dir().unwrap().canonicalize().unwrap().display().to_string())
        );
        std::os::unix::fs::symlink("app", dir.path().join("link")).unwrap();
        let (app, followed) = (whole.join("app").display().to_string(), vec![whole.display().to_string()]);
        assert_eq!(source("~/link", Some(&whole)), Ok((app, followed)));
        assert!(of("~other/app").is_err());
        assert!(of("./absent").unwrap_err().contains("absent"));
        assert!(of("No Name").unwrap_err().contains("a path contains"));
    }

    #[test]
    fn read_only_is_said_at_the_end() {
        let named = |read_only| Ok(Wanted { source: "w".into(), read_only, followed: Vec::new() });
        assert_eq!((wanted("w:ro"), wanted("w")), (named(true), named(false)));
        let one = mount("/:/host:ro").unwrap().request();
        assert_eq!((one.source.as_str(), one.at.as_str(), one.read_only), ("/", "/host", true));
        assert!(mount("/tmp").is_err());
        assert!(mount("/tmp:data").is_err());
    }
}
