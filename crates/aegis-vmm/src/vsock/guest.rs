//! What a guest is told of a machine whose monitor gives its devices no names, and the ports on which it listens.

use crate::{Endpoint, KERNEL_ARGUMENTS, MachineSpec};

/// The port of the guest's virtio socket that an endpoint is.
pub(crate) const fn port(endpoint: Endpoint) -> u32 {
    match endpoint {
        Endpoint::Control => 1,
        Endpoint::Bulk => 2,
        Endpoint::Files => 3,
        Endpoint::Network => 4,
    }
}

/// The endpoints that are ports of a machine's guest.
pub(crate) fn endpoints(spec: &MachineSpec) -> impl Iterator<Item = Endpoint> {
    let files = spec.files.then_some(Endpoint::Files);
    let card = spec.card.map(|_| Endpoint::Network);
    [Endpoint::Control, Endpoint::Bulk].into_iter().chain(files).chain(card)
}

/// The kernel's command line: what the machine consists of stands there (`machine_parts` of the harness).
pub(crate) fn kernel_arguments(spec: &MachineSpec) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vsock::testing::spec;

    #[test]
    fn the_command_line_names_disks_in_their_order_and_the_card() {
        let line = kernel_arguments(&spec("/".as_ref()));
        assert!(line.contains(" aegis.disks=root,root,modules,data "), "{line}");
        assert!(line.ends_with(" aegis.card=02:00:00:00:00:0a,1500"), "{line}");
    }

    #[test]
    fn a_machine_has_the_ports_that_it_was_made_with() {
        let ports = |spec: &MachineSpec| endpoints(spec).map(port).collect::<Vec<_>>();
        let whole = spec("/".as_ref());
        assert_eq!(ports(&whole), [1, 2, 3, 4]);
        assert_eq!(ports(&MachineSpec { files: false, card: None, ..whole }), [1, 2]);
    }
}
