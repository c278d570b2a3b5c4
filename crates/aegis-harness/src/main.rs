//! `/init` of the guest: sets the machine up as far as the host need not decide, then serves the host.

mod byte_relay;
mod cgroup;
mod console_log;
mod copy_tool;
mod detached_mounts;
mod disk_reserve;
mod disks;
mod ephemeral_directories;
mod frame_relay;
mod freezer;
mod fuse_notify;
mod fuse_replay;
mod fuse_transport;
mod host_listener;
mod hostname;
mod interruptible_stdin;
mod kernel_arguments;
mod kernel_modules;
mod machine;
mod managed_files;
mod mount_namespace;
mod mount_point_layer;
mod network_interface;
mod overlay_storage;
mod port_device;
mod rootfs_paths;
mod sentinel;
mod share_mounts;
mod stopped_copy;
mod sync;
mod sysctl;
mod threads;

use std::process::ExitCode;
use std::rc::Rc;

use aegis_harness::machine_parts::Transport;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        let mut arguments = std::env::args_os();
        let name = arguments.next();
        let arguments: Vec<_> = arguments.collect();
        return if name.is_some_and(|name| name == kernel_modules::MODPROBE) {
            kernel_modules::modprobe(&arguments)
        } else {
            copy_tool::run(&arguments)
        };
    }
    let failure = match run() {
        Ok(()) => "the control port has closed".to_owned(),
        Err(error) => error.to_string(),
    };
    // PID 1 that ends makes the kernel panic, which is how the host learns of it, with this line on the console.
    console_log::print(&format!("aegis-harness: {failure}"));
    ExitCode::FAILURE
}

fn run() -> std::io::Result<()> {
    machine::mount_early()?;
    machine::allow_many_descriptors();
    if let Some(card) = kernel_arguments::machine_parts().card {
        network_interface::told(network_interface::NAME, frame_relay::start(network_interface::NAME, card));
    }
    if kernel_arguments::machine_parts().transport == Transport::Vsock {
        port_device::expect(fuse_transport::FILES)?;
        sentinel::start()?;
    }
    let control = port_device::open_port(machine::CONTROL)?;
    let bulk = port_device::open_port(machine::BULK)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    runtime.block_on(local.run_until(aegis_harness::serve(control, bulk, Rc::new(machine::Guest::default()))))
}
