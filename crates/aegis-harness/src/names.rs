//! What a machine is called, and the numbers by which its programs know it.

use std::fs;
use std::io;
use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags, mount_bind, mount_remount, unmount};

use crate::card;

const HOSTNAME: &str = "/etc/hostname";
const HOSTS: &str = "/etc/hosts";
/// See `machine-id(5)`: 32 hexadecimal digits and a newline.
const MACHINE_ID: &str = "/etc/machine-id";
/// A number that the kernel makes once per boot, when it is first asked for it.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// A number that the kernel makes each time it is asked.
const ANY_ID: &str = "/proc/sys/kernel/random/uuid";
/// What takes the place of the kernel's number.
const OWN_BOOT_ID: &str = "/run/aegis/boot_id";

fn hosts(hostname: &str) -> String {
    format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n")
}

/// Names the machine when it has just come up.
pub(crate) fn give(hostname: &str) -> io::Result<()> {
    rustix::system::sethostname(hostname.as_bytes())?;
    fs::write(HOSTNAME, format!("{hostname}\n"))?;
    fs::write(HOSTS, hosts(hostname))?;
    if fs::read("/etc/resolv.conf").map_or(true, |old| old.is_empty()) {
        card::write_resolver("# This instance has no network.\n")?;
    }
    Ok(())
}

/// The table of hosts of a machine with another name; what its users have changed in it stays.
fn renamed(table: &str, from: &str, to: &str) -> String {
    table.replacen(&hosts(from), &hosts(to), 1)
}

/// Gives a machine that was another one a name and numbers of its own.
pub(crate) fn change(hostname: &str) -> io::Result<()> {
    let before = rustix::system::uname().nodename().to_string_lossy().into_owned();
    rustix::system::sethostname(hostname.as_bytes())?;
    fs::write(HOSTNAME, format!("{hostname}\n"))?;
    // A guest without the table has none to change.
    if let Ok(table) = fs::read_to_string(HOSTS) {
        fs::write(HOSTS, renamed(&table, &before, hostname))?;
    }
    if fs::read(MACHINE_ID).is_ok_and(|id| !id.is_empty()) {
        let id: String = fs::read_to_string(ANY_ID)?.chars().filter(char::is_ascii_hexdigit).collect();
        fs::write(MACHINE_ID, format!("{id}\n"))?;
    }
    change_boot_id()
}

/// The kernel's own number cannot be changed, but hidden.
fn change_boot_id() -> io::Result<()> {
    if Path::new(OWN_BOOT_ID).exists() {
        // Hidden already, by one that this machine was before.
        unmount(BOOT_ID, UnmountFlags::DETACH)?;
        fs::remove_file(OWN_BOOT_ID)?;
    }
    if let Some(dir) = Path::new(OWN_BOOT_ID).parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(OWN_BOOT_ID, fs::read(ANY_ID)?)?;
    mount_bind(OWN_BOOT_ID, BOOT_ID)?;
    let flags =
        MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(mount_remount(BOOT_ID, flags, "")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_hosts_changes_where_the_machine_is_named_and_nowhere_else() {
        let own = format!("{}10.0.0.1\tweb db\n", hosts("web"));
        assert_eq!(renamed(&own, "web", "web-1"), format!("{}10.0.0.1\tweb db\n", hosts("web-1")));
        assert_eq!(renamed("127.0.0.1 web\n", "web", "web-1"), "127.0.0.1 web\n");
    }
}
