//! Kernel parameters (`sysctl(8)`) that programs expect, where the defaults are meant for another kind of machine.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Each with who asks for it.
const SYSCTLS: [(&str, &str); 6] = [
    // Editors, bundlers and file watchers: a watch costs a kilobyte of the guest's own memory.
    ("fs/inotify/max_user_watches", "524288"),
    ("fs/inotify/max_user_instances", "1024"),
    // Elasticsearch and other databases that map many files.
    ("vm/max_map_count", "262144"),
    // `ping` without privileges, as Docker and most distributions have it.
    ("net/ipv4/ping_group_range", "0\t2147483647"),
    // Servers of images that do not run as root, on the ports of the web, as Docker has it.
    ("net/ipv4/ip_unprivileged_port_start", "0"),
    // Containers within the instance that share a user: each key ring counts.
    ("kernel/keys/maxkeys", "2000"),
];

/// Devices that every distribution lets its users open.
const DEVICES: [&str; 2] = ["/dev/fuse", "/dev/net/tun"];

/// Applies them. A kernel that lacks one is left as it is.
pub(crate) fn apply() {
    for (name, value) in SYSCTLS {
        let _lacks = fs::write(Path::new("/proc/sys").join(name), value);
    }
    for device in DEVICES {
        let _lacks = fs::set_permissions(device, Permissions::from_mode(0o666));
    }
}
