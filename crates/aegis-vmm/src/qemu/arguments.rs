//! QEMU's command line. What differs between architectures is in [`Architecture`].

use std::ffi::OsString;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::qmp::Command;
use crate::accelerator::Accelerator;
use crate::{Architecture, KERNEL_ARGUMENTS, MachineSpec};

/// Descriptor numbers of the listening sockets in the QEMU process.
pub(crate) const CONTROL_FD: i32 = 10;
pub(crate) const BULK_FD: i32 = 11;
pub(crate) const QMP_FD: i32 = 12;
pub(crate) const CONSOLE_FD: i32 = 13;
pub(crate) const FILES_FD: i32 = 14;
pub(crate) const CARD_FD: i32 = 15;
pub(crate) const MEMORY_FD: i32 = 16;
pub(crate) const DEVICES_FD: i32 = 17;

/// Most memory that emulation may use for translated code, MiB. Unbounded it grows to a share of the host's.
const TRANSLATION_CACHE_MIB: u32 = 128;

fn accelerator(accelerator: Accelerator, guest: Architecture) -> (String, &'static str) {
    match accelerator {
        Accelerator::Kvm => ("kvm".to_owned(), "host"),
        Accelerator::Hvf => ("hvf".to_owned(), "host"),
        Accelerator::Tcg => {
            (format!("tcg,thread=multi,tb-size={TRANSLATION_CACHE_MIB}"), guest.emulated_cpu())
        }
    }
}

/// The kernel's command line. Nothing else is said here, secrets least of all.
fn kernel_arguments(guest: Architecture, with: Acceleration) -> String {
    let (console, more) = (guest.console(), guest.kernel_arguments(with.accelerator));
    // Left to itself the kernel compares the counter with an emulated timer, and on a busy host gives up: then its clock
    // is as coarse as its ticks, and late when those are.
    let counter = match (guest, with.accelerator, with.ticks) {
        (Architecture::X86_64, Accelerator::Tcg, Some(ticks)) => {
            format!(" tsc_early_khz={ticks} tsc=reliable")
        }
        _ => String::new(),
    };
    format!("console={console} {KERNEL_ARGUMENTS}{more}{counter}")
}

/// What a guest runs on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Acceleration {
    pub(crate) accelerator: Accelerator,
    /// How many times in a millisecond the host's counter ticks, which emulated guests of its architecture read.
    pub(crate) ticks: Option<u32>,
}

/// How a machine's life begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StartMode {
    /// With its kernel, in memory that is its own.
    Boot,
    /// As a machine that was saved, with that one's memory until it writes to it; it goes on at once.
    Clone,
    /// As a machine that was saved, in memory that is its own; it stands still.
    Wake,
}

/// Where the descriptor of a root disk is that consists of several files.
pub(crate) fn joined_root(spec: &MachineSpec) -> PathBuf {
    spec.run_dir.join("root.vmdk")
}

/// The files that the root disk consists of, one after the other.
pub(crate) fn root_parts(spec: &MachineSpec) -> Vec<&Path> {
    spec.root_disk.iter().chain(&spec.modules).map(PathBuf::as_path).collect()
}

/// A file on the host as a block device's content. Whose it is is the daemon's to say: QEMU may lock nothing, so that one that has
/// been taken over keeps nobody from the files that all machines read.
fn file(path: &Path) -> Value {
    json!({ "driver": "file", "filename": path.to_string_lossy(), "locking": "off" })
}

fn root_content(spec: &MachineSpec) -> Value {
    match root_parts(spec).as_slice() {
        [whole] => file(whole),
        _ => json!({ "driver": "vmdk", "file": file(&joined_root(spec)) }),
    }
}

/// A disk around its content, which can so be replaced by another while the disk stays what it is.
fn disk(node: &str, content: Value, read_only: bool) -> Value {
    json!({ "driver": "raw", "node-name": node, "read-only": read_only, "discard": "unmap", "file": content })
}

/// Names of the nodes of disks.
const ROOT: &str = "root";
const DATA: &str = "data";
/// Name of the node of what [`other_data`] puts in one.
const ASSIGNED: &str = "assigned";

/// Numbers of sets of descriptors that are passed to a running QEMU, which it opens as `/dev/fdset/NUMBER`.
const DISK_SET: u32 = 1;
const DEVICES_SET: u32 = 2;

fn set(number: u32) -> String {
    format!("/dev/fdset/{number}")
}

/// The commands that put this data disk in the place of the one that a machine has: a machine opens no file but those
/// that it was started with, so the disk is passed as it is open. Can be done once.
pub(super) fn other_data(data_disk: BorrowedFd<'_>) -> [Command<'_>; 3] {
    let mut content = file(Path::new(&set(DISK_SET)));
    content["node-name"] = ASSIGNED.into();
    content["discard"] = "unmap".into();
    let disks = json!({ "options": [disk(DATA, ASSIGNED.into(), false)] });
    [
        Command::pass(DISK_SET, data_disk),
        Command::new("blockdev-add", content),
        Command::new("blockdev-reopen", disks),
    ]
}

