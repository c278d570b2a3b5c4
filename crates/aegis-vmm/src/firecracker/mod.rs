//! Firecracker: a monitor for hardware virtualisation alone, with few devices.
//!
//! It differs from QEMU in what its guests see: they listen on virtio sockets where QEMU has serial ports, make their network
//! interface themselves, and are told on the kernel's command line what their disks are. Its process opens everything by the
//! numbers of descriptors that it inherits, so that a state that was saved fits any machine.

mod api;
mod configuration;
mod jail_profile;
mod machine;
mod saved_state;
mod sockets;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use async_trait::async_trait;
use configuration::{
    API_SOCKET, CONFIGURATION_FD, Configuration, DATA_FD, DEVICES_FD, FIRST_ROOT_FD, MEMORY_FD,
    SAVED_DEVICES_FD, SAVED_MEMORY_FD, SOCKETS_FD, path_of, socket_path,
};
use machine::FirecrackerMachine;
use sockets::Sockets;

use crate::monitor::Monitor;
use crate::process::{Process, Wall, find_program};
use crate::{
    Capabilities, Console, Machine, MachineHandle, MachineSpec, Origin, Probe, Vmm, VmmError, host_version,
    stderr_log, unnamed_file,
};

/// Name of this backend.
pub const NAME: &str = "firecracker";
/// The program.
const PROGRAM: &str = "firecracker";
/// The oldest version that was seen to work.
pub const OLDEST: (u32, u32) = (1, 12);

/// Names in the run-time directory.
const SOCKETS: &str = "firecracker";
const CONSOLE: &str = "console.pipe";

/// The Firecracker backend.
#[derive(Debug)]
pub struct Firecracker {
    /// Where its program is, if the user says so (`AEGIS_FIRECRACKER`).
    program: Option<PathBuf>,
    /// Why KVM is used.
    reason: String,
    /// What the host's processor is, see [`saved_state::compatibility_key`].
    processor: String,
}

impl Firecracker {
    /// A backend with this program, or with the one in `PATH`; `reason` says why KVM is thought to work.
    #[must_use]
    pub fn new(program: Option<PathBuf>, reason: String) -> Firecracker {
        Firecracker { program, reason, processor: host_version::processor() }
    }

    fn executable(&self) -> Result<PathBuf, VmmError> {
        let found = self.program.clone().or_else(|| find_program(PROGRAM));
        found.ok_or_else(|| VmmError::Missing { program: PROGRAM.to_owned() })
    }

    /// Starts the monitor with these descriptors beside those of every machine.
    fn spawn(
        &self,
        spec: &MachineSpec,
        arguments: &[String],
        more: Vec<(OwnedFd, i32)>,
    ) -> Result<FirecrackerMachine, VmmError> {
        let executable = self.executable()?;
        let directory = spec.run_dir.join(SOCKETS);
        let sockets = Sockets::make(&directory).map_err(VmmError::io("make a place for its sockets"))?;
        let (written, console) =
            pipe(&spec.run_dir.join(CONSOLE)).map_err(VmmError::io("make its console"))?;
        let log = stderr_log::file().map_err(VmmError::io("make Firecracker's log"))?;
        let errors = log.try_clone().map_err(VmmError::io("make Firecracker's log"))?;
        let jail = jail_profile::of(&executable, spec, &directory);
        let jail = jail.map_err(|error| VmmError::io("confine Firecracker")(error.into()))?;
        let mut command = Command::new(&executable);
        // An earlier daemon's machine is found by its disk, which is named nowhere else.
        command.arg0(own_name(&spec.data_disk));
        command.args(["--id", &spec.name, "--api-sock", &socket_path(API_SOCKET), "--level", "Error"]);
        command.args(arguments);
        command.env_clear().current_dir("/").stdin(Stdio::null()).stdout(written).stderr(errors);
        let mut fds = files(spec).map_err(VmmError::io("open the machine's files"))?;
        fds.push((sockets.descriptor().map_err(VmmError::io("pass its sockets' place"))?, SOCKETS_FD));
        fds.extend(more);
        let process = Process::spawn(command, fds, Wall::Jail(Box::new(jail)));
        let process = Arc::new(process.map_err(VmmError::io("start Firecracker"))?);
        let handle = MachineHandle {
            backend: NAME.to_owned(),
            process: process.id().clone(),
            run_dir: spec.run_dir.clone(),
            console_log: spec.console_log.clone(),
            modules: spec.modules.clone(),
        };
        let console = Console::record(console, spec.console_log.clone());
        let monitor = Monitor { process, console, log: Some(Arc::new(log)) };
        Ok(FirecrackerMachine::new(monitor, sockets, handle))
    }
}

