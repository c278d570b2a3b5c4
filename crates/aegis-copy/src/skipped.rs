//! What is not copied of a tree, and why: told, within bounds.

use std::path::{Path, PathBuf};

use crate::CopyError;
use crate::wire::printable;

/// Most entries of each sort that are named; the rest is counted.
const MOST_NAMED: usize = 20;

/// Exit code for a copy without what cannot be read, as of `rsync`.
pub const PARTIAL: u8 = 23;
/// Exit code for a copy without what has vanished meanwhile, as of `rsync`.
pub const VANISHED: u8 = 24;

/// Exit code of the guest's end when what would be written is emptied at the next start of the instance.
pub const VOLATILE: u8 = 40;
/// Exit code of the guest's end when what is named is in a directory of the host that is not there.
pub const ABSENT: u8 = 41;
/// Exit code of the guest's end when there is no room for what would be written.
pub const NO_ROOM: u8 = 42;

/// Why an entry is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// It is no file: a socket, a pipe, a device; or a directory of what the kernel makes up, which was not asked for.
    NoFile,
    /// It went, or became something else, between being listed and being read.
    Vanished,
    /// It cannot be read.
    Unreadable,
}

impl Cause {
    /// Of what an entry failed with; nothing for what would fail with each other entry as well.
    pub(crate) fn of(error: &CopyError) -> Option<Cause> {
        use rustix::io::Errno;
        let source = match error {
            CopyError::Changed(_) => return Some(Cause::Vanished),
            CopyError::Endless(_) => return Some(Cause::Unreadable),
            CopyError::File { source, .. } => source,
            _ => return None,
        };
        match Errno::from_io_error(source) {
            Some(Errno::NOENT | Errno::STALE | Errno::NOTDIR | Errno::LOOP) => Some(Cause::Vanished),
            Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM) => None,
            _ => Some(Cause::Unreadable),
        }
    }
}

/// What was left out of a copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Sockets, pipes, devices, and file systems of what the kernel makes up.
    pub no_files: Omissions,
    /// What went while it was copied.
    pub vanished: Omissions,
    /// What cannot be read.
    pub unreadable: Omissions,
}

/// Entries that are left out for reasons of one sort.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Omissions {
    /// How many.
    pub count: u64,
    /// Some of them, with the reason.
    pub named: Vec<(PathBuf, String)>,
}

impl LeftOut {
    pub(crate) fn add(&mut self, cause: Cause, path: &Path, why: impl ToString) {
        let omissions = match cause {
            Cause::NoFile => &mut self.no_files,
            Cause::Vanished => &mut self.vanished,
            Cause::Unreadable => &mut self.unreadable,
        };
        omissions.count += 1;
        if omissions.named.len() < MOST_NAMED {
            omissions.named.push((path.to_owned(), why.to_string()));
        }
    }

    /// A line for each that is named, and one for the rest of each sort.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let sorts = [&self.no_files, &self.vanished, &self.unreadable];
        let lines = sorts.into_iter().flat_map(|Omissions { count, named }| {
            let rest = count.saturating_sub(named.len() as u64);
            // Names are the other side's, and each is told in one line.
            let named = named.iter().map(|(path, why)| {
                format!("left out: {}: {why}", printable(path.as_os_str().as_encoded_bytes()))
            });
            named.chain((rest > 0).then(|| format!("left out: {rest} more of these")))
        });
        lines.collect()
    }

    /// How a copy ends that is complete otherwise: 0, [`PARTIAL`] or [`VANISHED`].
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match (self.unreadable.count, self.vanished.count) {
            (0, 0) => 0,
            (0, _) => VANISHED,
            _ => PARTIAL,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_named_up_to_a_bound_and_the_exit_code_tells_the_worst() {
        let mut left = LeftOut::default();
        assert_eq!((left.exit_code(), left.lines().len()), (0, 0));
        left.add(Cause::NoFile, Path::new("s"), "a socket");
        assert_eq!(left.exit_code(), 0);
        for _ in 0..1000 {
            left.add(Cause::Vanished, Path::new("v"), "gone");
        }
        assert_eq!((left.exit_code(), left.lines().len()), (VANISHED, 1 + MOST_NAMED + 1));
        assert_eq!(left.lines().last().unwrap(), "left out: 980 more of these");
        left.add(Cause::Unreadable, Path::new("u"), "no");
        assert_eq!((left.exit_code(), left.lines().pop().unwrap()), (PARTIAL, "left out: u: no".to_owned()));
    }

    #[test]
    fn what_fails_with_everything_is_no_matter_of_one_entry() {
        use rustix::io::Errno;
        let of = |error: Errno| Cause::of(&CopyError::file(Path::new("f"))(error.into()));
        assert_eq!(of(Errno::NOENT), Some(Cause::Vanished));
        assert_eq!(of(Errno::ACCESS), Some(Cause::Unreadable));
        assert_eq!(of(Errno::IO), Some(Cause::Unreadable));
        assert_eq!(of(Errno::MFILE), None);
        assert_eq!(Cause::of(&CopyError::Stream("broken".into())), None);
    }

    #[test]
    fn a_name_with_line_ends_stays_in_its_line() {
        let mut left = LeftOut::default();
        left.add(Cause::Unreadable, Path::new("x\n[system] all is well\r\u{1b}[2K"), "no");
        let lines = left.lines();
        assert!(lines.iter().all(|line| !line.contains(char::is_control)), "{lines:?}");
        assert!(lines[0].starts_with("left out: x"), "{lines:?}");
    }
}
