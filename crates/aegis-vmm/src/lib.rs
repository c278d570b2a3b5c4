//! Virtual machine monitors behind one trait.
//!
//! A backend makes [`Machine`]s out of a [`MachineSpec`]. The rest of Aegis asks for what it needs through the
//! traits and reads [`Capabilities`] instead of asking which backend it has. Names of processor architectures,
//! machine types and accelerators occur here and nowhere above.
//!
//! A machine's process outlives the daemon that started it: it leads its own session, inherits nothing but the
//! listening sockets of its endpoints, and is found again by [`Vmm::recover`] through its process id *and* start
//! time *and* executable.
//!
//! The guest dials nothing at this level: streams that it opens travel inside the bulk endpoint, which works on
//! every backend. So the trait has `dial` and no `listen`.

mod accelerator;
mod architecture;
pub mod backends;
mod console;
pub mod fake;
pub mod firecracker;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod host_version;
pub mod kvm_trial;
pub mod libkrun;
mod listen;
mod memory;
mod monitor;
mod process;
pub mod qemu;
mod resources;
mod stderr_log;
mod unnamed_file;
mod vsock;

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::net::UnixStream;

pub use accelerator::Accelerator;
pub use architecture::{Architecture, UnknownArchitecture};
pub use console::{Console, tail as console_tail};
pub use listen::listen;
pub use memory::{Memory, MemoryBuilder, PAGE};
pub use process::{Process, ProcessId, Wall};
pub use resources::Resources;

/// A byte pipe into the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// Requests and events.
    Control,
    /// Streams.
    Bulk,
    /// Files of the host; only of a machine that was made with it.
    Files,
    /// Frames of its network card, each preceded by its length as a big-endian `u32`; only of a machine that was made
    /// with one. The other end may go and come again.
    Network,
}

/// What a backend can do on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Whether machines can be paused and resumed.
    pub pause: bool,
    /// Whether machines can be saved, and others started from them.
    pub save: bool,
    /// Whether machines can have a network card of their own.
    #[serde(default)]
    pub network: bool,
    /// Whether a machine's disks can become others while it lives: by [`Machine::assign`], and when it is restored. Else one that
    /// is restored needs the disks that it was saved with, or its own as long as that one.
    #[serde(default)]
    pub swaps_disks: bool,
    /// Whether a machine that stands still can be dialled; else that waits until it goes on.
    #[serde(default)]
    pub dials_paused: bool,
    /// What executes guest code, e.g. `kvm`; the word is for people.
    pub accelerator: String,
    /// Why this accelerator and no other.
    pub accelerator_reason: String,
}

/// The result of looking for what a backend needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Version of the monitor, as it tells it.
    pub version: String,
    /// Its executable.
    pub executable: PathBuf,
}

/// A machine to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineSpec {
    /// Name of the machine, for process lists.
    pub name: String,
    /// An existing directory, the machine's own, for its sockets. Its path must leave room for a socket's name.
    pub run_dir: PathBuf,
    /// Bounded copy of what the guest prints on its console.
    pub console_log: PathBuf,
    /// Kernel.
    pub kernel: PathBuf,
    /// Initial file system with the harness.
    pub initramfs: PathBuf,
    /// Read-only root disk, shared with other machines: files that follow each other on it, each of whole sectors.
    pub root_disk: Vec<PathBuf>,
    /// The kernel's modules, which follow the root on that disk; `None` where the initial file system has them itself.
    pub modules: Option<PathBuf>,
    /// Writable disk, the machine's own.
    pub data_disk: PathBuf,
    /// Memory, MiB.
    pub memory_mib: u32,
    /// Virtual processors.
    pub vcpus: u32,
    /// Whether it has [`Endpoint::Files`].
    pub files: bool,
    /// Its network card, behind [`Endpoint::Network`].
    pub card: Option<NetworkInterface>,
}

/// A network card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkInterface {
    /// Its address on the wire.
    pub mac: [u8; 6],
    /// Longest packet, bytes.
    pub mtu: u16,
}

