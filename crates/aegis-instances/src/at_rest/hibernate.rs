//! Machines on disk: put there when they stand still, and made again from there when somebody wants them.
//!
//! The file is there only while the machine has not gone on since it was written: it is written before the machine ends,
//! and removed, for good, before one that was made from it goes on. So whoever finds a file and no machine may use it,
//! whatever died in between. It is a cache all the same: before it is written the guest has written its files to its
//! disk, and one that is missing, damaged, or of another version or disk costs what was in memory and nothing else.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aegis_guest_protocol::messages::Freeze;
use aegis_store::home::Home;
use aegis_store::saved::{self, SavedError};
use aegis_vmm::{Draft, Machine, Origin};
use serde::{Deserialize, Serialize};

use crate::actor::Message;
use crate::at_rest::{self, Version};
use crate::error::chain;
use crate::lifecycle::Boot;
use crate::machine::boot::{self, Order};
use crate::machine::live::{Live, resume};
use crate::manager::Context;
use crate::mounts;
use crate::reason::StopReason;
use crate::spec::InstanceSpec;

/// How long a guest may take to write its files to its disk.
const SYNC_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a machine is not put on disk that is being ended meanwhile.
const UNWANTED: &str = "it is being ended";

/// What is noted beside a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    boot: Boot,
    /// What a machine must have in common with it.
    likeness: String,
    /// The file with its modules.
    #[serde(default)]
    modules: Option<String>,
    /// The disk that belongs to its memory.
    disk: Version,
}

/// The file of an instance's machine.
fn file(home: &Home, id: &str) -> PathBuf {
    home.disk(id).with_extension("memory")
}

/// Whether the machine of this boot is on disk, as far as can be seen without reading all of it.
pub(crate) fn is_there(home: &Home, id: &str, boot: Boot) -> bool {
    at_rest::open::<Note>(&file(home, id)).is_ok_and(|(note, _)| note.boot == boot)
}

/// Removes what is on disk of a machine, if anything is. On return it stays removed, also if the host crashes.
pub(crate) fn forget(home: &Home, id: &str) -> io::Result<()> {
    let path = file(home, id);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => File::open(home.disks())?.sync_all(),
    }
}

/// Why the memory of such an instance's machine is never on disk.
pub(crate) fn refusal(context: &Context, of: &InstanceSpec) -> Option<&'static str> {
    if !context.vmm.capabilities().save {
        return Some("this host's machines cannot be put on disk");
    }
    let secrets = !of.secrets.is_empty();
    secrets.then_some("its memory holds secrets, and those are never on disk in clear")
}

/// Puts a machine that stands still on disk, and ends it. One for which that fails stands still as before.
pub(crate) async fn hibernate(
    context: &Arc<Context>,
    id: &str,
    of: &InstanceSpec,
    live: &Live,
) -> Result<(), String> {
    if let Some(reason) = refusal(context, of) {
        return Err(reason.to_owned());
    }
    if let Some(text) = context.disk.refusal() {
        return Err(text);
    }
    let machine = live.machine().ok_or("there is no machine")?;
    // Whoever ends it in good order waits.
    let _on_its_way = live.on_its_way().await;
    if live.is_cancelled() {
        return Err(UNWANTED.to_owned());
    }
    let written = write(context, id, of, live, &*machine).await;
    let written = if live.is_cancelled() { Err(UNWANTED.to_owned()) } else { written };
    if let Err(error) = written {
        let forgotten = forget(&context.home, id).map_err(|error| error.to_string());
        let paused = machine.pause().await.map_err(|error| chain(&error));
        return Err([Err(error), forgotten, paused]
            .into_iter()
            .filter_map(Result::err)
            .collect::<Vec<_>>()
            .join("; "));
    }
    // From here on its death is no news.
    live.abort_tasks();
    machine.stop().await;
    live.helpers_ended().await;
    live.release_disk();
    Ok(())
}

async fn write(
    context: &Arc<Context>,
    id: &str,
    of: &InstanceSpec,
    live: &Live,
    machine: &dyn Machine,
) -> Result<(), String> {
    let modules = boot::modules_of(machine);
    let spec = boot::standing_spec(context, id, of, modules.as_deref()).map_err(|reason| reason.message)?;
    let likeness = context.vmm.likeness(&spec).ok_or("this machine is like no other")?;
    // Its processes stand still already, and go on doing so; its kernel is to write what they wrote.
    machine.resume().await.map_err(|error| chain(&error))?;
    let session = live.session().ok_or("its guest cannot be spoken to")?;
    let synced = tokio::time::timeout(SYNC_TIMEOUT, session.link().call(&Freeze { sync: true })).await;
    synced.map_err(|_| "its guest did not write its files in time")?.map_err(|error| error.to_string())?;
    let memory = Draft::new(u64::from(spec.memory_mib) << 20).map_err(|error| error.to_string())?;
    let saved = machine.save(memory).await.map_err(|error| chain(&error))?;
    let (path, disk, boot) = (file(&context.home, id), spec.data_disk.clone(), live.boot);
    let writing = tokio::task::spawn_blocking(move || {
        // If the host crashes later, the memory is not to be newer than the disk.
        File::open(&disk)?.sync_all()?;
        at_rest::write(&path, &Note { boot, likeness, modules, disk: Version::of(&disk)? }, &saved, None)
    });
    let written = writing.await.map_err(|error| error.to_string())?;
    written.map(drop).map_err(|error| chain(&error))
}

