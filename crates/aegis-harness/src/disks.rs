//! The machine's disks.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The kernel's driver of our disks.
const DRIVER: &str = "/sys/bus/virtio/drivers/virtio_blk";

/// The block device with this serial number.
pub(crate) fn find(serial: &str) -> io::Result<PathBuf> {
    Ok(Path::new("/dev").join(name(serial)?))
}

fn name(serial: &str) -> io::Result<OsString> {
    for entry in fs::read_dir("/sys/block")? {
        let entry = entry?;
        let found = fs::read_to_string(entry.path().join("serial")).unwrap_or_default();
        if found.trim() == serial {
            return Ok(entry.file_name());
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("no disk with serial {serial}")))
}

/// Disks that no driver has: whoever takes them up sees what they are then, not what they were before.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    devices: Vec<OsString>,
}

/// The names of virtio devices that are disks, in the order in which the kernel found them.
fn devices() -> io::Result<Vec<OsString>> {
    let names = fs::read_dir(DRIVER)?.map(|entry| Ok(entry?.file_name()));
    let mut names = names.collect::<io::Result<Vec<OsString>>>()?;
    // Beside its devices the directory holds the driver's own files.
    names.retain(|name| {
        name.to_string_lossy().strip_prefix("virtio").is_some_and(|rest| rest.parse::<u32>().is_ok())
    });
    names.sort_by_key(|name| (name.len(), name.clone()));
    Ok(names)
}

impl Settled {
    /// Takes all disks from their driver.
    pub(crate) fn all() -> io::Result<Settled> {
        Settled { devices: devices()? }.unbound()
    }

    /// Takes the disk with this serial number from its driver.
    pub(crate) fn one(serial: &str) -> io::Result<Settled> {
        let device = fs::canonicalize(Path::new("/sys/block").join(name(serial)?).join("device"))?;
        let devices = device.file_name().map(OsString::from).into_iter().collect();
        Settled { devices }.unbound()
    }

    fn unbound(self) -> io::Result<Settled> {
        for name in &self.devices {
            fs::write(Path::new(DRIVER).join("unbind"), name.as_encoded_bytes())?;
        }
        // In this order they get their names again.
        Ok(self)
    }

    /// Gives them back to their driver.
    pub(crate) fn take_up(self) -> io::Result<()> {
        self.devices
            .iter()
            .try_for_each(|name| fs::write(Path::new(DRIVER).join("bind"), name.as_encoded_bytes()))
    }
}