impl NetworkInterface {
    /// Its address as one writes it: `02:00:00:00:00:01`.
    pub(crate) fn address(&self) -> String {
        self.mac.map(|byte| format!("{byte:02x}")).join(":")
    }
}

/// What the kernel of every guest is told. A panic ends the machine at once; no program mounts control groups of the first version
/// over those of the second, as Debian's script that starts Docker does.
pub(crate) const KERNEL_ARGUMENTS: &str = "quiet panic=-1 oops=panic cgroup_no_v1=all";

/// A machine at rest: all that another one needs to go on where it stood, but its disks.
#[derive(Debug)]
pub struct Saved {
    /// Its processors and devices, in the backend's own words.
    pub devices: Vec<u8>,
    /// Its memory.
    pub memory: Memory,
}

/// What a machine that is restored has for its memory.
#[derive(Debug, Clone, Copy)]
pub enum Origin<'a> {
    /// Memory that others use, too, which it has for itself where it writes to it. It goes on at once.
    Common(&'a Memory),
    /// Memory that is its own from now on, and may be filled until [`Machine::take_up`]. It is paused, until
    /// [`Machine::resume`].
    Own(&'a MemoryBuilder),
}

/// What finds a machine again after a restart of the daemon. Stored as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineHandle {
    /// Name of the backend that made it.
    pub backend: String,
    /// Its process.
    pub process: ProcessId,
    /// Directory of its sockets.
    pub run_dir: PathBuf,
    /// Where its console goes.
    pub console_log: PathBuf,
    /// The modules that it was started with, on its root disk.
    #[serde(default)]
    pub modules: Option<PathBuf>,
}

/// Why a machine is no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Its kernel panicked; the line that says so.
    Panic(String),
    /// The monitor exited with this code, and these last words, printable.
    Exited(i32, String),
    /// The monitor was killed by this signal.
    Killed(i32),
    /// The monitor is gone; nobody was there to see how.
    Gone,
}

/// A backend's failure.
#[derive(Debug, Error)]
pub enum VmmError {
    /// The monitor is not installed.
    #[error("{program} was not found in PATH")]
    Missing {
        /// Name of the program.
        program: String,
    },
    /// The monitor could not be started, reached or spoken to.
    #[error("{action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The monitor refused.
    #[error("{action}: the monitor says: {message}")]
    Refused {
        /// What was asked of it.
        action: &'static str,
        /// Its words.
        message: String,
    },
}

impl VmmError {
    pub(crate) fn io(action: &'static str) -> impl Fn(std::io::Error) -> VmmError {
        move |source| VmmError::Io { action, source }
    }
}

/// A kind of virtual machine monitor on this host.
#[async_trait]
pub trait Vmm: Debug + Send + Sync {
    /// Its name, as `aegis status` shows it.
    fn name(&self) -> &'static str;

    /// What it can do here.
    fn capabilities(&self) -> Capabilities;

    /// Looks whether the monitor is there.
    ///
    /// # Errors
    /// [`VmmError::Missing`], or [`VmmError::Io`] if it does not run.
    async fn probe(&self) -> Result<Probe, VmmError>;

    /// Makes a machine and starts it. Its endpoints can be dialled at once.
    ///
    /// # Errors
    /// If the monitor cannot be started; nothing is left behind but the run directory.
    async fn start(&self, spec: &MachineSpec) -> Result<Arc<dyn Machine>, VmmError>;

    /// Makes a machine that stands where one stood that was saved. Its spec may differ in names, paths and disks; a guest
    /// that had looked at its disks sees others behind them.
    ///
    /// # Errors
    /// As of [`Vmm::start`]; [`VmmError::Refused`] if it cannot do that. A machine that does not understand what was
    /// saved ends.
    async fn restore(
        &self,
        _spec: &MachineSpec,
        _devices: &[u8],
        _memory: Origin<'_>,
    ) -> Result<Arc<dyn Machine>, VmmError> {
        let message = "no machine can be restored here".to_owned();
        Err(VmmError::Refused { action: "restore the machine", message })
    }

