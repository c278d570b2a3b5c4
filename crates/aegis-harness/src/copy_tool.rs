//! The harness as a tool in its own guest, executed as `/proc/1/exe`: the guest's end of `aegis cp`, whatever programs the
//! guest's image has.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use aegis_copy::{ABSENT, CopyError, Limits, NO_ROOM, Owner, Target, VOLATILE};
use aegis_guest_protocol::stopped_copy::{AtRest, VARIABLE};
use aegis_harness::process_user;

use crate::interruptible_stdin::Input;
use crate::stopped_copy::{self, StoppedCopyError};

/// Size of the buffers for heads of files and small files, bytes. What is larger passes them by.
const BUFFER: usize = 16 << 10;

fn say(text: &str) {
    // Nobody is left to tell if this fails.
    let _mute = writeln!(io::stderr(), "{text}");
}

/// Why nothing was done.
struct Refusal {
    exit_code: u8,
    why: String,
}

impl From<String> for Refusal {
    fn from(why: String) -> Refusal {
        Refusal { exit_code: 1, why }
    }
}

impl From<CopyError> for Refusal {
    fn from(error: CopyError) -> Refusal {
        Refusal { exit_code: if error.is_no_room() { NO_ROOM } else { 1 }, why: error.to_string() }
    }
}

impl From<StoppedCopyError> for Refusal {
    fn from(unfit: StoppedCopyError) -> Refusal {
        let exit_code = match &unfit {
            StoppedCopyError::Volatile(_) => VOLATILE,
            StoppedCopyError::Absent(_) => ABSENT,
        };
        Refusal { exit_code, why: unfit.to_string() }
    }
}

/// Does what the arguments say: `pack PATH`, `place TARGET USER`, or `unpack DESTINATION NAME USER` with an empty name for
/// none. Paths are of any bytes. The exit code of `pack` tells whether something was left out.
pub(crate) fn run(arguments: &[OsString]) -> ExitCode {
    let rest = std::env::var(VARIABLE).ok().and_then(|value| AtRest::of_value(&value));
    let rest = rest.as_ref();
    let words: Vec<&OsStr> = arguments.iter().map(OsString::as_os_str).collect();
    let of = |user: &OsStr| user.to_string_lossy().into_owned();
    let done = match words.as_slice() {
        [what, path] if *what == "pack" => pack(&stopped_copy::absolute(rest, path), rest),
        [what, destination, name, user] if *what == "unpack" => {
            unpack(&stopped_copy::absolute(rest, destination), name, &of(user), rest)
        }
        [what, target, user] if *what == "place" => place(Path::new(target), &of(user)),
        _ => {
            Err("aegis-harness runs as PID 1 of a guest, or as the guest's end of aegis cp".to_owned().into())
        }
    };
    done.unwrap_or_else(|Refusal { exit_code, why }| {
        say(&why);
        exit_code.into()
    })
}

fn pack(path: &Path, rest: Option<&AtRest>) -> Result<ExitCode, Refusal> {
    stopped_copy::check_read(rest, path)?;
    // The standard library's own looks for line ends in everything.
    let stdout = rustix::stdio::stdout().try_clone_to_owned().map_err(|error| error.to_string())?;
    let stdout = BufWriter::with_capacity(BUFFER, File::from(stdout));
    // A link that is named itself is followed here, where it is the guest's: the host takes none in its place.
    let path = fs::canonicalize(path).map_err(|error| format!("{}: {error}", path.display()))?;
    stopped_copy::check_read(rest, &path)?;
    let packed = aegis_copy::pack(&path, stdout)?;
    packed.left_out.lines().iter().for_each(|line| say(line));
    Ok(packed.left_out.exit_code().into())
}

fn unpack(destination: &Path, name: &OsStr, user: &str, rest: Option<&AtRest>) -> Result<ExitCode, Refusal> {
    stopped_copy::check_read(rest, destination)?;
    let name = Some(name).filter(|name| !name.is_empty());
    let target = Target::open(destination, name)?;
    stopped_copy::check_written(rest, &target)?;
    unpack_to(target, user)
}

/// Unpacks to exactly this place, below directories that are made if there are none.
fn place(target: &Path, user: &str) -> Result<ExitCode, Refusal> {
    let parent = target.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).map_err(|source| CopyError::File { path: parent.to_owned(), source })?;
    unpack_to(Target::exactly(target)?, user)
}

fn unpack_to(target: Target, user: &str) -> Result<ExitCode, Refusal> {
    let file = process_user::account_file;
    let user = process_user::resolve(user, &file("/etc/passwd"), &file("/etc/group"));
    let identity = user.map_err(|error| error.to_string())?.identity;
    let owner = Owner { uid: identity.uid, gid: identity.gid };
    let stdin = Input::take().map_err(|error| error.to_string())?;
    let stdin = BufReader::with_capacity(BUFFER, stdin);
    let limits = Limits { link: true, ..Limits::default() };
    Ok(aegis_copy::unpack(target, stdin, Some(owner), limits).map(|_| ExitCode::SUCCESS)?)
}
