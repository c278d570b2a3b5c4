//! Real servers for tests: images with them, made by `tests/images/build`.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use crate::Daemon;

/// What `tests/images/build` ends with where an image cannot be made.
const UNAVAILABLE: i32 = 75;

/// Makes the image of this name, if that has not been done before, and loads it: its reference. `None` where it cannot be made,
/// which is said past the test runner, as that hides what a test prints.
///
/// # Panics
/// If it should be possible, and fails.
#[must_use]
pub fn image(daemon: &Daemon, name: &str) -> Option<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("images/build");
    let made = Command::new(script).arg(name).output().expect("execute tests/images/build");
    let (out, err) = (String::from_utf8_lossy(&made.stdout), String::from_utf8_lossy(&made.stderr));
    if made.status.code() == Some(UNAVAILABLE) {
        let _mute = writeln!(std::io::stderr(), "SKIPPED: {}", err.trim_end());
        return None;
    }
    assert!(made.status.success(), "tests/images/build {name}: {out}{err}");
    let loaded = daemon.ok(&["image", "load", "--input", out.trim_end()]);
    let reference = loaded.trim_end().strip_prefix("Loaded: ");
    Some(reference.unwrap_or_else(|| panic!("no reference in {loaded:?}")).to_owned())
}