/// The files of a machine that are opened by number: its disks, and where it writes its state.
fn files(spec: &MachineSpec) -> io::Result<Vec<(OwnedFd, i32)>> {
    let parts = spec.root_disk.iter().chain(&spec.modules);
    let mut all = Vec::new();
    for (path, number) in parts.zip(FIRST_ROOT_FD..) {
        all.push((File::open(path)?.into(), number));
    }
    all.push((File::options().read(true).write(true).open(&spec.data_disk)?.into(), DATA_FD));
    all.push((saved_state::empty_file()?, SAVED_MEMORY_FD));
    all.push((saved_state::empty_file()?, SAVED_DEVICES_FD));
    Ok(all)
}

/// A pipe with a name, which a later daemon finds again: an end for the machine to write to, which never waits and is never
/// closed to it, and one to read from.
fn pipe(path: &Path) -> io::Result<(File, tokio::net::unix::pipe::Receiver)> {
    use rustix::fs::{CWD, FileType, Mode, OFlags};
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let written = rustix::fs::open(path, flags, Mode::empty())?;
    Ok((written.into(), read_pipe(path)?))
}

fn read_pipe(path: &Path) -> io::Result<tokio::net::unix::pipe::Receiver> {
    tokio::net::unix::pipe::OpenOptions::new().open_receiver(path)
}

/// What a machine's process calls itself.
fn own_name(data_disk: &Path) -> String {
    format!("{PROGRAM} of {}", data_disk.display())
}

/// The name of the machine that a process with these arguments is, if its own disk is in `disks`.
fn machine_name(words: &[String], disks: &Path) -> Option<String> {
    let disk = words.first()?.strip_prefix(PROGRAM)?.strip_prefix(" of ")?;
    let id = words.windows(2).find(|pair| pair[0] == "--id").map(|pair| pair[1].clone())?;
    (Path::new(disk).parent() == Some(disks)).then_some(id)
}

/// The version that Firecracker tells: `Firecracker v1.12.1`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let version = text.lines().next()?.trim().rsplit_once('v')?.1;
    let mut numbers = version.split('.').map(str::parse::<u32>);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[async_trait]
