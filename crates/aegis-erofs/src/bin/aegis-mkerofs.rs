//! `aegis-mkerofs OUT.erofs [IN.tar]`: writes a tar archive as an EROFS image.

use std::ffi::OsString;
use std::fs::{File, Permissions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use aegis_erofs::{
    FORMAT_VERSION, FileTree, ImageOptions, IngestError, Limits, Spool, Whiteouts, WriteError,
};

const USAGE: &str = "usage: aegis-mkerofs OUT.erofs [IN.tar]\n\
    Writes the tar archive IN.tar, or standard input, as the EROFS image OUT.erofs.\n";

const INPUT_BUFFER: usize = 1 << 20;

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot open {0}: {1}")]
    Open(PathBuf, io::Error),
    #[error("cannot write {0}: {1}")]
    Output(PathBuf, io::Error),
    #[error("cannot read the archive to its end: {0}")]
    Drain(io::Error),
    #[error(transparent)]
    Ingest(#[from] IngestError),
    #[error(transparent)]
    Write(#[from] WriteError),
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let result = match arguments.as_slice() {
        [option] if option == "--version" => {
            Ok(format!("aegis-mkerofs {} format {FORMAT_VERSION}\n", env!("CARGO_PKG_VERSION")))
        }
        [option] if option == "--help" || option == "-h" => Ok(USAGE.to_owned()),
        [out] if !is_option(out) => build(Path::new(out), None),
        [out, archive] if !is_option(out) && !is_option(archive) => {
            build(Path::new(out), Some(Path::new(archive)))
        }
        _ => return finish(io::stderr(), USAGE, ExitCode::from(2)),
    };
    match result {
        Ok(text) => finish(io::stdout(), &text, ExitCode::SUCCESS),
        Err(e) => finish(io::stderr(), &format!("aegis-mkerofs: {e}\n"), ExitCode::FAILURE),
    }
}

fn is_option(argument: &OsString) -> bool {
    argument.as_encoded_bytes().starts_with(b"-")
}

/// Prints the last words. A reader that is gone changes nothing: the exit code tells.
fn finish(mut stream: impl Write, text: &str, code: ExitCode) -> ExitCode {
    stream.write_all(text.as_bytes()).map_or(code, |()| code)
}

fn build(out: &Path, archive: Option<&Path>) -> Result<String, Error> {
    match archive {
        None => convert(out, io::stdin().lock()),
        Some(path) => convert(out, File::open(path).map_err(|e| Error::Open(path.to_owned(), e))?),
    }
}

/// The image appears under its name only when it is complete and on disk.
fn convert(out: &Path, archive: impl Read) -> Result<String, Error> {
    let failed = |e: io::Error| Error::Output(out.to_owned(), e);
    let dir = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let temporary = tempfile::Builder::new()
        .prefix(".aegis-mkerofs.")
        // The umask applies.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(dir)
        .map_err(failed)?;

    let mut tree = FileTree::new(Limits::default(), Spool::in_dir(dir).map_err(failed)?);
    let mut archive = BufReader::with_capacity(INPUT_BUFFER, archive);
    let report = aegis_erofs::ingest(&mut tree, &mut archive, Whiteouts::Keep)?;
    // A writer on the other end of a pipe still sends padding; it must not die of a closed pipe.
    io::copy(&mut archive, &mut io::sink()).map_err(Error::Drain)?;

    let summary = aegis_erofs::write_image(&tree, temporary.as_file(), &ImageOptions::default())?;
    temporary.as_file().sync_all().map_err(failed)?;
    temporary.persist(out).map_err(|e| failed(e.error))?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
    let skipped = match report.skipped_xattrs {
        0 => String::new(),
        n => format!(", {n} extended attributes left out"),
    };
    Ok(format!("{}: {} entries, {} bytes{skipped}\n", out.display(), report.entries, summary.bytes))
}
