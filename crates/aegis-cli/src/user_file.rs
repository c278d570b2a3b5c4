//! Files that the user names, read whole: a pipe that nobody writes to would be waited for, and a device never ends.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

use crate::failure::Failure;

/// Reads text of at most so many bytes; `what` is what an error calls it.
///
/// # Errors
/// If it cannot be read, is no UTF-8, or is longer.
pub(crate) fn bounded(from: impl Read, most: u64, what: &str) -> Result<String, Failure> {
    let mut text = String::new();
    let read = from.take(most + 1).read_to_string(&mut text);
    read.map_err(|error| Failure::new(format!("cannot read {what}: {error}")))?;
    if text.len() as u64 > most {
        return Err(Failure::new(format!("{what} has more than {most} bytes")));
    }
    Ok(text)
}

/// Reads a file of at most so many bytes. What is none is refused, unless the shell has opened it for us: standard input,
/// and what it makes of `<(COMMAND)`.
///
/// # Errors
/// If it is none, cannot be read, is no UTF-8, or is longer.
pub(crate) fn text(path: &Path, most: u64) -> Result<String, Failure> {
    let shown = path.display().to_string();
    let failed = |error: io::Error| Failure::new(format!("cannot read {shown}: {error}"));
    if is_descriptor(path) {
        return bounded(File::open(path).map_err(failed)?, most, &shown);
    }
    // What is no file must not be waited for, not even to be looked at.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = File::options().read(true).custom_flags(flags).open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(Failure::new(format!("{shown} is no regular file")));
    }
    bounded(file, most, &shown)
}

fn is_descriptor(path: &Path) -> bool {
    path == Path::new("/dev/stdin") || path.starts_with("/dev/fd") || path.starts_with("/proc/self/fd")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_of_bounded_length_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), "text").unwrap();
        assert_eq!(text(&at("file"), 4).unwrap(), "text");
        let refused = |path: &Path, most| text(path, most).unwrap_err().message;
        assert!(refused(&at("file"), 3).contains("more than 3 bytes"));
        assert!(refused(&at("absent"), 9).contains("cannot read"));
        assert!(refused(dir.path(), 9).contains("no regular file"));
        assert!(refused(Path::new("/dev/zero"), 9).contains("no regular file"));
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), 0o600.into()).unwrap();
        assert!(refused(&at("pipe"), 9).contains("no regular file"));
        std::fs::write(at("bytes"), [0xff]).unwrap();
        assert!(refused(&at("bytes"), 9).contains("cannot read"));
    }

    #[test]
    fn what_the_shell_has_opened_is_read_whatever_it_is() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        io::Write::write_all(&mut writer, b"rules").unwrap();
        drop(writer);
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        assert_eq!(text(Path::new(&path), 9).unwrap(), "rules");
    }
}
