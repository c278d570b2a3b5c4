//! What a worker is told (`crates/aegis-krun-worker/src/configuration.rs`).

use serde::Serialize;

use crate::vsock::guest::{endpoints, kernel_arguments, port};
use crate::vsock::{disks, path_of, socket_path};
use crate::{Endpoint, MachineSpec};

/// The word on the kernel's command line by which a guest says a byte to each connection that it takes: libkrun takes connections
/// also for ports on which nobody listens, and closes them later.
const ACKNOWLEDGE: &str = "aegis.vsock_ack=1";

/// A machine.
#[derive(Debug, Serialize)]
pub(super) struct Configuration {
    vcpus: u32,
    memory_mib: u32,
    kernel: String,
    initramfs: String,
    kernel_arguments: String,
    disks: Vec<Disk>,
    ports: Vec<Port>,
}

#[derive(Debug, Serialize)]
struct Disk {
    path: String,
    read_only: bool,
}

#[derive(Debug, Serialize)]
struct Port {
    number: u32,
    socket: String,
}

/// Name of the socket that leads to an endpoint.
pub(super) fn socket_name(endpoint: Endpoint) -> String {
    format!("{}.sock", port(endpoint))
}

impl Configuration {
    pub(super) fn of(spec: &MachineSpec) -> Configuration {
        let port = |endpoint| Port { number: port(endpoint), socket: socket_path(&socket_name(endpoint)) };
        Configuration {
            vcpus: spec.vcpus,
            memory_mib: spec.memory_mib,
            kernel: spec.kernel.to_string_lossy().into_owned(),
            initramfs: spec.initramfs.to_string_lossy().into_owned(),
            kernel_arguments: format!("{} {ACKNOWLEDGE}", kernel_arguments(spec)),
            disks: disks(spec).map(|(fd, read_only)| Disk { path: path_of(fd), read_only }).collect(),
            ports: endpoints(spec).map(port).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vsock::testing::spec;

    #[test]
    fn a_worker_is_told_of_files_by_their_numbers_and_of_a_port_for_each_endpoint() {
        let told = serde_json::to_value(Configuration::of(&spec("/home".as_ref()))).unwrap();
        assert_eq!(told["disks"][3], serde_json::json!({ "path": "/proc/self/fd/20", "read_only": false }));
        assert_eq!(told["ports"][1], serde_json::json!({ "number": 2, "socket": "/proc/self/fd/21/2.sock" }));
        let arguments = told["kernel_arguments"].as_str().unwrap();
        assert!(arguments.ends_with(" aegis.vsock_ack=1"), "{arguments}");
    }
}
