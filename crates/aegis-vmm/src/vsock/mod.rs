//! What backends have in common whose guests listen on virtio sockets: a monitor that makes its sockets in a directory of its
//! own, opens its files by the numbers of descriptors that it inherits, and has a pipe for its guest's console.

mod console_pipe;
pub(crate) mod directory;
pub(crate) mod guest;
pub(crate) mod jail_profile;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use aegis_jail::{Jail, JailError};
use directory::SocketDirectory;

use crate::monitor::Monitor;
use crate::process::{Process, Wall};
use crate::{Console, MachineHandle, MachineSpec, VmmError, stderr_log};

/// Numbers of descriptors in the monitor. It opens them by path ([`path_of`]), so that what it is told names no file of its
/// machine's own.
pub(crate) const DATA_FD: i32 = 20;
pub(crate) const SOCKETS_FD: i32 = 21;
pub(crate) const CONFIGURATION_FD: i32 = 22;
pub(crate) const FIRST_ROOT_FD: i32 = 30;

/// Name of the console's pipe in the run-time directory.
const CONSOLE: &str = "console.pipe";

/// Where a descriptor is opened.
pub(crate) fn path_of(fd: i32) -> String {
    format!("/proc/self/fd/{fd}")
}

/// Where the monitor makes a socket of this name.
pub(crate) fn socket_path(name: &str) -> String {
    format!("{}/{name}", path_of(SOCKETS_FD))
}

/// The numbers of a machine's disks, in the order in which its kernel finds them, and whether they are only read.
pub(crate) fn disks(spec: &MachineSpec) -> impl Iterator<Item = (i32, bool)> {
    let parts = spec.root_disk.iter().chain(&spec.modules);
    (FIRST_ROOT_FD..).zip(parts).map(|(number, _)| (number, true)).chain([(DATA_FD, false)])
}

/// The disks themselves.
fn open_disks(spec: &MachineSpec) -> io::Result<Vec<(OwnedFd, i32)>> {
    let paths = spec.root_disk.iter().chain(&spec.modules).chain([&spec.data_disk]);
    let open = |(path, (number, read_only)): (_, (i32, bool))| {
        Ok((File::options().read(true).write(!read_only).open::<&PathBuf>(path)?.into(), number))
    };
    paths.zip(disks(spec)).map(open).collect()
}

/// A kind of monitor.
#[derive(Debug)]
pub(crate) struct Program {
    /// Name of the backend, and of the directory of a machine's sockets.
    pub(crate) backend: &'static str,
    /// What its processes call themselves.
    pub(crate) name: &'static str,
    /// How many disks a machine can have, for want of interrupts for more.
    pub(crate) most_disks: usize,
    /// What it is confined to, given its sockets' directory.
    pub(crate) jail: fn(&Path, &MachineSpec, &Path) -> Result<Jail, JailError>,
}

/// A monitor's process, where its sockets are, and what finds it again.
pub(crate) type Started = (Monitor, SocketDirectory, MachineHandle);

impl Program {
    /// Starts the monitor with these descriptors beside those of every machine.
    pub(crate) fn spawn(
        &self,
        executable: &Path,
        spec: &MachineSpec,
        arguments: &[String],
        more: Vec<(OwnedFd, i32)>,
    ) -> Result<Started, VmmError> {
        let (parts, disks) = (spec.root_disk.len(), disks(spec).count());
        if disks > self.most_disks {
            let message = format!(
                "its root disk has {parts} parts, one for each layer of its image, and {} takes {} at most: the backend \
                 qemu takes any number",
                self.backend,
                self.most_disks.saturating_sub(disks - parts)
            );
            return Err(VmmError::Refused { action: "start the machine", message });
        }
        let directory = spec.run_dir.join(self.backend);
        let sockets =
            SocketDirectory::make(&directory).map_err(VmmError::io("make a place for its sockets"))?;
        let (written, console) =
            console_pipe::make(&spec.run_dir.join(CONSOLE)).map_err(VmmError::io("make its console"))?;
        let log = stderr_log::file().map_err(VmmError::io("make the monitor's log"))?;
        let errors = log.try_clone().map_err(VmmError::io("make the monitor's log"))?;
        let jail = (self.jail)(executable, spec, &directory);
        let jail = jail.map_err(|error| VmmError::io("confine the monitor")(error.into()))?;
        let mut command = Command::new(executable);
        // An earlier daemon's machine is found by its disk, which is named nowhere else.
        command.arg0(own_name(self.name, &spec.data_disk));
        command.args(arguments);
        command.env_clear().current_dir("/").stdin(Stdio::null()).stdout(written).stderr(errors);
        let mut fds = open_disks(spec).map_err(VmmError::io("open the machine's disks"))?;
        fds.push((sockets.descriptor().map_err(VmmError::io("pass its sockets' place"))?, SOCKETS_FD));
        fds.extend(more);
        let process = Process::spawn(command, fds, Wall::Jail(Box::new(jail)));
        let process = Arc::new(process.map_err(VmmError::io("start the monitor"))?);
        let handle = MachineHandle {
            backend: self.backend.to_owned(),
            process: process.id().clone(),
            run_dir: spec.run_dir.clone(),
            console_log: spec.console_log.clone(),
            modules: spec.modules.clone(),
        };
        let console = Console::record(console, spec.console_log.clone());
        Ok((Monitor::new(process, console, Some(Arc::new(log))), sockets, handle))
    }

