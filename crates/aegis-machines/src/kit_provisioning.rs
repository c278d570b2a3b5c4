//! What a kit does to a guest before the command is executed: files, a first workspace, checks, environment.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use aegis_guest_link::GuestStream;
use aegis_guest_protocol::argument::Argument;
use aegis_guest_protocol::messages::{ExitStatus, Process};
use aegis_lifecycle::stop_reason::StopReason;
use aegis_paths::Dir;
use aegis_spec::environment::Values;
use aegis_spec::kit::KitUse;
use aegis_spec::mount::WORKSPACE;
use aegis_store::home::Home;
use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio_util::io::SyncIoBridge;

use crate::boot_order::BootOrder;
use crate::guest_calls::{preparation, refused};
use crate::host_directory;
use crate::kits::{Contents, Kits};
use crate::session::Session;

/// How long a program of a kit may take.
const HOOK_TIMEOUT: Duration = Duration::from_secs(60);
/// Most that is taken of what it prints, bytes.
const MOST_PRINTED: usize = 64 << 10;
/// What is done when a kit's files are, in messages.
const PLACING: &str = "putting its files in place";
/// Size of the pieces in which files go to the guest, bytes.
const PIECE: usize = 256 << 10;

fn failed(text: impl std::fmt::Display) -> StopReason {
    StopReason::new("kit_failed", text.to_string())
}

/// Puts into a guest what the kit of its instance brings along, and lets the kit's programs have their say. Returns
/// environment for the command.
///
/// # Errors
/// If a part of the kit is missing or refuses.
pub async fn equip(
    kits: &dyn Kits,
    home: &Home,
    order: &BootOrder,
    kit: &KitUse,
    session: &Session,
    values: &Values,
) -> Result<BTreeMap<String, String>, StopReason> {
    let prepared = session.link().call(&preparation(&order.hostname, &order.spec)).await;
    prepared.map_err(|error| refused(&error))?;
    let contents = kits.contents(&kit.name);
    match contents.map_err(|error| failed(format!("kit {:?} is broken: {error}", kit.name)))? {
        None => order
            .run
            .reporter()
            .log(&format!("kit {} is not installed any more; its files are as they were", kit.name)),
        Some(contents) => put_all(home, order, session, &contents).await?,
    }
    // Whatever the command has for a terminal is the command's.
    let process = Process { tty: None, stdin: false, ..order.spec.process(values) };
    let hook = |command: &[String]| Process {
        command: command.iter().map(|word| word.as_str().into()).collect(),
        ..process.clone()
    };
    if !kit.validate_config.is_empty() {
        run(session, hook(&kit.validate_config), "validate_config").await?;
    }
    if kit.render_env.is_empty() {
        return Ok(BTreeMap::new());
    }
    let printed = run(session, hook(&kit.render_env), "render_env").await?;
    kits.rendered(&printed).map_err(failed)
}

async fn put_all(
    home: &Home,
    order: &BootOrder,
    session: &Session,
    contents: &Contents,
) -> Result<(), StopReason> {
    for (from, to) in &contents.files {
        match put(session, (&contents.dir, from), to, "root").await? {
            Put::Done => {}
            // A disk that was filled meanwhile has what was put at an earlier boot.
            Put::NoRoom(words) if order.run.boot > 1 => {
                order.run.reporter().log(&format!("files of the kit are as they were: {words}"));
            }
            Put::NoRoom(words) => return Err(failed(format!("{PLACING}: {words}"))),
        }
    }
    let Some(template) = &contents.workspace else { return Ok(()) };
    let shared = order.spec.mounts.iter().find(|mount| mount.at == WORKSPACE);
    let wanted = match shared {
        Some(mount) => !mount.read_only && is_empty(&host_directory::path_of(&mount.source, home)),
        None => order.run.boot == 1,
    };
    if wanted {
        let template =
            contents.dir.dir_beneath(template).map_err(|error| failed(no_template(template, &error)))?;
        let put = put(session, (&template, Path::new("")), WORKSPACE, &order.spec.user).await?;
        if let Put::NoRoom(words) = put {
            return Err(failed(format!("{PLACING}: {words}")));
        }
    }
    Ok(())
}

/// What became of a file or tree that was to be put into a guest.
enum Put {
    /// It is there.
    Done,
    /// The guest has no room for it, in its words; what was there is.
    NoRoom(String),
}

