//! What a kit does to a guest before the command is executed: files, a first workspace, checks, environment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aegis_guest_link::GuestStream;
use aegis_guest_protocol::argument::Argument;
use aegis_guest_protocol::messages::{ExitStatus, Process};
use aegis_paths::Dir;
use bytes::BytesMut;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio_util::io::SyncIoBridge;

use crate::environment::Values;
use crate::machine::boot::{self, Order};
use crate::machine::session::Session;
use crate::manager::Context;
use crate::mounts::WORKSPACE;
use crate::reason::StopReason;
use crate::usage::User;

/// How long a program of a kit may take.
const HOOK_TIMEOUT: Duration = Duration::from_secs(60);
/// Most that is taken of what it prints, bytes.
const MOST_PRINTED: usize = 64 << 10;
/// What is done when a kit's files are, in messages.
const PLACING: &str = "putting its files in place";
/// Size of the pieces in which files go to the guest, bytes.
const PIECE: usize = 256 << 10;

/// The kit of an instance, as it was when the instance was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KitUse {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Environment: stronger than the image's, weaker than secrets.
    pub env: BTreeMap<String, String>,
    /// Program that looks whether the instance can work as it is set up; empty for none.
    pub validate_config: Vec<String>,
    /// Program that prints more environment; empty for none.
    pub render_env: Vec<String>,
}

/// What a kit brings along, as it is on the host now.
#[derive(Debug)]
pub struct Contents {
    /// Its directory, opened before it was read what is in there. A guest may share it, and change it meanwhile.
    pub dir: Dir,
    /// Files and trees by their paths below the directory, and where they go in the guest.
    pub files: Vec<(PathBuf, String)>,
    /// Path below the directory of the one whose contents an empty workspace gets.
    pub workspace: Option<PathBuf>,
}

/// Whoever knows the kits of this host.
pub trait Kits: std::fmt::Debug + Send + Sync {
    /// What a kit brings along; `None` if it is not there any more.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence.
    fn contents(&self, name: &str) -> Result<Option<Contents>, String>;

    /// Environment out of what a kit's program printed.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence.
    fn rendered(&self, text: &str) -> Result<BTreeMap<String, String>, String>;
}

fn failed(text: impl std::fmt::Display) -> StopReason {
    StopReason::new("kit_failed", text.to_string())
}

/// Puts into a guest what the kit of its instance brings along, and lets the kit's programs have their say. Returns
/// environment for the command.
pub(crate) async fn equip(
    context: &Context,
    order: &Order,
    kit: &KitUse,
    session: &Session,
    values: &Values,
) -> Result<BTreeMap<String, String>, StopReason> {
    let prepared = session.link().call(&boot::preparation(&order.hostname, &order.spec)).await;
    prepared.map_err(|error| boot::refused(&error))?;
    let contents = context.kits.contents(&kit.name);
    match contents.map_err(|error| failed(format!("kit {:?} is broken: {error}", kit.name)))? {
        None => {
            order.live.log(&format!("kit {} is not installed any more; its files are as they were", kit.name))
        }
        Some(contents) => put_all(context, order, session, &contents).await?,
    }
    // Whatever the command has for a terminal is the command's.
    let process = Process { tty: None, stdin: false, ..order.spec.process(values) };
    let hook = |command: &[String]| Process {
        command: command.iter().map(|word| word.as_str().into()).collect(),
        ..process.clone()
    };
    if !kit.validate_config.is_empty() {
        run(context, session, hook(&kit.validate_config), "validate_config").await?;
    }
    if kit.render_env.is_empty() {
        return Ok(BTreeMap::new());
    }
    let printed = run(context, session, hook(&kit.render_env), "render_env").await?;
    context.kits.rendered(&printed).map_err(failed)
}

async fn put_all(
    context: &Context,
    order: &Order,
    session: &Session,
    contents: &Contents,
) -> Result<(), StopReason> {
    for (from, to) in &contents.files {
        match put(context, session, (&contents.dir, from), to, "root").await? {
            Put::Done => {}
            // A disk that was filled meanwhile has what was put at an earlier boot.
            Put::NoRoom(words) if order.live.boot > 1 => {
                order.live.log(&format!("files of the kit are as they were: {words}"));
            }
            Put::NoRoom(words) => return Err(failed(format!("{PLACING}: {words}"))),
        }
    }
    let Some(template) = &contents.workspace else { return Ok(()) };
    let shared = order.spec.mounts.iter().find(|mount| mount.at == WORKSPACE);
    let wanted = match shared {
        Some(mount) => !mount.read_only && is_empty(&mount.source.path(&context.home)),
        None => order.live.boot == 1,
    };
    if wanted {
        let template =
            contents.dir.dir_beneath(template).map_err(|error| failed(no_template(template, &error)))?;
        let put = put(context, session, (&template, Path::new("")), WORKSPACE, &order.spec.user).await?;
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
    context: &Context,
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
    let ended = execute(context, session, process, Some(ours), PLACING).await;
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
async fn run(
    context: &Context,
    session: &Session,
    process: Process,
    what: &str,
) -> Result<String, StopReason> {
    execute(context, session, process, None, what).await?.printed(what)
}

/// Runs a program in the guest to its end.
async fn execute(
    context: &Context,
    session: &Session,
    process: Process,
    input: Option<tokio::io::DuplexStream>,
    what: &str,
) -> Result<Ended, StopReason> {
    let stay = context.kit_usage.enter(User::Exec);
    let stay = stay.ok_or_else(|| failed("too many programs of kits at once"))?;
    let started = session.exec(process, stay).await.map_err(|error| boot::refused(&error))?;
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
