//! What Firecracker is told, in the words of its API (`src/firecracker/swagger/firecracker.yaml` of Firecracker).

use serde::Serialize;

use crate::MachineSpec;
use crate::vsock::guest::kernel_arguments;
use crate::vsock::{self, path_of, socket_path};

/// Numbers of descriptors in the Firecracker process, beside those of every such monitor. It opens them by path, so that a state
/// that was saved names no file of its machine's own.
pub(super) const SAVED_MEMORY_FD: i32 = 16;
pub(super) const SAVED_DEVICES_FD: i32 = 17;
pub(super) const MEMORY_FD: i32 = 18;
pub(super) const DEVICES_FD: i32 = 19;

/// Names of its sockets, in a directory of their own.
pub(super) const API_SOCKET: &str = "api.sock";
pub(super) const VSOCK_SOCKET: &str = "vsock.sock";

/// The guest's address; the host's is 2, and the first ones are reserved (`vsock(7)`).
const GUEST_CID: u32 = 3;

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

impl Configuration {
    pub(super) fn of(spec: &MachineSpec) -> Configuration {
        let drive = |(fd, is_read_only)| Drive {
            drive_id: format!("disk{fd}"),
            path_on_host: path_of(fd),
            is_root_device: false,
            is_read_only,
            // What a guest is told to be on disk is there: Firecracker's default ignores its flushes.
            cache_type: "Writeback",
        };
        Configuration {
            boot_source: BootSource {
                kernel_image_path: spec.kernel.to_string_lossy().into_owned(),
                initrd_path: spec.initramfs.to_string_lossy().into_owned(),
                boot_args: kernel_arguments(spec),
            },
            drives: vsock::disks(spec).map(drive).collect(),
            machine_config: MachineConfig { vcpu_count: spec.vcpus, mem_size_mib: spec.memory_mib },
            vsock: Vsock { guest_cid: GUEST_CID, uds_path: socket_path(VSOCK_SOCKET) },
            entropy: Entropy {},
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vsock::testing::spec;

    #[test]
    fn nothing_that_is_saved_names_a_file_of_the_machines_own() {
        let told = |name: &str| {
            let mut spec = spec("/home".as_ref());
            spec.data_disk = format!("/home/disks/{name}.ext4").into();
            spec.run_dir = format!("/run/{name}").into();
            MachineSpec { name: name.to_owned(), ..spec }
        };
        let text = serde_json::to_string(&Configuration::of(&told("inst-x"))).unwrap();
        assert_eq!(text, serde_json::to_string(&Configuration::of(&told("inst-y"))).unwrap());
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["drives"].as_array().unwrap().len(), 4);
        assert_eq!(value["drives"][3]["is_read_only"], false);
        assert_eq!(value["machine-config"]["vcpu_count"], 2);
    }
}
