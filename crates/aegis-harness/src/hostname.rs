//! The hostname, `/etc/hosts`, and the machine id and boot id by which programs know the machine.

use std::fs;
use std::io;
use std::path::Path;

use rustix::mount::{MountFlags, mount_bind, mount_remount};

use crate::managed_files::ManagedFiles;
use crate::network_interface;
use crate::rootfs_paths;

const HOSTNAME: &str = "/etc/hostname";
const HOSTS: &str = "/etc/hosts";
const RESOLVER: &str = "/etc/resolv.conf";
/// See `machine-id(5)`: 32 hexadecimal digits and a newline.
const MACHINE_ID: &str = "/etc/machine-id";
/// A number that the kernel makes once per boot, when it is first asked for it.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// A number that the kernel makes each time it is asked.
const ANY_ID: &str = "/proc/sys/kernel/random/uuid";
/// Longest of these files that is read before it has to be, bytes.
const MOST_READ: u64 = 64 << 10;
/// What takes the place of the kernel's number.
const OWN_BOOT_ID: &str = "/run/aegis/boot_id";

fn hosts(hostname: &str) -> String {
    format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n")
}

/// Names the machine when it has just come up: the kernel always, its files as far as the root allows it. What the users
/// of an instance have changed in them at an earlier start stays.
pub(crate) fn give(hostname: &str, record: &ManagedFiles) -> io::Result<()> {
    rustix::system::sethostname(hostname.as_bytes())?;
    network_interface::told(HOSTNAME, give_hostname(Path::new(HOSTNAME), hostname, record));
    network_interface::told(HOSTS, give_hosts(Path::new(HOSTS), hostname, record));
    if rootfs_paths::read(Path::new(RESOLVER)).map_or(true, |old| old.is_empty()) {
        network_interface::write_resolver("# This instance has no network.\n", record);
    }
    Ok(())
}

fn give_hostname(file: &Path, hostname: &str, record: &ManagedFiles) -> io::Result<()> {
    if record.edited(file) { Ok(()) } else { record.write(file, format!("{hostname}\n").as_bytes()) }
}

fn give_hosts(file: &Path, hostname: &str, record: &ManagedFiles) -> io::Result<()> {
    let own = hosts(hostname);
    if !record.edited(file) {
        return record.write(file, own.as_bytes());
    }
    let text = |bytes: Option<Vec<u8>>| bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    let (last, now) = (text(record.last(file)), text(rootfs_paths::read(file).ok()));
    if let (Some(last), Some(now)) = (last, now)
        && last != own
    {
        record.remember(file, own.as_bytes());
        return rootfs_paths::put(file, now.replacen(&last, &own, 1).as_bytes());
    }
    Ok(())
}

/// The table of hosts of a machine with another name; what its users have changed in it stays.
fn renamed(table: &str, from: &str, to: &str) -> String {
    table.replacen(&hosts(from), &hosts(to), 1)
}

/// Gives a machine that was another one a name and numbers of its own.
pub(crate) fn change(hostname: &str, record: &ManagedFiles) -> io::Result<()> {
    let before = rustix::system::uname().nodename().to_string_lossy().into_owned();
    rustix::system::sethostname(hostname.as_bytes())?;
    network_interface::told(HOSTNAME, give_hostname(Path::new(HOSTNAME), hostname, record));
    // A guest without the table has none to change.
    if let Some(table) =
        rootfs_paths::read(Path::new(HOSTS)).ok().and_then(|table| String::from_utf8(table).ok())
    {
        let table = renamed(&table, &before, hostname);
        record.remember(Path::new(HOSTS), hosts(hostname).as_bytes());
        network_interface::told(HOSTS, rootfs_paths::put(Path::new(HOSTS), table.as_bytes()));
    }
    if rootfs_paths::read(Path::new(MACHINE_ID)).is_ok_and(|id| !id.is_empty()) {
        let id: String = fs::read_to_string(ANY_ID)?.chars().filter(char::is_ascii_hexdigit).collect();
        network_interface::told(
            MACHINE_ID,
            rootfs_paths::put(Path::new(MACHINE_ID), format!("{id}\n").as_bytes()),
        );
    }
    change_boot_id()
}

/// Makes what [`change`] would find missing in each copy of this machine, and reads what it will read, so that none of
/// them has to. What cannot be done here is done there.
pub(crate) fn prepare() {
    for file in [HOSTNAME, HOSTS, MACHINE_ID] {
        // Whoever is root here may have put anything in their places.
        if fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.len() <= MOST_READ) {
            let _read = fs::read(file);
        }
    }
    if !Path::new(OWN_BOOT_ID).exists() {
        let _hidden = fs::read(BOOT_ID).and_then(|id| hide_boot_id(&id));
    }
}

/// The kernel's own number cannot be changed, but hidden.
fn change_boot_id() -> io::Result<()> {
    let id = fs::read(ANY_ID)?;
    if Path::new(OWN_BOOT_ID).exists() {
        rootfs_paths::overwrite(Path::new(OWN_BOOT_ID), &id)?;
    }
    // Whoever is root here may have undone it.
    if fs::read(BOOT_ID)? == id { Ok(()) } else { hide_boot_id(&id) }
}

/// Puts this number in front of the kernel's.
fn hide_boot_id(id: &[u8]) -> io::Result<()> {
    if let Some(dir) = Path::new(OWN_BOOT_ID).parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(OWN_BOOT_ID, id)?;
    mount_bind(OWN_BOOT_ID, BOOT_ID)?;
    let flags =
        MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(mount_remount(BOOT_ID, flags, "")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_users_add_to_the_table_of_hosts_stays_and_goes_on_to_another_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hosts");
        let record = ManagedFiles::default();
        record.keep_on(Some(crate::managed_files::open(dir.path()).unwrap()));
        let read = || fs::read_to_string(&file).unwrap();
        fs::write(&file, "127.0.0.1 image\n").unwrap();
        give_hosts(&file, "web", &record).unwrap();
        assert_eq!(read(), hosts("web"));
        give_hosts(&file, "api", &record).unwrap();
        assert_eq!(read(), hosts("api"));
        let edited = format!("{}10.0.0.1\tdb\n", hosts("api"));
        fs::write(&file, &edited).unwrap();
        for name in ["api", "api", "web", "web"] {
            give_hosts(&file, name, &record).unwrap();
            assert_eq!(read(), edited.replace("api", name));
        }
        fs::write(&file, b"10.0.0.1 \xff\n").unwrap();
        give_hosts(&file, "db", &record).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"10.0.0.1 \xff\n");
    }

    #[test]
    fn a_name_that_users_have_written_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hostname");
        let record = ManagedFiles::default();
        record.keep_on(Some(crate::managed_files::open(dir.path()).unwrap()));
        fs::write(&file, "of the image\n").unwrap();
        for name in ["web", "api"] {
            give_hostname(&file, name, &record).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), format!("{name}\n"));
        }
        fs::write(&file, "mine\n").unwrap();
        for name in ["api", "web"] {
            give_hostname(&file, name, &record).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), "mine\n");
        }
    }

    #[test]
    fn a_table_of_hosts_changes_where_the_machine_is_named_and_nowhere_else() {
        let own = format!("{}10.0.0.1\tweb db\n", hosts("web"));
        assert_eq!(renamed(&own, "web", "web-1"), format!("{}10.0.0.1\tweb db\n", hosts("web-1")));
        assert_eq!(renamed("127.0.0.1 web\n", "web", "web-1"), "127.0.0.1 web\n");
    }
}
