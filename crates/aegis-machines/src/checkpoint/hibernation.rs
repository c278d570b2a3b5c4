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
use aegis_lifecycle::event::Boot;
use aegis_spec::instance::InstanceSpec;
use aegis_store::home::Home;
use aegis_store::machine_state::{self, MachineStateError};
use aegis_vmm::{Machine, MemoryBuilder, Origin};
use serde::{Deserialize, Serialize};

use crate::boot_order::BootOrder;
use crate::checkpoint::memory_file::{self, FileVersion};
use crate::error_chain::chain;
use crate::exports;
use crate::helpers::Helpers;
use crate::machine_factory::MachineFactory;
use crate::machine_layout::modules_of;
use crate::machine_run::{MachineRun, resume};
use crate::network::interface;
use crate::stop_reasons;

/// How long a guest may take to write its files to its disk.
const SYNC_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a machine is not put on disk that is being ended meanwhile.
const UNWANTED: &str = "it is being ended";

/// What is noted beside a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    boot: Boot,
    /// What a machine must have in common with it.
    #[serde(rename = "likeness")]
    compatibility_key: String,
    /// The file with its kernel's modules.
    #[serde(default)]
    modules: Option<String>,
    /// The disk that belongs to its memory.
    disk: FileVersion,
}

/// The file of an instance's machine.
fn file(home: &Home, id: &str) -> PathBuf {
    home.disk(id).with_extension("memory")
}

/// Whether the machine of this boot is on disk, as far as can be seen without reading all of it.
#[must_use]
pub fn is_there(home: &Home, id: &str, boot: Boot) -> bool {
    memory_file::open::<Note>(&file(home, id)).is_ok_and(|(note, _)| note.boot == boot)
}

/// Removes what is on disk of a machine, if anything is. On return it stays removed, also if the host crashes.
///
/// # Errors
/// The system's.
pub fn forget(home: &Home, id: &str) -> io::Result<()> {
    let path = file(home, id);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => File::open(home.disks())?.sync_all(),
    }
}

/// Puts machines on disk, and makes them again from there.
#[derive(Debug)]
pub struct Hibernation {
    /// Checks the host, and knows what machines are made from.
    pub factory: MachineFactory,
    /// Starts the helpers of machines that are woken.
    pub helpers: Helpers,
}

