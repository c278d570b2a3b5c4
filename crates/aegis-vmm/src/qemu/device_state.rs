//! What QEMU says of a machine's devices, and what a machine must have in common with another to understand that.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{MemfdFlags, memfd_create};

use super::arguments::{self, Acceleration, StartMode};
use crate::accelerator::Accelerator;
use crate::host_version::version;
use crate::{Architecture, MachineSpec};

/// Most that is taken for devices, bytes. They take some 26 KB.
const MOST: u64 = 16 << 20;

/// What stands first in QEMU's file of devices (`QEMU_VM_FILE_MAGIC`).
const MAGIC: &[u8] = b"QEVM";

/// A file without a name, and once more open for nothing but writing: that is what QEMU asks of a file to write to.
pub(super) fn empty_file() -> io::Result<(File, OwnedFd)> {
    let file: File = memfd_create("aegis-devices", MemfdFlags::CLOEXEC)?.into();
    let writing = File::options().write(true).open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    Ok((file, writing.into()))
}

/// The devices that QEMU has written into a file.
pub(super) fn read(mut file: File) -> io::Result<Vec<u8>> {
    let mut devices = Vec::new();
    file.rewind()?;
    file.take(MOST + 1).read_to_end(&mut devices)?;
    let whole = devices.starts_with(MAGIC) && devices.len() as u64 <= MOST;
    if whole { Ok(devices) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// See [`crate::Vmm::compatibility_key`]: monitor, kernel, harness, and all arguments that name no file of the machine's own.
pub(super) fn compatibility_key(
    monitor: &Path,
    processor: &str,
    spec: &MachineSpec,
    guest: Architecture,
    accelerator: Accelerator,
) -> Option<String> {
    let alike = MachineSpec {
        name: String::new(),
        run_dir: "/".into(),
        console_log: "/".into(),
        kernel: "/".into(),
        initramfs: "/".into(),
        root_disk: vec!["/".into()],
        modules: None,
        data_disk: "/".into(),
        ..spec.clone()
    };
    // The counter of the host is measured anew by each daemon, and the kernel does not mind the difference.
    let with = Acceleration { accelerator, ticks: None };
    let words = arguments::arguments(&alike, guest, with, StartMode::Boot);
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    let mut files = vec![version(monitor)?, version(&spec.kernel)?, version(&spec.initramfs)?];
    if let Some(modules) = &spec.modules {
        files.push(version(modules)?);
    }
    Some([files.join("\n").as_str(), processor, &words.join(" ")].join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(dir: &Path) -> MachineSpec {
        for name in ["kernel", "initramfs"] {
            std::fs::write(dir.join(name), "x").unwrap();
        }
        MachineSpec {
            name: "inst-x".into(),
            run_dir: "/r".into(),
            console_log: "/c".into(),
            kernel: dir.join("kernel"),
            initramfs: dir.join("initramfs"),
            root_disk: vec!["/root".into()],
            modules: None,
            data_disk: "/data".into(),
            memory_mib: 64,
            vcpus: 1,
            files: true,
            card: None,
        }
    }

    #[test]
    fn machines_are_alike_whatever_their_names_and_disks_and_unlike_in_all_else() {
        let dir = tempfile::tempdir().unwrap();
        let spec = spec(dir.path());
        let of = |spec: &MachineSpec| {
            compatibility_key(Path::new("/bin/sh"), "x", spec, Architecture::X86_64, Accelerator::Tcg)
                .unwrap()
        };
        let other = MachineSpec {
            name: "inst-y".into(),
            run_dir: "/q".into(),
            root_disk: vec!["/a".into(), "/b".into()],
            data_disk: "/e".into(),
            ..spec.clone()
        };
        assert_eq!(of(&spec), of(&other));
        assert_ne!(of(&spec), of(&MachineSpec { memory_mib: 65, ..spec.clone() }));
        assert_ne!(of(&spec), of(&MachineSpec { vcpus: 2, ..spec.clone() }));
        assert_ne!(of(&spec), of(&MachineSpec { files: false, ..spec.clone() }));
        let modules = MachineSpec { modules: Some(dir.path().join("kernel")), ..spec.clone() };
        assert_ne!(of(&spec), of(&modules));
        let before = of(&spec);
        std::fs::write(dir.path().join("initramfs"), "newer").unwrap();
        assert_ne!(before, of(&spec));
    }

    #[test]
    fn devices_are_taken_whole_or_not_at_all() {
        let written = |bytes: &[u8]| {
            let (file, into) = empty_file().unwrap();
            std::io::Write::write_all(&mut File::from(into), bytes).unwrap();
            read(file)
        };
        assert_eq!(written(b"QEVMrest").unwrap(), b"QEVMrest");
        assert!(written(b"nothing").is_err());
    }
}
