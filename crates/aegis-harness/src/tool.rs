//! The harness as a tool in its own guest, executed as `/proc/1/exe`: the guest's end of `aegis cp`, whatever programs the
//! guest's image has.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use aegis_copy::{CopyError, Limits, Owner, Target};
use aegis_harness::identity;

/// Size of the buffers for heads of files and small files, bytes. What is larger passes them by.
const BUFFER: usize = 16 << 10;

fn say(text: &str) {
    // Nobody is left to tell if this fails.
    let _mute = writeln!(io::stderr(), "{text}");
}

/// Does what the arguments say: `pack PATH`, `place TARGET USER`, or `unpack DESTINATION NAME USER` with an empty name for
/// none. Paths are of any bytes. The exit code of `pack` tells whether something was left out.
pub(crate) fn run(arguments: &[OsString]) -> ExitCode {
    let words: Vec<&OsStr> = arguments.iter().map(OsString::as_os_str).collect();
    let of = |user: &OsStr| user.to_string_lossy().into_owned();
    let done = match words.as_slice() {
        [what, path] if *what == "pack" => pack(Path::new(path)),
        [what, destination, name, user] if *what == "unpack" => {
            unpack(Path::new(destination), name, &of(user))
        }
        [what, target, user] if *what == "place" => place(Path::new(target), &of(user)),
        _ => Err("aegis-harness runs as PID 1 of a guest, or as the guest's end of aegis cp".to_owned()),
    };
    done.unwrap_or_else(|error| {
        say(&error);
        ExitCode::FAILURE
    })
}

fn pack(path: &Path) -> Result<ExitCode, String> {
    // The standard library's own looks for line ends in everything.
    let stdout = rustix::stdio::stdout().try_clone_to_owned().map_err(|error| error.to_string())?;
    let stdout = BufWriter::with_capacity(BUFFER, File::from(stdout));
    // A link that is named itself is followed here, where it is the guest's: the host takes none in its place.
    let path = fs::canonicalize(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let packed = aegis_copy::pack(&path, stdout).map_err(|error| error.to_string())?;
    packed.left_out.lines().iter().for_each(|line| say(line));
    Ok(packed.left_out.exit_code().into())
}

fn unpack(destination: &Path, name: &OsStr, user: &str) -> Result<ExitCode, String> {
    let name = Some(name).filter(|name| !name.is_empty());
    unpack_to(Target::open(destination, name), user)
}

/// Unpacks to exactly this place, below directories that are made if there are none.
fn place(target: &Path, user: &str) -> Result<ExitCode, String> {
    let parent = target.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).map_err(|error| format!("{}: {error}", parent.display()))?;
    unpack_to(Target::exactly(target), user)
}

fn unpack_to(target: Result<Target, CopyError>, user: &str) -> Result<ExitCode, String> {
    let target = target.map_err(|error| error.to_string())?;
    let file = identity::account_file;
    let user = identity::resolve(user, &file("/etc/passwd"), &file("/etc/group"));
    let identity = user.map_err(|error| error.to_string())?.identity;
    let owner = Owner { uid: identity.uid, gid: identity.gid };
    let stdin = rustix::stdio::stdin().try_clone_to_owned().map_err(|error| error.to_string())?;
    let stdin = BufReader::with_capacity(BUFFER, File::from(stdin));
    let done = aegis_copy::unpack(target, stdin, Some(owner), Limits { link: true, ..Limits::default() });
    done.map(|_| ExitCode::SUCCESS).map_err(|error: CopyError| error.to_string())
}