/// The commands that write the state of all devices but the memory into a file, which has to be open for nothing but
/// writing.
pub(super) fn save_devices(into: BorrowedFd<'_>) -> [Command<'_>; 3] {
    // Xen's word for all devices but the memory, which would go along with the ordinary one unless it were shared.
    let arguments = json!({ "filename": set(DEVICES_SET), "live": false });
    [
        Command::pass(DEVICES_SET, into),
        Command::new("xen-save-devices-state", arguments),
        Command::new("remove-fd", json!({ "fdset-id": DEVICES_SET })),
    ]
}

fn socket(id: &str, fd: i32) -> String {
    format!("socket,id={id},fd={fd},server=on,wait=off")
}

/// All arguments for a machine.
pub(crate) fn arguments(
    spec: &MachineSpec,
    guest: Architecture,
    with: Acceleration,
    beginning: StartMode,
) -> Vec<OsString> {
    let (accel, cpu) = accelerator(with.accelerator, guest);
    let (share, machine) = match beginning {
        StartMode::Boot => ("on", guest.machine().to_owned()),
        // What was saved is not described, see `save`.
        StartMode::Clone => ("off", format!("{},suppress-vmdesc=on", guest.machine())),
        StartMode::Wake => ("on", format!("{},suppress-vmdesc=on", guest.machine())),
    };
    let size = spec.memory_mib;
    let memory =
        format!("memory-backend-file,id=ram,size={size}M,mem-path=/proc/self/fd/{MEMORY_FD},share={share}");
    let mut all: Vec<OsString> = Vec::new();
    let mut add = |flag: &str, value: &str| all.extend([flag.into(), value.into()]);
    add("-name", &spec.name);
    add("-machine", &format!("{machine},memory-backend=ram"));
    add("-accel", &accel);
    add("-cpu", cpu);
    add("-smp", &spec.vcpus.to_string());
    add("-m", &spec.memory_mib.to_string());
    add("-object", &memory);
    add("-display", "none");
    add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    for (id, fd) in [("control", CONTROL_FD), ("bulk", BULK_FD), ("qmp", QMP_FD), ("console", CONSOLE_FD)] {
        add("-chardev", &socket(id, fd));
    }
    if spec.files {
        add("-chardev", &socket("files", FILES_FD));
    }
    add("-serial", "chardev:console");
    add("-mon", "chardev=qmp,mode=control");
    // JSON, because their other syntax gives commas in paths a meaning.
    add("-blockdev", &disk(ROOT, root_content(spec), true).to_string());
    add("-blockdev", &disk(DATA, file(&spec.data_disk), false).to_string());
    for device in [
        "virtio-blk-device,drive=root,serial=aegis-root,werror=report,rerror=report",
        // A full host disk is an I/O error for the guest; the default would freeze the machine.
        "virtio-blk-device,drive=data,serial=aegis-data,werror=report,rerror=report",
        "virtio-rng-device",
        "virtio-serial-device,max_ports=4",
        "virtserialport,chardev=control,nr=1,name=aegis.control",
        "virtserialport,chardev=bulk,nr=2,name=aegis.bulk",
    ] {
        add("-device", device);
    }
    if spec.files {
        add("-device", "virtserialport,chardev=files,nr=3,name=aegis.files");
    }
    if let Some(card) = &spec.card {
        // This end listens, so that the other may go and come again.
        add("-netdev", &format!("stream,id=net,server=on,addr.type=fd,addr.str={CARD_FD}"));
        let mac = card.address();
        add("-device", &format!("virtio-net-device,netdev=net,mac={mac},host_mtu={}", card.mtu));
    }
    match beginning {
        StartMode::Boot => add("-append", &kernel_arguments(guest, with)),
        StartMode::Clone | StartMode::Wake => {
            add("-global", "migration.send-configuration=off");
            // QEMU 7.2 announces a card that arrived somewhere, also to nobody, and dies of that.
            add("-global", "migration.announce-rounds=0");
            add("-incoming", "defer");
        }
    }
    all.extend(["-nodefaults", "-no-user-config", "-no-reboot"].map(OsString::from));
    if beginning == StartMode::Wake {
        all.push("-S".into());
    }
    if beginning == StartMode::Boot {
        let (kernel, initramfs) = (spec.kernel.clone().into(), spec.initramfs.clone().into());
        all.extend(["-kernel".into(), kernel, "-initrd".into(), initramfs]);
    }
    all
}