    /// Finds a monitor that an earlier daemon started; `None` if it is gone.
    pub(crate) async fn recover(
        &self,
        handle: &MachineHandle,
    ) -> Result<Option<(Monitor, SocketDirectory)>, VmmError> {
        let adopted = Process::adopt(&handle.process).map_err(VmmError::io("find the machine's process"))?;
        let Some(process) = adopted.map(Arc::new) else { return Ok(None) };
        let found = SocketDirectory::open(&handle.run_dir.join(self.backend))
            .and_then(|sockets| Ok((sockets, console_pipe::open(&handle.run_dir.join(CONSOLE))?)));
        match found {
            Ok((sockets, console)) => {
                let console = Console::record(console, handle.console_log.clone());
                Ok(Some((Monitor::new(process, console, None), sockets)))
            }
            Err(source) => {
                process.kill().await;
                Err(VmmError::Io { action: "reach the machine again", source })
            }
        }
    }

    /// See [`crate::Vmm::end_strays`].
    pub(crate) async fn end_strays(&self, disks: &Path, known: &[i32]) -> Vec<String> {
        crate::process::end_strays(known, |words| machine_name(self.name, words, disks)).await
    }
}

/// What a machine's process calls itself.
fn own_name(program: &str, data_disk: &Path) -> String {
    format!("{program} of {}", data_disk.display())
}

/// The name of the machine that a process with these arguments is, if its own disk is in `disks`: it is called as its disk is.
fn machine_name(program: &str, words: &[String], disks: &Path) -> Option<String> {
    let disk = Path::new(words.first()?.strip_prefix(program)?.strip_prefix(" of ")?);
    let name = disk.file_stem()?.to_str()?.to_owned();
    (disk.parent() == Some(disks)).then_some(name)
}

#[cfg(test)]
pub(crate) mod testing {
    use std::path::Path;

    use crate::{MachineSpec, NetworkInterface};

    /// A machine whose files are in this directory.
    pub(crate) fn spec(dir: &Path) -> MachineSpec {
        MachineSpec {
            name: "inst-x".into(),
            run_dir: dir.join("run"),
            console_log: dir.join("console"),
            kernel: dir.join("kernel"),
            initramfs: dir.join("initramfs"),
            root_disk: vec![dir.join("root-a"), dir.join("root-b")],
            modules: Some(dir.join("modules")),
            data_disk: dir.join("data"),
            memory_mib: 64,
            vcpus: 2,
            files: true,
            card: Some(NetworkInterface { mac: [2, 0, 0, 0, 0, 10], mtu: 1500 }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stray_is_known_by_its_disk_alone() {
        let of = |first: String| machine_name("monitor", &[first], Path::new("/home/disks"));
        let named = |disk: &str| own_name("monitor", Path::new(disk));
        assert_eq!(of(named("/home/disks/inst-x.ext4")).as_deref(), Some("inst-x"));
        assert_eq!(of(named("/other/disks/inst-x.ext4")), None);
        assert_eq!(of("/usr/bin/monitor".to_owned()), None, "somebody else's");
        assert_eq!(of(own_name("another", Path::new("/home/disks/inst-x.ext4"))), None);
        assert_eq!(machine_name("monitor", &[], Path::new("/home/disks")), None);
    }

    #[test]
    fn disks_are_in_the_order_in_which_the_guest_is_told_of_them() {
        let numbers: Vec<(i32, bool)> = disks(&testing::spec("/".as_ref())).collect();
        assert_eq!(numbers, [(30, true), (31, true), (32, true), (DATA_FD, false)]);
    }
}