impl Vmm for Firecracker {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            pause: true,
            save: true,
            network: true,
            swaps_disks: false,
            dials_paused: false,
            accelerator: crate::Accelerator::Kvm.name().to_owned(),
            accelerator_reason: self.reason.clone(),
        }
    }

    async fn probe(&self) -> Result<Probe, VmmError> {
        let executable = self.executable()?;
        let output = tokio::process::Command::new(&executable).arg("--version").output().await;
        let output = output.map_err(VmmError::io("run Firecracker"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text.lines().next().unwrap_or_default().to_owned();
        match parse_version(&text) {
            Some(found) if found >= OLDEST => Ok(Probe { version, executable }),
            _ => {
                let message = format!(
                    "{}: {version:?} is none of version {}.{} or later",
                    executable.display(),
                    OLDEST.0,
                    OLDEST.1
                );
                Err(VmmError::Refused { action: "use Firecracker", message })
            }
        }
    }

    async fn start(&self, spec: &MachineSpec) -> Result<Arc<dyn Machine>, VmmError> {
        let told = serde_json::to_vec(&Configuration::of(spec)).map_err(io::Error::from);
        let told = told.and_then(|told| unnamed_file::with(&told));
        let told = told.map_err(VmmError::io("tell Firecracker what to make"))?;
        let arguments = ["--config-file".to_owned(), path_of(CONFIGURATION_FD)];
        Ok(Arc::new(self.spawn(spec, &arguments, vec![(told, CONFIGURATION_FD)])?))
    }

    async fn restore(
        &self,
        spec: &MachineSpec,
        devices: &[u8],
        memory: Origin<'_>,
    ) -> Result<Arc<dyn Machine>, VmmError> {
        let (at_once, memory) = match memory {
            Origin::Common(memory) => (true, memory.as_fd()),
            Origin::Own(memory) => (false, memory.as_fd()),
        };
        let memory = memory.try_clone_to_owned().map_err(VmmError::io("pass the machine's memory"))?;
        let devices = unnamed_file::with(devices).map_err(VmmError::io("pass the machine's devices"))?;
        let machine = self.spawn(spec, &[], vec![(memory, MEMORY_FD), (devices, DEVICES_FD)])?;
        if at_once && let Err(error) = machine.load(true).await {
            machine.stop().await;
            return Err(error);
        }
        Ok(Arc::new(machine))
    }

    fn compatibility_key(&self, spec: &MachineSpec) -> Option<String> {
        saved_state::compatibility_key(&self.executable().ok()?, &self.processor, spec)
    }

    async fn recover(&self, handle: &MachineHandle) -> Result<Option<Arc<dyn Machine>>, VmmError> {
        let adopted = Process::adopt(&handle.process).map_err(VmmError::io("find the machine's process"))?;
        let Some(process) = adopted.map(Arc::new) else { return Ok(None) };
        let found = Sockets::open(&handle.run_dir.join(SOCKETS))
            .and_then(|sockets| Ok((sockets, read_pipe(&handle.run_dir.join(CONSOLE))?)));
        let (sockets, console) = match found {
            Ok(found) => found,
            Err(source) => {
                process.kill().await;
                return Err(VmmError::Io { action: "reach the machine again", source });
            }
        };
        let console = Console::record(console, handle.console_log.clone());
        let monitor = Monitor { process, console, log: None };
        Ok(Some(Arc::new(FirecrackerMachine::new(monitor, sockets, handle.clone()))))
    }

    async fn end_strays(&self, disks: &Path, known: &[i32]) -> Vec<String> {
        crate::process::end_strays(known, |words| machine_name(words, disks)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stray_is_known_by_its_disk_alone() {
        let words = |first: String| vec![first, "--id".to_owned(), "inst-x".to_owned()];
        let of = |disk: &str| machine_name(&words(own_name(Path::new(disk))), Path::new("/home/disks"));
        assert_eq!(of("/home/disks/inst-x.ext4").as_deref(), Some("inst-x"));
        assert_eq!(of("/other/disks/inst-x.ext4"), None);
        let foreign = machine_name(&words("/usr/bin/firecracker".to_owned()), Path::new("/home/disks"));
        assert_eq!(foreign, None, "somebody else's");
        assert_eq!(machine_name(&[], Path::new("/home/disks")), None);
    }

    #[test]
    fn a_version_is_read_as_it_is_told() {
        assert_eq!(parse_version("Firecracker v1.12.1\n\n2026 exiting\n"), Some((1, 12)));
        assert_eq!(parse_version("Firecracker v1.9.0-dirty"), Some((1, 9)));
        assert_eq!(parse_version("command not found"), None);
        assert!((1, 9) < OLDEST && (2, 0) > OLDEST);
    }

    #[tokio::test]
    async fn a_console_that_nobody_reads_stops_no_machine_and_one_that_is_read_later_is_heard() {
        use std::io::Write;
        use tokio::io::AsyncReadExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console");
        let (mut written, reading) = pipe(&path).unwrap();
        drop(reading);
        written.write_all(b"kept\n").unwrap();
        let full = (0..1000).find_map(|_| written.write(&[b'x'; 4096]).err()).unwrap();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        let mut heard = [0; 5];
        read_pipe(&path).unwrap().read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"kept\n");
    }
}