    /// What all machines have in common that can be restored from each other's state: the same text, or it cannot be
    /// done. `None` if none can.
    fn compatibility_key(&self, _spec: &MachineSpec) -> Option<String> {
        None
    }

    /// Finds a machine that an earlier daemon started; `None` if it is gone.
    ///
    /// # Errors
    /// If it lives and cannot be taken over.
    async fn recover(&self, handle: &MachineHandle) -> Result<Option<Arc<dyn Machine>>, VmmError>;

    /// Ends machines whose disk is in `disks` and whose process is none of `known`: an earlier daemon died between
    /// starting them and storing that it had. Returns their names.
    async fn end_strays(&self, disks: &Path, known: &[i32]) -> Vec<String>;
}

/// A machine whose process runs, or has just ended.
#[async_trait]
pub trait Machine: Debug + Send + Sync {
    /// What finds it again.
    fn handle(&self) -> MachineHandle;

    /// What it takes of the host; `None` if its process has ended.
    fn resources(&self) -> Option<Resources> {
        Resources::of(&self.handle().process)
    }

    /// Opens a byte pipe into the guest. One at a time per endpoint: the next waits until the former is closed. Where
    /// [`Capabilities::dials_paused`] is not the case it waits for the guest.
    ///
    /// # Errors
    /// If the machine is gone.
    async fn dial(&self, endpoint: Endpoint) -> Result<UnixStream, VmmError>;

    /// Takes up the state of its devices, if it was restored from memory of its own, which is filled.
    ///
    /// # Errors
    /// If the monitor refuses or is gone.
    async fn take_up(&self) -> Result<(), VmmError> {
        Ok(())
    }

    /// Gives a machine that is paused the names, paths and data disk of this spec, which must be one of a machine like it
    /// (see [`Vmm::compatibility_key`]) with the same root disk; its guest must have let go of the data disk that it had. What is
    /// returned takes the place of this, and stays paused until [`Machine::resume`]; on an error the machine is of no use
    /// to anybody.
    ///
    /// # Errors
    /// If the monitor refuses or is gone.
    async fn assign(&self, _spec: &MachineSpec) -> Result<Arc<dyn Machine>, VmmError> {
        let message = "a machine keeps its disks here".to_owned();
        Err(VmmError::Refused { action: "assign the machine", message })
    }

    /// Stops the guest's processors, and the monitor itself.
    ///
    /// # Errors
    /// If the monitor refuses or is gone.
    async fn pause(&self) -> Result<(), VmmError>;

    /// Undoes [`Machine::pause`].
    ///
    /// # Errors
    /// If the monitor refuses or is gone.
    async fn resume(&self) -> Result<(), VmmError>;

    /// Room for the memory that a machine of this size has, taken while it goes on, so that [`Machine::save`] is short.
    ///
    /// # Errors
    /// If there is none.
    async fn reserve(&self, memory_mib: u32) -> Result<MemoryBuilder, VmmError> {
        let bytes = u64::from(memory_mib) << 20;
        MemoryBuilder::new(bytes).map_err(VmmError::io("find room for the machine's memory"))
    }

    /// Stops the guest's processors, if they run, and takes what there is of the machine, its memory into this draft of
    /// the same size. Its disks are written, and it stays stopped until [`Machine::resume`]. Then pipes into the guest may be
    /// closed, and are to be opened anew.
    ///
    /// # Errors
    /// If the monitor refuses or is gone, or its memory cannot be read.
    async fn save(&self, _memory: MemoryBuilder) -> Result<Saved, VmmError> {
        let message = "this machine cannot be saved".to_owned();
        Err(VmmError::Refused { action: "save the machine", message })
    }

    /// Whether the machine is paused.
    ///
    /// # Errors
    /// If the monitor cannot be asked.
    async fn is_paused(&self) -> Result<bool, VmmError>;

    /// Ends the machine at once, as by pulling its plug, and returns when its process is gone.
    async fn stop(&self);

    /// Waits until the machine is no more.
    async fn ended(&self) -> End;
}