/// Opens a machine's file, if it is of this boot and disk.
fn open(
    path: &Path,
    boot: Boot,
    disk: &Path,
) -> Result<(Note, saved::Saved<io::BufReader<File>>), SavedError> {
    let (note, file) = at_rest::open::<Note>(path)?;
    if note.boot != boot {
        return Err(SavedError::Damaged("it was written of another machine"));
    }
    if note.disk != Version::of(disk)? {
        return Err(SavedError::Damaged("its disk has been written since"));
    }
    Ok((note, file))
}

/// Makes a machine again from what is on disk, and lets it go on. If that fails nothing is left of it.
pub(crate) async fn wake(context: &Arc<Context>, order: &Order) -> Result<(), String> {
    let live = &order.live;
    let woken = tokio::select! {
        woken = make(context, order) => woken,
        () = live.hurried() => Err("it is not wanted any more".to_owned()),
    };
    let Err(error) = woken else { return Ok(()) };
    tracing::warn!(id = order.id, error, "a machine does not come back from disk; it boots");
    live.log(&format!("what was in memory is lost: {error}"));
    live.abort_tasks();
    if let Some(machine) = live.machine() {
        machine.stop().await;
        live.helpers_ended().await;
    }
    if let Err(error) = forget(&context.home, &order.id) {
        tracing::warn!(id = order.id, %error, "a machine's memory was not removed");
    }
    live.release_disk();
    Err(error)
}

async fn make(context: &Arc<Context>, order: &Order) -> Result<(), String> {
    let (live, id) = (&order.live, &order.id);
    boot::check(context, &order.spec).await.map_err(|reason| reason.message)?;
    let tables = mounts::tables(&order.spec.mounts, &context.home.run_dir_path(id));
    if tables.iter().any(|table| !table.exists()) {
        return Err("the tables of its open files are gone".to_owned());
    }
    live.hold_disk(order.disk.begin().await);
    let (path, disk, boot) = (file(&context.home, id), context.home.disk(id), live.boot);
    let opened = tokio::task::spawn_blocking(move || open(&path, boot, &disk));
    let opened = opened.await.map_err(|error| error.to_string())?.map_err(|error| chain(&error))?;
    let (note, opened) = opened;
    let spec = boot::standing_spec(context, id, &order.spec, note.modules.as_deref());
    let spec = spec.map_err(|reason| reason.message)?;
    if context.vmm.likeness(&spec).as_ref() != Some(&note.likeness) {
        return Err("it was written by another version".to_owned());
    }
    let devices = opened.head().devices.clone();
    let memory = Arc::new(Draft::new(opened.head().memory).map_err(|error| error.to_string())?);
    let into = Arc::clone(&memory);
    // The monitor starts meanwhile.
    let filling = tokio::task::spawn_blocking(move || opened.fill(|at, bytes| into.write(at, bytes)));
    let machine = context.vmm.restore(&spec, &devices, Origin::Own(&memory)).await;
    let machine = machine.map_err(|error| chain(&error))?;
    // From here on it is ended by whoever clears up.
    live.set_machine(Arc::clone(&machine));
    order.watch.lap("machine");
    filling.await.map_err(|error| error.to_string())?.map_err(|error| chain(&error))?;
    order.watch.lap("memory");
    machine.take_up().await.map_err(|error| chain(&error))?;
    // Stored before it goes on: a daemon that dies now finds the machine, standing still, and not what is on disk.
    live.tell_and_wait(|done| Message::MachineUp(live.boot, done)).await;
    let home = context.home.clone();
    let gone = {
        let id = id.clone();
        tokio::task::spawn_blocking(move || forget(&home, &id))
    };
    let addresses = order.spec.network.addresses();
    if !addresses.is_empty() {
        live.note_addresses(addresses);
    }
    boot::start_helpers(context, order, &machine).await.map_err(|reason| reason.message)?;
    gone.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    order.watch.lap("network");
    let resumed = tokio::select! {
        resumed = resume(live) => resumed,
        end = machine.ended() => Err(StopReason::died(&end).message),
    };
    order.watch.lap("guest");
    resumed
}
