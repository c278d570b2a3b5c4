//! QEMU: the backend that runs with and without hardware virtualisation.

mod accelerator_choice;
mod arguments;
mod device_state;
mod jail_profile;
mod memory_reader;
pub(crate) mod qmp;
mod vmdk;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use crate::accelerator::Accelerator;
use crate::host_version;
use crate::memory::MemoryBuilder;
use crate::monitor::Monitor;
use crate::process::{Process, Wall, find_program, version_line};
use crate::{
    Architecture, Capabilities, Console, End, Endpoint, Machine, MachineHandle, MachineSpec, Origin, Probe,
    Saved, Vmm, VmmError,
};
use crate::{stderr_log, unnamed_file};
pub use accelerator_choice::AcceleratorChoice;
use arguments::{
    Acceleration, BULK_FD, CARD_FD, CONSOLE_FD, CONTROL_FD, DEVICES_FD, FILES_FD, MEMORY_FD, QMP_FD,
    StartMode,
};

/// Name of this backend.
pub const NAME: &str = "qemu";

/// The QEMU backend.
#[derive(Debug)]
pub struct Qemu {
    guest: Architecture,
    choice: AcceleratorChoice,
    ticks: Option<u32>,
    /// What the host's processor is, see [`device_state::compatibility_key`].
    processor: String,
}

impl Qemu {
    /// A backend for guests of this architecture, with the best accelerator that this host has for them; `wanted` is
    /// the user's word (`AEGIS_ACCEL`). `kvm` says whether the host's works, see [`crate::kvm_trial`].
    #[must_use]
    pub fn new(wanted: Option<&str>, guest: Architecture, kvm: &Result<(), String>) -> Qemu {
        let choice = accelerator_choice::choose(wanted, &accelerator_choice::Host::this(), guest, kvm);
        let reads_it = guest == Architecture::X86_64 && choice.accelerator == Accelerator::Tcg;
        let ticks = reads_it.then(aegis_sys::tsc::per_millisecond).flatten();
        Qemu { guest, choice, ticks, processor: host_version::processor() }
    }

    fn executable(&self) -> Result<PathBuf, VmmError> {
        let program = self.guest.program();
        find_program(program).ok_or_else(|| VmmError::Missing { program: program.to_owned() })
    }
}

fn socket_name(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::Control => "control.sock",
        Endpoint::Bulk => "bulk.sock",
        Endpoint::Files => "files.sock",
        Endpoint::Network => "card.sock",
    }
}

const QMP_SOCKET: &str = "qmp.sock";
const CONSOLE_SOCKET: &str = "console.sock";

#[async_trait]
impl Vmm for Qemu {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            pause: true,
            save: self.guest == Architecture::X86_64,
            network: true,
            swaps_disks: true,
            dials_paused: true,
            accelerator: self.choice.accelerator.name().to_owned(),
            accelerator_reason: self.choice.reason.clone(),
        }
    }

    async fn probe(&self) -> Result<Probe, VmmError> {
        let executable = self.executable()?;
        Ok(Probe { version: version_line(&executable).await?, executable })
    }

    async fn start(&self, spec: &MachineSpec) -> Result<Arc<dyn Machine>, VmmError> {
        let memory = MemoryBuilder::new(u64::from(spec.memory_mib) << 20)
            .and_then(|memory| memory.as_fd().try_clone_to_owned());
        let memory = memory.map_err(VmmError::io("make the machine's memory"))?;
        let machine: Arc<dyn Machine> = self.spawn(spec, StartMode::Boot, vec![(memory, MEMORY_FD)]).await?;
        Ok(machine)
    }

    async fn restore(
        &self,
        spec: &MachineSpec,
        devices: &[u8],
        memory: Origin<'_>,
    ) -> Result<Arc<dyn Machine>, VmmError> {
        let (beginning, memory) = match memory {
            Origin::Common(memory) => (StartMode::Clone, memory.as_fd()),
            Origin::Own(memory) => (StartMode::Wake, memory.as_fd()),
        };
        let memory = memory.try_clone_to_owned().map_err(VmmError::io("pass the machine's memory"))?;
        let devices = unnamed_file::with(devices).map_err(VmmError::io("pass the machine's devices"))?;
        let fds = vec![(memory, MEMORY_FD), (devices, DEVICES_FD)];
        let machine = self.spawn(spec, beginning, fds).await?;
        if beginning == StartMode::Clone
            && let Err(error) = machine.take_up().await
        {
            machine.monitor.process.kill().await;
            return Err(error);
        }
        Ok(machine)
    }

    fn compatibility_key(&self, spec: &MachineSpec) -> Option<String> {
        let executable = self.executable().ok().filter(|_| self.capabilities().save)?;
        device_state::compatibility_key(
            &executable,
            &self.processor,
            spec,
            self.guest,
            self.choice.accelerator,
        )
    }

    async fn end_strays(&self, disks: &Path, known: &[i32]) -> Vec<String> {
        crate::process::end_strays(known, |words| arguments::machine_name(words, disks)).await
    }

    async fn recover(&self, handle: &MachineHandle) -> Result<Option<Arc<dyn Machine>>, VmmError> {
        match Process::adopt(&handle.process).map_err(VmmError::io("find the machine's process"))? {
            None => Ok(None),
            Some(process) => {
                let machine = QemuMachine::attach(Arc::new(process), None, handle.clone()).await?;
                Ok(Some(machine))
            }
        }
    }
}