fn no_template(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}

/// Puts a file or tree, by its path below a directory, to a place in the guest.
async fn put(
    session: &Session,
    (dir, path): (&Dir, &Path),
    to: &str,
    owner: &str,
) -> Result<Put, StopReason> {
    let (ours, theirs) = tokio::io::duplex(PIECE);
    let dir = dir.try_clone().map_err(failed)?;
    let path = path.to_owned();
    let packing = tokio::task::spawn_blocking(move || {
        aegis_copy::pack_beneath(&dir, &path, std::io::BufWriter::new(SyncIoBridge::new(theirs)))
    });
    let process = Process {
        command: ["/proc/1/exe", "place", to, owner].map(Argument::from).into(),
        env: BTreeMap::new(),
        workdir: "/".to_owned(),
        user: "root".to_owned(),
        tty: None,
        stdin: true,
    };
    let ended = execute(session, process, Some(ours), PLACING).await;
    let packed = packing.await;
    let ended = ended?;
    if ended.status == ExitStatus::Code(aegis_copy::NO_ROOM) {
        return Ok(Put::NoRoom(ended.err.trim().to_owned()));
    }
    // Of both ends the guest's knows why it broke off.
    ended.printed(PLACING)?;
    match packed {
        Ok(Err(error)) => Err(failed(error)),
        // A kit is put in place as a whole.
        Ok(Ok(packed)) if packed.left_out.exit_code() != 0 => Err(failed(packed.left_out.lines().join("; "))),
        _ => Ok(Put::Done),
    }
}

/// How a program in the guest ended, and what it said.
struct Ended {
    status: ExitStatus,
    out: String,
    err: String,
}

impl Ended {
    /// What it printed. One that fails is told with its last words.
    fn printed(self, what: &str) -> Result<String, StopReason> {
        match (self.status, self.err.trim()) {
            (ExitStatus::Code(0), _) => Ok(self.out),
            (status, "") => Err(failed(format!("{what}: it ended with code {}", status.code()))),
            (_, words) => Err(failed(format!("{what}: {words}"))),
        }
    }
}

/// Runs a program of the kit in the guest to its end, and returns what it printed.
async fn run(session: &Session, process: Process, what: &str) -> Result<String, StopReason> {
    execute(session, process, None, what).await?.printed(what)
}

/// Runs a program in the guest to its end.
async fn execute(
    session: &Session,
    process: Process,
    input: Option<tokio::io::DuplexStream>,
    what: &str,
) -> Result<Ended, StopReason> {
    let started = session.exec(process).await.map_err(|error| refused(&error))?;
    let conversation = async {
        let feeding = async {
            match input {
                Some(from) => feed(from, &started.io).await,
                None => drop(started.io.finish().await),
            }
        };
        let ((), out, err) = tokio::join!(feeding, printed(&started.io), printed(&started.err));
        (out, err)
    };
    let (out, err) = tokio::time::timeout(HOOK_TIMEOUT, conversation)
        .await
        .map_err(|_| failed(format!("{what}: not done within {} seconds", HOOK_TIMEOUT.as_secs())))?;
    let status = started.exited.await;
    let status = status.map_err(|_| failed(format!("{what}: the connection to the guest broke")))?;
    Ok(Ended { status, out, err })
}

async fn feed(mut from: tokio::io::DuplexStream, to: &GuestStream) {
    let mut piece = BytesMut::with_capacity(PIECE);
    while let Ok(1..) = from.read_buf(&mut piece).await {
        // A program that has ended wants no more, and says why.
        if to.write(piece.split().freeze()).await.is_err() {
            return;
        }
        piece.reserve(PIECE);
    }
    // One that has ended needs no end of its input.
    let _ended = to.finish().await;
}

/// What a stream says, up to a limit, without what a terminal would take as commands.
async fn printed(from: &GuestStream) -> String {
    let mut all = Vec::new();
    while let Ok(Some(bytes)) = from.read().await {
        let room = MOST_PRINTED.saturating_sub(all.len());
        all.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
        // The next read tells of a session that is over.
        let _over = from.consumed(bytes.len()).await;
    }
    let printable = |c: char| if c.is_control() && c != '\n' && c != '\t' { ' ' } else { c };
    String::from_utf8_lossy(&all).chars().map(printable).collect()
}
