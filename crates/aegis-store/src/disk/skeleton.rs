//! The directories that the guest's harness would make on each new disk before it can start anything, made once for all of them: in a guest
//! each of these costs a part of a millisecond, and more under emulation.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

/// Part of e2fsprogs, beside `mkfs.ext4`.
const COMMAND: &str = "debugfs";

/// Directories, as the harness has them: both of overlayfs, and those of `record.rs`, `stores.rs` and `reserve.rs`.
const DIRECTORIES: [&str; 8] = [
    "root",
    "work",
    "written",
    "stores",
    "stores/docker",
    "stores/containers",
    "stores/containerd",
    "reserve",
];
/// For root alone, and to pass through.
const PRIVATE: [&str; 3] = ["stores/docker", "stores/containers", "stores/containerd"];
/// The files of the reserve, of which the first has room for some blocks.
const RESERVE: u32 = 8;
const RESERVE_BLOCKS: u32 = 16;
const BLOCK: u32 = 4096;

/// What is said to `debugfs(8)`.
fn script() -> String {
    let mut text = String::new();
    let mut say = |line: std::fmt::Arguments<'_>| {
        // Into a string.
        let _written = writeln!(text, "{line}");
    };
    DIRECTORIES.iter().for_each(|path| say(format_args!("mkdir {path}")));
    PRIVATE.iter().for_each(|path| say(format_args!("set_inode_field {path} mode 040711")));
    (0..RESERVE).for_each(|number| say(format_args!("write /dev/null reserve/{number}")));
    say(format_args!("fallocate reserve/0 0 {}", RESERVE_BLOCKS - 1));
    say(format_args!("set_inode_field reserve/0 size {}", RESERVE_BLOCKS * BLOCK));
    text
}

/// Puts it on a new disk; `mkfs` is what made that. After an error the disk has to be made again; without it the guest makes
/// all of this itself.
pub(super) fn put(mkfs: &Path, disk: &Path) -> io::Result<()> {
    let mut command = Command::new(mkfs.with_file_name(COMMAND));
    command.args(["-w", "-f", "-"]).arg(disk).env("LC_ALL", "C");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let told = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(script().as_bytes()));
    let status = child.wait()?;
    told?;
    if status.success() { Ok(()) } else { Err(io::Error::other(status.to_string())) }
}