impl Qemu {
    /// Starts the monitor, with these descriptors beside its sockets.
    async fn spawn(
        &self,
        spec: &MachineSpec,
        beginning: StartMode,
        fds: Vec<(OwnedFd, i32)>,
    ) -> Result<Arc<QemuMachine>, VmmError> {
        let executable = self.executable()?;
        let log = stderr_log::file().map_err(VmmError::io("make QEMU's log"))?;
        let [output, errors] =
            [log.try_clone(), log.try_clone()].map(|log| log.map_err(VmmError::io("make QEMU's log")));
        let parts = arguments::root_parts(spec);
        if parts.len() > 1 {
            vmdk::write(&arguments::joined_root(spec), &parts).map_err(VmmError::io("join the root disk"))?;
        }
        let jail = jail_profile::of(&executable, spec, self.choice.accelerator);
        let jail = jail.map_err(|error| VmmError::io("confine QEMU")(error.into()))?;
        let mut command = Command::new(executable);
        let with = Acceleration { accelerator: self.choice.accelerator, ticks: self.ticks };
        command.args(arguments::arguments(spec, self.guest, with, beginning));
        command.env_clear().current_dir("/").stdin(Stdio::null()).stdout(output?).stderr(errors?);
        let files = spec.files.then_some((socket_name(Endpoint::Files), FILES_FD));
        let card = spec.card.map(|_| (socket_name(Endpoint::Network), CARD_FD));
        let sockets = [
            (socket_name(Endpoint::Control), CONTROL_FD),
            (socket_name(Endpoint::Bulk), BULK_FD),
            (QMP_SOCKET, QMP_FD),
            (CONSOLE_SOCKET, CONSOLE_FD),
        ];
        // Bound here, so that they can be connected to before QEMU has got round to it.
        let bound: io::Result<Vec<(OwnedFd, i32)>> = sockets
            .into_iter()
            .chain(files)
            .chain(card)
            .map(|(name, fd)| Ok((crate::listen(&spec.run_dir.join(name))?.into(), fd)))
            .collect();
        let mut bound = bound.map_err(VmmError::io("bind the machine's sockets"))?;
        bound.extend(fds);
        let process =
            Process::spawn(command, bound, Wall::Jail(Box::new(jail))).map_err(VmmError::io("start QEMU"))?;
        let handle = MachineHandle {
            backend: NAME.to_owned(),
            process: process.id().clone(),
            run_dir: spec.run_dir.clone(),
            console_log: spec.console_log.clone(),
            modules: spec.modules.clone(),
        };
        QemuMachine::attach(Arc::new(process), Some(Arc::new(log)), handle).await
    }
}

#[derive(Debug)]
struct QemuMachine {
    monitor: Monitor,
    handle: MachineHandle,
}

impl QemuMachine {
    async fn attach(
        process: Arc<Process>,
        log: Option<Arc<File>>,
        handle: MachineHandle,
    ) -> Result<Arc<QemuMachine>, VmmError> {
        let console = match UnixStream::connect(handle.run_dir.join(CONSOLE_SOCKET)).await {
            Ok(stream) => Console::record(stream, handle.console_log.clone()),
            Err(source) => {
                process.kill().await;
                return Err(VmmError::Io { action: "connect to the machine's console", source });
            }
        };
        Ok(Arc::new(QemuMachine { monitor: Monitor::new(process, console, log), handle }))
    }

    async fn command(&self, action: &'static str, name: &str) -> Result<Value, VmmError> {
        self.commands(action, &[qmp::Command::new(name, json!({}))]).await
    }

