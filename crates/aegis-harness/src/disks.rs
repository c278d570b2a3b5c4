//! The machine's disks.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The kernel's driver of our disks.
const DRIVER: &str = "/sys/bus/virtio/drivers/virtio_blk";

/// The block device with this serial number.
pub(crate) fn find(serial: &str) -> io::Result<PathBuf> {
    for entry in fs::read_dir("/sys/block")? {
        let entry = entry?;
        let found = fs::read_to_string(entry.path().join("serial")).unwrap_or_default();
        if found.trim() == serial {
            return Ok(Path::new("/dev").join(entry.file_name()));
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("no disk with serial {serial}")))
}

/// Disks that no driver has: whoever takes them up sees what they are then, not what they were before.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    devices: Vec<OsString>,
}

impl Settled {
    /// Takes all disks from their driver.
    pub(crate) fn all() -> io::Result<Settled> {
        let mut settled = Settled::default();
        for entry in fs::read_dir(DRIVER)? {
            let name = entry?.file_name();
            // Beside its devices the directory holds the driver's own files.
            if name.to_string_lossy().strip_prefix("virtio").is_some_and(|rest| rest.parse::<u32>().is_ok()) {
                fs::write(Path::new(DRIVER).join("unbind"), name.as_encoded_bytes())?;
                settled.devices.push(name);
            }
        }
        // In the order in which the kernel found them, so that they get their names again.
        settled.devices.sort_by_key(|name| (name.len(), name.clone()));
        Ok(settled)
    }

    /// Gives them back to their driver.
    pub(crate) fn take_up(self) -> io::Result<()> {
        self.devices
            .iter()
            .try_for_each(|name| fs::write(Path::new(DRIVER).join("bind"), name.as_encoded_bytes()))
    }
}