/// The name of the machine that a process with these arguments is, if its own disk is in `disks`. Its architecture is of
/// no matter: an earlier daemon may have had another.
pub(crate) fn machine_name(words: &[String], disks: &Path) -> Option<String> {
    let program = Path::new(words.first()?).file_name()?;
    let after =
        |flag: &'static str| words.windows(2).filter(move |pair| pair[0] == flag).map(|pair| &pair[1]);
    let name = after("-name").next()?;
    let own = after("-blockdev").any(|text| {
        let disk: Value = serde_json::from_str(text).unwrap_or_default();
        let path = disk["file"]["filename"].as_str().map(Path::new);
        disk["node-name"] == DATA && path.and_then(Path::parent) == Some(disks)
    });
    let monitor = Architecture::ALL.iter().any(|one| program == one.program());
    (monitor && own).then(|| name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_in_a_path_stays_a_path() {
        let text = disk("root", file(Path::new("/a,readonly=off/b")), true).to_string();
        let parsed: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(parsed["file"]["filename"], "/a,readonly=off/b");
        assert_eq!(parsed["read-only"], true);
    }

    fn words_of(guest: Architecture, accelerator: Accelerator) -> Vec<String> {
        words_with(guest, accelerator, StartMode::Boot)
    }

    fn words_with(guest: Architecture, accelerator: Accelerator, beginning: StartMode) -> Vec<String> {
        let spec = MachineSpec {
            name: "inst-x".into(),
            run_dir: "/r".into(),
            console_log: "/c".into(),
            kernel: "/k".into(),
            initramfs: "/i".into(),
            root_disk: vec!["/root".into()],
            modules: None,
            data_disk: "/data".into(),
            memory_mib: 64,
            vcpus: 1,
            files: false,
            card: None,
        };
        let with = Acceleration { accelerator, ticks: Some(2_600_000) };
        let words = arguments(&spec, guest, with, beginning);
        words.iter().map(|argument| argument.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn every_machine_is_sandboxed_and_has_a_card_only_if_asked_for() {
        for guest in Architecture::ALL {
            let all = words_of(guest, Accelerator::Tcg);
            assert!(
                all.iter().any(|argument| argument.starts_with("on,") && argument.contains("spawn=deny"))
            );
            assert!(!all.iter().any(|argument| argument.contains("net")));
        }
    }

    #[test]
    fn memory_that_others_use_too_is_mapped_privately_and_by_no_device_that_could_punch_it() {
        let memory = |words: &[String]| words.iter().find(|word| word.starts_with("memory-backend")).cloned();
        for guest in Architecture::ALL {
            let booted = words_of(guest, Accelerator::Tcg);
            let restored = words_with(guest, Accelerator::Tcg, StartMode::Clone);
            assert!(memory(&booted).unwrap().ends_with(",share=on"));
            assert!(memory(&restored).unwrap().ends_with(",share=off"));
            assert!(![booted, restored].concat().iter().any(|word| word.contains("balloon")));
        }
    }

    #[test]
    fn a_machine_and_its_kernel_are_told_the_guests_architecture() {
        let after = |guest, accelerator, flag: &str| {
            let words = words_of(guest, accelerator);
            words.windows(2).find(|pair| pair[0] == flag).map(|pair| pair[1].clone()).unwrap()
        };
        let (x86, arm) = (Architecture::X86_64, Architecture::Aarch64);
        assert_eq!(after(x86, Accelerator::Tcg, "-machine"), "microvm,acpi=off,memory-backend=ram");
        assert_eq!(after(arm, Accelerator::Tcg, "-machine"), "virt,gic-version=max,memory-backend=ram");
        let kernel = after(arm, Accelerator::Tcg, "-append");
        assert_eq!(
            kernel,
            "console=ttyAMA0 quiet panic=-1 oops=panic cgroup_no_v1=all mitigations=off norandmaps"
        );
        let kernel = after(x86, Accelerator::Kvm, "-append");
        assert_eq!(kernel, "console=ttyS0 quiet panic=-1 oops=panic cgroup_no_v1=all reboot=t");
        let kernel = after(x86, Accelerator::Tcg, "-append");
        assert!(
            kernel.ends_with(" no_timer_check norandmaps tsc_early_khz=2600000 tsc=reliable"),
            "{kernel}"
        );
    }

    #[test]
    fn a_stray_is_known_by_its_disk_alone() {
        let words = |program: &str, disk: &str| -> Vec<String> {
            let own = super::disk("data", file(Path::new(disk)), false).to_string();
            ["/usr/bin/", program]
                .concat()
                .split(' ')
                .chain(["-name", "inst-x", "-blockdev", &own])
                .map(str::to_owned)
                .collect()
        };
        let found = |words: &[String]| machine_name(words, Path::new("/home/disks"));
        for program in Architecture::ALL.map(Architecture::program) {
            assert_eq!(found(&words(program, "/home/disks/inst-x.ext4")).as_deref(), Some("inst-x"));
            assert_eq!(found(&words(program, "/other/disks/inst-x.ext4")), None);
        }
        assert_eq!(found(&words("vim", "/home/disks/inst-x.ext4")), None);
        assert_eq!(found(&[]), None);
    }
}
