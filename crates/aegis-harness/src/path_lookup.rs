//! Finding a command as a shell does.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use aegis_guest_protocol::messages::code;
use aegis_guest_protocol::rpc::RpcError;

/// `PATH` of a process that brings none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The file that `command` names: itself if it contains a slash, else the first executable of that name in `path`.
///
/// # Errors
/// [`code::NOT_FOUND`], or [`code::NOT_EXECUTABLE`] if only files without execute permission have the name.
pub fn find(command: &OsStr, path: &str, workdir: &Path) -> Result<PathBuf, RpcError> {
    let candidates: Vec<PathBuf> = if command.as_bytes().contains(&b'/') {
        vec![workdir.join(command)]
    } else if command.is_empty() {
        vec![]
    } else {
        path.split(':').map(|dir| workdir.join(dir).join(command)).collect()
    };
    let mut unfit = None;
    for candidate in candidates {
        let Ok(metadata) = std::fs::metadata(&candidate) else { continue };
        if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 {
            return Ok(candidate);
        }
        unfit.get_or_insert(if metadata.is_dir() { "is a directory" } else { "permission denied" });
    }
    Err(match unfit {
        Some(why) => RpcError::new(code::NOT_EXECUTABLE, format!("{}: {why}", command.display())),
        None => RpcError::new(code::NOT_FOUND, format!("{}: command not found", command.display())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_the_process_decides_and_failures_tell_apart() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("bin")).unwrap();
        let tool = dir.path().join("bin/tool");
        std::fs::write(&tool, "").unwrap();
        std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o644)).unwrap();
        let find = |command: &str| find(OsStr::new(command), "nowhere:bin", dir.path());
        assert_eq!(find("tool").unwrap_err().code, code::NOT_EXECUTABLE);
        assert_eq!(find("./bin").unwrap_err().code, code::NOT_EXECUTABLE);
        assert_eq!(find("other").unwrap_err().code, code::NOT_FOUND);
        assert_eq!(find("").unwrap_err().code, code::NOT_FOUND);
        std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find("tool").unwrap(), tool);
        assert_eq!(find("./bin/tool").unwrap(), dir.path().join("./bin/tool"));
    }
}
