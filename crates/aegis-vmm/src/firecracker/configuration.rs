//! What Firecracker is told, in the words of its API (`src/firecracker/swagger/firecracker.yaml` of Firecracker).

use serde::Serialize;

use crate::{Endpoint, KERNEL_ARGUMENTS, MachineSpec};

/// Numbers of descriptors in the Firecracker process. It opens them by path (`/proc/self/fd/N`), so that a state that was
/// saved names no file of its machine's own.
pub(super) const SAVED_MEMORY_FD: i32 = 16;
pub(super) const SAVED_DEVICES_FD: i32 = 17;
pub(super) const MEMORY_FD: i32 = 18;
pub(super) const DEVICES_FD: i32 = 19;
pub(super) const DATA_FD: i32 = 20;
pub(super) const SOCKETS_FD: i32 = 21;
pub(super) const CONFIGURATION_FD: i32 = 22;
pub(super) const FIRST_ROOT_FD: i32 = 30;

/// Names of its sockets, in a directory of their own.
pub(super) const API_SOCKET: &str = "api.sock";
pub(super) const VSOCK_SOCKET: &str = "vsock.sock";

/// The guest's address; the host's is 2, and the first ones are reserved (`vsock(7)`).
const GUEST_CID: u32 = 3;

/// Where a descriptor is opened.
pub(super) fn path_of(fd: i32) -> String {
    format!("/proc/self/fd/{fd}")
}

/// Where it makes a socket of this name.
pub(super) fn socket_path(name: &str) -> String {
    format!("{}/{name}", path_of(SOCKETS_FD))
}

/// The port of the guest's virtio socket that an endpoint is.
pub(super) const fn port(endpoint: Endpoint) -> u32 {
    match endpoint {
        Endpoint::Control => 1,
        Endpoint::Bulk => 2,
        Endpoint::Files => 3,
        Endpoint::Network => 4,
    }
}

/// The port on which the guest takes one connection after the other and says a byte to each: see `sockets`.
pub(super) const SENTINEL: u32 = 5;

/// A machine that boots.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Configuration {
    boot_source: BootSource,
    drives: Vec<Drive>,
    machine_config: MachineConfig,
    vsock: Vsock,
    entropy: Entropy,
}

#[derive(Debug, Serialize)]
struct BootSource {
    kernel_image_path: String,
    initrd_path: String,
    boot_args: String,
}

#[derive(Debug, Serialize)]
struct Drive {
    drive_id: String,
    path_on_host: String,
    is_root_device: bool,
    is_read_only: bool,
    cache_type: &'static str,
}

#[derive(Debug, Serialize)]
struct MachineConfig {
    vcpu_count: u32,
    mem_size_mib: u32,
}

#[derive(Debug, Serialize)]
struct Vsock {
    guest_cid: u32,
    uds_path: String,
}

#[derive(Debug, Serialize)]
struct Entropy {}

/// Body of `PATCH /vm`.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct VmState {
    pub(super) state: &'static str,
}

/// Body of `PUT /snapshot/create`.
#[derive(Debug, Serialize)]
pub(super) struct CreateSnapshot {
    snapshot_type: &'static str,
    snapshot_path: String,
    mem_file_path: String,
}

impl CreateSnapshot {
    pub(super) fn whole() -> CreateSnapshot {
        CreateSnapshot {
            snapshot_type: "Full",
            snapshot_path: path_of(SAVED_DEVICES_FD),
            mem_file_path: path_of(SAVED_MEMORY_FD),
        }
    }
}

/// Body of `PUT /snapshot/load`.
#[derive(Debug, Serialize)]
pub(super) struct LoadSnapshot {
    snapshot_path: String,
    mem_backend: MemoryBackend,
    resume_vm: bool,
}

#[derive(Debug, Serialize)]
struct MemoryBackend {
    backend_type: &'static str,
    backend_path: String,
}

impl LoadSnapshot {
    pub(super) fn new(resume_vm: bool) -> LoadSnapshot {
        let mem_backend = MemoryBackend { backend_type: "File", backend_path: path_of(MEMORY_FD) };
        LoadSnapshot { snapshot_path: path_of(DEVICES_FD), mem_backend, resume_vm }
    }
}

/// The kernel's command line: what the machine consists of stands there, because Firecracker gives its devices no names.
fn kernel_arguments(spec: &MachineSpec) -> String {
    let roots = spec.root_disk.iter().map(|_| "root");
    let disks: Vec<&str> = roots.chain(spec.modules.iter().map(|_| "modules")).chain(["data"]).collect();
    let mut text = format!(
        "console=ttyS0 {KERNEL_ARGUMENTS} reboot=k aegis.transport=vsock aegis.disks={}",
        disks.join(",")
    );
    if let Some(card) = &spec.card {
        text.push_str(&format!(" aegis.card={},{}", card.address(), card.mtu));
    }
    text
}

impl Configuration {
    pub(super) fn of(spec: &MachineSpec) -> Configuration {
        let drive = |drive_id: String, fd, is_read_only| Drive {
            drive_id,
            path_on_host: path_of(fd),
            is_root_device: false,
            is_read_only,
            // What a guest is told to be on disk is there: Firecracker's default ignores its flushes.
            cache_type: "Writeback",
        };
        let parts = (FIRST_ROOT_FD..).zip(spec.root_disk.iter().chain(&spec.modules));
        let mut drives: Vec<Drive> = parts.map(|(fd, _)| drive(format!("part{fd}"), fd, true)).collect();
        drives.push(drive("data".to_owned(), DATA_FD, false));
        Configuration {
            boot_source: BootSource {
                kernel_image_path: spec.kernel.to_string_lossy().into_owned(),
                initrd_path: spec.initramfs.to_string_lossy().into_owned(),
                boot_args: kernel_arguments(spec),
            },
            drives,
            machine_config: MachineConfig { vcpu_count: spec.vcpus, mem_size_mib: spec.memory_mib },
            vsock: Vsock { guest_cid: GUEST_CID, uds_path: socket_path(VSOCK_SOCKET) },
            entropy: Entropy {},
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NetworkInterface;

    fn spec() -> MachineSpec {
        MachineSpec {
            name: "inst-x".into(),
            run_dir: "/r".into(),
            console_log: "/c".into(),
            kernel: "/k".into(),
            initramfs: "/i".into(),
            root_disk: vec!["/a".into(), "/b".into()],
            modules: Some("/m".into()),
            data_disk: "/data".into(),
            memory_mib: 64,
            vcpus: 2,
            files: true,
            card: Some(NetworkInterface { mac: [2, 0, 0, 0, 0, 10], mtu: 1500 }),
        }
    }

    #[test]
    fn the_command_line_names_disks_in_their_order_and_the_card() {
        let line = kernel_arguments(&spec());
        assert!(line.contains(" aegis.disks=root,root,modules,data "), "{line}");
        assert!(line.ends_with(" aegis.card=02:00:00:00:00:0a,1500"), "{line}");
    }

    #[test]
    fn nothing_that_is_saved_names_a_file_of_the_machines_own() {
        let text = serde_json::to_string(&Configuration::of(&spec())).unwrap();
        for own in ["inst-x", "\"/data\"", "\"/a\"", "/r"] {
            assert!(!text.contains(own), "{own}: {text}");
        }
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["drives"].as_array().unwrap().len(), 4);
        assert_eq!(value["drives"][3]["is_read_only"], false);
        assert_eq!(value["machine-config"]["vcpu_count"], 2);
    }
}
