//! Devices of virtio-serial ports (`/dev/vportDpN`).

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};

/// Device of a port: `/dev/vportDpN`, D being the number of the device among all of virtio.
fn port_device(number: u32) -> io::Result<Option<PathBuf>> {
    let suffix = format!("p{number}");
    for entry in fs::read_dir("/dev")? {
        let entry = entry?;
        let name = entry.file_name();
        let device = name.to_str().and_then(|name| name.strip_prefix("vport")?.strip_suffix(&suffix));
        if device.is_some_and(|device| device.bytes().all(|byte| byte.is_ascii_digit())) {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

/// Opens a port as soon as the kernel shows it.
pub(crate) fn open_port(number: u32) -> io::Result<OwnedFd> {
    use rustix::fs::inotify;
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    inotify::add_watch(&watch, "/dev", inotify::WatchFlags::CREATE)?;
    let mut events = [0u8; 4096];
    loop {
        if let Some(path) = port_device(number)? {
            let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
            return Ok(rustix::fs::open(path, flags, Mode::empty())?);
        }
        rustix::io::read(&watch, &mut events)?;
    }
}