    async fn commands(&self, action: &'static str, all: &[qmp::Command<'_>]) -> Result<Value, VmmError> {
        qmp::execute(&self.handle.run_dir.join(QMP_SOCKET), action, all).await
    }

    fn proceed(&self) -> Result<(), VmmError> {
        self.monitor.proceed().map_err(VmmError::io("continue QEMU"))
    }

    /// Moves the sockets into another directory. Whoever is connected stays so.
    fn move_to(&self, dir: &Path) -> io::Result<()> {
        let endpoints =
            [Endpoint::Control, Endpoint::Bulk, Endpoint::Files, Endpoint::Network].map(socket_name);
        for name in endpoints.into_iter().chain([QMP_SOCKET, CONSOLE_SOCKET]) {
            match std::fs::rename(self.handle.run_dir.join(name), dir.join(name)) {
                // Not every machine has every endpoint.
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Machine for QemuMachine {
    fn handle(&self) -> MachineHandle {
        self.handle.clone()
    }

    async fn dial(&self, endpoint: Endpoint) -> Result<UnixStream, VmmError> {
        let stream = UnixStream::connect(self.handle.run_dir.join(socket_name(endpoint))).await;
        stream.map_err(VmmError::io("connect to the machine"))
    }

    async fn take_up(&self) -> Result<(), VmmError> {
        let from = json!({ "uri": format!("fd:{DEVICES_FD}") });
        let command = qmp::Command::new("migrate-incoming", from);
        self.commands("restore the machine", &[command]).await.map(drop)
    }

    async fn assign(&self, spec: &MachineSpec) -> Result<Arc<dyn Machine>, VmmError> {
        self.proceed()?;
        let disk = std::fs::File::options().read(true).write(true).open(&spec.data_disk);
        let disk = disk.map_err(VmmError::io("open the machine's disk"))?;
        self.commands("replace the machine's disk", &arguments::other_data(disk.as_fd())).await?;
        self.move_to(&spec.run_dir).map_err(VmmError::io("move the machine's sockets"))?;
        let handle = MachineHandle {
            run_dir: spec.run_dir.clone(),
            console_log: spec.console_log.clone(),
            ..self.handle.clone()
        };
        let machine: Arc<dyn Machine> =
            QemuMachine::attach(Arc::clone(&self.monitor.process), self.monitor.log.clone(), handle).await?;
        Ok(machine)
    }

    async fn pause(&self) -> Result<(), VmmError> {
        self.command("pause the machine", "stop").await?;
        self.monitor.suspend().map_err(VmmError::io("stop QEMU"))
    }

    async fn resume(&self) -> Result<(), VmmError> {
        self.proceed()?;
        self.command("resume the machine", "cont").await.map(drop)
    }

    async fn reserve(&self, memory_mib: u32) -> Result<MemoryBuilder, VmmError> {
        let (pid, bytes) = (self.monitor.process.id().pid, u64::from(memory_mib) << 20);
        let reserved = tokio::task::spawn_blocking(move || memory_reader::reserve(pid, bytes)).await;
        let reserved = reserved.map_err(io::Error::other).and_then(std::convert::identity);
        reserved.map_err(VmmError::io("find room for the machine's memory"))
    }

    async fn save(&self, memory: MemoryBuilder) -> Result<Saved, VmmError> {
        if !self.monitor.process.id().is_current() {
            // What it says of its devices would be taken for the words of the version that is there now.
            let message = "QEMU has been replaced since the machine was started".to_owned();
            return Err(VmmError::Refused { action: "save the machine", message });
        }
        self.proceed()?;
        self.command("stop the machine", "stop").await?;
        let (devices, into) =
            device_state::empty_file().map_err(VmmError::io("make room for the machine's devices"))?;
        self.commands("save the machine's devices", &arguments::save_devices(into.as_fd())).await?;
        let pid = self.monitor.process.id().pid;
        let saved = tokio::task::spawn_blocking(move || {
            Ok(Saved { devices: device_state::read(devices)?, memory: memory_reader::copy(pid, memory)? })
        });
        let saved = saved.await.map_err(io::Error::other).and_then(std::convert::identity);
        saved.map_err(VmmError::io("read the machine's memory"))
    }

    async fn is_paused(&self) -> Result<bool, VmmError> {
        if self.monitor.is_suspended() {
            return Ok(true);
        }
        let status = self.command("ask for the machine's state", "query-status").await?;
        Ok(status.get("running").and_then(Value::as_bool) == Some(false))
    }

    async fn stop(&self) {
        self.monitor.process.kill().await;
    }

    async fn ended(&self) -> End {
        self.monitor.ended().await
    }
}