impl Hibernation {
    /// Why the memory of such an instance's machine is never on disk.
    #[must_use]
    pub fn refusal(&self, of: &InstanceSpec) -> Option<&'static str> {
        if !self.factory.layout.vmm.capabilities().save {
            return Some("this host's machines cannot be put on disk");
        }
        let secrets = !of.secrets.is_empty();
        secrets.then_some("its memory holds secrets, and those are never on disk in clear")
    }

    /// Puts a machine that stands still on disk, and ends it. One for which that fails stands still as before.
    ///
    /// # Errors
    /// Why it is not on disk.
    pub async fn hibernate(&self, id: &str, of: &InstanceSpec, run: &Arc<MachineRun>) -> Result<(), String> {
        if let Some(reason) = self.refusal(of) {
            return Err(reason.to_owned());
        }
        if let Some(text) = self.factory.disk_space.refusal() {
            return Err(text);
        }
        let machine = run.machine().ok_or("there is no machine")?;
        // Whoever ends it in good order waits.
        let _exclusive = run.exclusive().await;
        if run.is_cancelled() {
            return Err(UNWANTED.to_owned());
        }
        let written = self.write(id, of, run, &*machine).await;
        let written = if run.is_cancelled() { Err(UNWANTED.to_owned()) } else { written };
        if let Err(error) = written {
            let forgotten = forget(&self.factory.layout.home, id).map_err(|error| error.to_string());
            let paused = machine.pause().await.map_err(|error| chain(&error));
            return Err([Err(error), forgotten, paused]
                .into_iter()
                .filter_map(Result::err)
                .collect::<Vec<_>>()
                .join("; "));
        }
        // From here on its death is no news.
        run.abort_tasks();
        machine.stop().await;
        run.helpers_ended().await;
        run.release_disk();
        Ok(())
    }

    async fn write(
        &self,
        id: &str,
        of: &InstanceSpec,
        run: &Arc<MachineRun>,
        machine: &dyn Machine,
    ) -> Result<(), String> {
        let layout = &self.factory.layout;
        let modules = modules_of(machine);
        let spec = layout.saved_spec(id, of, modules.as_deref()).map_err(|reason| reason.message)?;
        let compatibility_key = layout.compatibility_key(&spec)?;
        // Its processes stand still already, and go on doing so; its kernel is to write what they wrote.
        machine.resume().await.map_err(|error| chain(&error))?;
        let session = run.last_session().await.ok_or("its guest cannot be spoken to")?;
        let synced = tokio::time::timeout(SYNC_TIMEOUT, session.link().call(&Freeze { sync: true })).await;
        synced
            .map_err(|_| "its guest did not write its files in time")?
            .map_err(|error| error.to_string())?;
        let memory =
            MemoryBuilder::new(u64::from(spec.memory_mib) << 20).map_err(|error| error.to_string())?;
        let saved = machine.save(memory).await.map_err(|error| chain(&error))?;
        let (path, disk, boot) = (file(&layout.home, id), spec.data_disk.clone(), run.boot);
        let writing = tokio::task::spawn_blocking(move || {
            // If the host crashes later, the memory is not to be newer than the disk.
            File::open(&disk)?.sync_all()?;
            let note = Note { boot, compatibility_key, modules, disk: FileVersion::of(&disk)? };
            memory_file::write(&path, &note, &saved, None)
        });
        let written = writing.await.map_err(|error| error.to_string())?;
        written.map(drop).map_err(|error| chain(&error))
    }

    /// Makes a machine again from what is on disk, and lets it go on. If that fails nothing is left of it.
    ///
    /// # Errors
    /// Why it is gone.
    pub async fn wake(&self, order: &BootOrder) -> Result<(), String> {
        let (run, home) = (&order.run, &self.factory.layout.home);
        let woken = tokio::select! {
            woken = self.restore(order) => woken,
            () = run.hurried() => Err("it is not wanted any more".to_owned()),
        };
        let Err(error) = woken else { return Ok(()) };
        tracing::warn!(id = order.id, error, "a machine does not come back from disk; it boots");
        run.reporter().log(&format!("what was in memory is lost: {error}"));
        run.abort_tasks();
        if let Some(machine) = run.machine() {
            machine.stop().await;
            run.helpers_ended().await;
        }
        if let Err(error) = forget(home, &order.id) {
            tracing::warn!(id = order.id, %error, "a machine's memory was not removed");
        }
        run.release_disk();
        Err(error)
    }

    async fn restore(&self, order: &BootOrder) -> Result<(), String> {
        let (run, id, layout) = (&order.run, &order.id, &self.factory.layout);
        self.factory.check_host(&order.spec).await.map_err(|reason| reason.message)?;
        let tables = exports::tables(&order.spec.mounts, &layout.home.run_dir_path(id));
        if tables.iter().any(|table| !table.exists()) {
            return Err("the tables of its open files are gone".to_owned());
        }
        run.hold_disk(order.disk.acquire().await);
        let (path, disk, boot) = (file(&layout.home, id), layout.home.disk(id), run.boot);
        let opened = tokio::task::spawn_blocking(move || open(&path, boot, &disk));
        let opened = opened.await.map_err(|error| error.to_string())?.map_err(|error| chain(&error))?;
        let (note, opened) = opened;
        let spec = layout.saved_spec(id, &order.spec, note.modules.as_deref());
        let spec = spec.map_err(|reason| reason.message)?;
        if layout.compatibility_key(&spec)? != note.compatibility_key {
            return Err("it was written by another version".to_owned());
        }
        let devices = opened.head().devices.clone();
        let memory = Arc::new(MemoryBuilder::new(opened.head().memory).map_err(|error| error.to_string())?);
        let into = Arc::clone(&memory);
        // The monitor starts meanwhile.
        let filling = tokio::task::spawn_blocking(move || opened.fill(|at, bytes| into.write(at, bytes)));
        let machine = layout.vmm.restore(&spec, &devices, Origin::Own(&memory)).await;
        let machine = machine.map_err(|error| chain(&error))?;
        // From here on it is ended by whoever clears up.
        run.set_machine(Arc::clone(&machine));
        order.watch.lap("machine");
        filling.await.map_err(|error| error.to_string())?.map_err(|error| chain(&error))?;
        order.watch.lap("memory");
        machine.take_up().await.map_err(|error| chain(&error))?;
        // Stored before it goes on: a daemon that dies now finds the machine, standing still, and not what is on disk.
        run.reporter().started().await;
        self.go_on(order, &machine).await
    }

    /// Starts the helpers of a machine that has come back, and lets its guest go on.
    async fn go_on(&self, order: &BootOrder, machine: &Arc<dyn Machine>) -> Result<(), String> {
        let (run, home, id) = (&order.run, self.factory.layout.home.clone(), order.id.clone());
        let gone = tokio::task::spawn_blocking(move || forget(&home, &id));
        let addresses = interface::group_addresses(&order.spec.network);
        if !addresses.is_empty() {
            run.note_addresses(addresses);
        }
        let helped = async {
            let helped = self.helpers.start(order, machine).await.map_err(|reason| reason.message);
            order.watch.lap("network");
            helped
        };
        let gone =
            async { gone.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string()) };
        let resumed = async {
            tokio::select! {
                resumed = resume(run) => resumed,
                end = machine.ended() => Err(stop_reasons::died(&end).message),
            }
        };
        if self.factory.layout.vmm.capabilities().dials_paused {
            helped.await?;
            gone.await?;
            resumed.await?;
        } else {
            gone.await?;
            tokio::try_join!(helped, resumed)?;
        }
        order.watch.lap("guest");
        Ok(())
    }
}

/// Opens a machine's file, if it is of this boot and disk.
fn open(
    path: &Path,
    boot: Boot,
    disk: &Path,
) -> Result<(Note, machine_state::MachineState<io::BufReader<File>>), MachineStateError> {
    let (note, file) = memory_file::open::<Note>(path)?;
    if note.boot != boot {
        return Err(MachineStateError::Damaged("it was written of another machine"));
    }
    if note.disk != FileVersion::of(disk)? {
        return Err(MachineStateError::Damaged("its disk has been written since"));
    }
    Ok((note, file))
}
