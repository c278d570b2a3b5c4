//! What Firecracker writes when a machine is saved, and what a machine must have in common with another to go on from it.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{FileType, MemfdFlags, Mode, OFlags, memfd_create};

use super::configuration::{Configuration, SAVED_DEVICES_FD, SAVED_MEMORY_FD};
use crate::host_version::version;
use crate::{MachineSpec, MemoryBuilder, Saved};

/// Most that is taken for devices, bytes. They take some 30 KB.
const MOST_DEVICES: u64 = 16 << 20;
/// How much memory is copied at once, bytes.
const CHUNK: usize = 1 << 20;

/// A file without a name for Firecracker to write to.
pub(super) fn empty_file() -> io::Result<OwnedFd> {
    Ok(memfd_create("aegis-saved", MemfdFlags::CLOEXEC)?)
}

/// A file that a Firecracker has open, which may have put anything there.
fn open(pid: i32, descriptor: i32) -> io::Result<File> {
    let path = format!("/proc/{pid}/fd/{descriptor}");
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
        FileType::RegularFile => Ok(file.into()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "its state is no file")),
    }
}

/// Takes what a Firecracker has written, its memory into this draft, and leaves nothing of it there.
pub(super) fn take(pid: i32, into: MemoryBuilder) -> io::Result<Saved> {
    take_from(&open(pid, SAVED_DEVICES_FD)?, &open(pid, SAVED_MEMORY_FD)?, into)
}

fn take_from(devices: &File, memory: &File, into: MemoryBuilder) -> io::Result<Saved> {
    let mut state = Vec::new();
    let mut from_start = devices;
    from_start.rewind()?;
    from_start.take(MOST_DEVICES + 1).read_to_end(&mut state)?;
    if state.is_empty() || state.len() as u64 > MOST_DEVICES || memory.metadata()?.len() != into.bytes() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut chunk = vec![0; CHUNK];
    let mut at = 0;
    while at < into.bytes() {
        let left = usize::try_from(into.bytes() - at).unwrap_or(CHUNK).min(CHUNK);
        let part = chunk.get_mut(..left).unwrap_or_default();
        memory.read_exact_at(part, at)?;
        into.write(at, part)?;
        at += left as u64;
    }
    for file in [devices, memory] {
        file.set_len(0)?;
    }
    Ok(Saved { devices: state, memory: into.seal()? })
}

/// See [`crate::Vmm::compatibility_key`]: monitor, kernel, harness, and all that is told to Firecracker. A guest has looked at
/// its disks by then, so they are the same: the root's files, and the length of its own.
pub(super) fn compatibility_key(monitor: &Path, processor: &str, spec: &MachineSpec) -> Option<String> {
    let alike = MachineSpec { kernel: "/".into(), initramfs: "/".into(), ..spec.clone() };
    let told = serde_json::to_string(&Configuration::of(&alike)).ok()?;
    let files = [monitor, &spec.kernel, &spec.initramfs].into_iter();
    let parts = spec.root_disk.iter().chain(&spec.modules).map(|path| path.as_path());
    let files: Vec<String> = files.chain(parts).map(version).collect::<Option<_>>()?;
    let length = std::fs::metadata(&spec.data_disk).ok()?.len();
    Some([files.join("\n").as_str(), processor, &length.to_string(), &told].join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(dir: &Path) -> MachineSpec {
        for name in ["kernel", "initramfs", "root", "data"] {
            std::fs::write(dir.join(name), "x").unwrap();
        }
        MachineSpec {
            name: "inst-x".into(),
            run_dir: "/r".into(),
            console_log: "/c".into(),
            kernel: dir.join("kernel"),
            initramfs: dir.join("initramfs"),
            root_disk: vec![dir.join("root")],
            modules: None,
            data_disk: dir.join("data"),
            memory_mib: 64,
            vcpus: 1,
            files: true,
            card: None,
        }
    }

    #[test]
    fn machines_are_alike_whatever_their_names_and_unlike_with_other_disks() {
        let dir = tempfile::tempdir().unwrap();
        let one = spec(dir.path());
        let of = |spec: &MachineSpec| compatibility_key(Path::new("/bin/sh"), "x", spec).unwrap();
        let other = MachineSpec { name: "inst-y".into(), run_dir: "/q".into(), ..one.clone() };
        assert_eq!(of(&one), of(&other));
        assert_ne!(of(&one), of(&MachineSpec { memory_mib: 65, ..one.clone() }));
        assert_ne!(of(&one), of(&MachineSpec { root_disk: vec![dir.path().join("kernel")], ..one.clone() }));
        let before = of(&one);
        std::fs::write(dir.path().join("data"), "longer").unwrap();
        assert_ne!(before, of(&one));
    }

    #[test]
    fn a_state_that_is_none_is_refused_and_one_that_is_leaves_nothing_behind() {
        let file = |bytes: &[u8]| File::from(crate::unnamed_file::with(bytes).unwrap());
        let draft = || MemoryBuilder::new(8192).unwrap();
        let (devices, memory) = (file(b"devices"), file(&[7; 8192]));
        let saved = take_from(&devices, &memory, draft()).unwrap();
        let mut read = [0; 8192];
        saved.memory.read(0, &mut read).unwrap();
        assert_eq!((saved.devices.as_slice(), read), (&b"devices"[..], [7; 8192]));
        assert_eq!((devices.metadata().unwrap().len(), memory.metadata().unwrap().len()), (0, 0));
        assert!(take_from(&file(b""), &file(&[7; 8192]), draft()).is_err(), "no devices");
        assert!(take_from(&file(b"x"), &file(&[7; 4096]), draft()).is_err(), "less memory");
        assert!(take_from(&file(b"x"), &file(&[7; 8193]), draft()).is_err(), "more memory");
    }
}
