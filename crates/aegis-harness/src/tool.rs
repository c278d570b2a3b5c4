//! The harness as a tool in its own guest, executed as `/proc/1/exe`: the guest's end of `aegis cp`, whatever programs the
//! guest's image has.

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use aegis_copy::{CopyError, Limits, Owner};
use aegis_harness::identity;

/// Size of the pieces that are written, bytes: what a pipe to the harness holds.
const PIECE: usize = 256 << 10;

fn say(text: &str) {
    // Nobody is left to tell if this fails.
    let _mute = writeln!(io::stderr(), "{text}");
}

/// Does what the arguments say: `pack PATH`, or `unpack DESTINATION NAME USER` with an empty name for none.
pub(crate) fn run(arguments: &[OsString]) -> ExitCode {
    let words: Vec<Option<&str>> = arguments.iter().map(|word| word.to_str()).collect();
    let done = match words.as_slice() {
        [Some("pack"), Some(path)] => pack(path),
        [Some("unpack"), Some(destination), Some(name), Some(user)] => unpack(destination, name, user),
        _ => Err("aegis-harness runs as PID 1 of a guest, or as the guest's end of aegis cp".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&error);
            ExitCode::FAILURE
        }
    }
}

fn pack(path: &str) -> Result<(), String> {
    let stdout = BufWriter::with_capacity(PIECE, io::stdout().lock());
    let packed = aegis_copy::pack(Path::new(path), stdout).map_err(|error| error.to_string())?;
    packed.skipped.iter().for_each(|path| say(&format!("left out: {}", path.display())));
    Ok(())
}

fn unpack(destination: &str, name: &str, user: &str) -> Result<(), String> {
    let file = |path| fs::read_to_string(path).unwrap_or_default();
    let user = identity::resolve(user, &file("/etc/passwd"), &file("/etc/group"));
    let identity = user.map_err(|error| error.to_string())?.identity;
    let owner = Owner { uid: identity.uid, gid: identity.gid };
    let path = Path::new(destination);
    if destination.ends_with('/') && !path.is_dir() {
        return Err(format!("{destination}: no such directory"));
    }
    let target = aegis_copy::target(path, Some(name).filter(|name| !name.is_empty()));
    let done = aegis_copy::unpack(&target, io::stdin().lock(), Some(owner), Limits::default());
    done.map(drop).map_err(|error: CopyError| error.to_string())
}
