//! What a machine is, as whoever starts it says.

use std::io;

use serde::Deserialize;

use crate::context::Context;

/// A machine.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Configuration {
    /// Its processors.
    vcpus: u8,
    /// Its memory, MiB.
    memory_mib: u32,
    /// Path of its kernel, an ELF file.
    kernel: String,
    /// Path of its initial file system.
    initramfs: String,
    /// What its kernel is told.
    kernel_arguments: String,
    /// Its disks, in the order in which its kernel finds them.
    disks: Vec<Disk>,
    /// The ports of its virtio socket on which its guest listens.
    ports: Vec<Port>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Disk {
    /// Path of a file or device that holds its bytes as they are.
    path: String,
    read_only: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Port {
    number: u32,
    /// Where the monitor makes a socket whose connections are passed on to the guest's port.
    socket: String,
}

impl Configuration {
    /// Makes this machine of a context. The error names what could not be set.
    pub(crate) fn apply(&self, context: &Context) -> Result<(), (&'static str, io::Error)> {
        let failed = |what: &'static str| move |error| (what, error);
        let size = context.set_size(self.vcpus, self.memory_mib);
        size.map_err(failed("cannot set processors and memory"))?;
        let kernel = context.set_kernel(&self.kernel, &self.initramfs, &self.kernel_arguments);
        kernel.map_err(failed("cannot set the kernel"))?;
        for (number, disk) in self.disks.iter().enumerate() {
            let added = context.add_disk(&format!("disk{number}"), &disk.path, disk.read_only);
            added.map_err(failed("cannot add a disk"))?;
        }
        context.set_console().map_err(failed("cannot set the console"))?;
        context.add_virtio_socket().map_err(failed("cannot add the virtio socket"))?;
        for port in &self.ports {
            context.add_port(port.number, &port.socket).map_err(failed("cannot add a port"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_refused_and_not_ignored() {
        let known = r#"{"vcpus":1,"memory_mib":64,"kernel":"/k","initramfs":"/i","kernel_arguments":"quiet",
            "disks":[{"path":"/d","read_only":true}],"ports":[{"number":1,"socket":"/s"}]}"#;
        let read: Configuration = serde_json::from_str(known).unwrap();
        assert_eq!((read.disks.len(), read.ports[0].number), (1, 1));
        let unknown = known.replace("\"vcpus\"", "\"nested\":true,\"vcpus\"");
        assert!(serde_json::from_str::<Configuration>(&unknown).is_err());
    }
}
