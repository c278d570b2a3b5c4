//! Ports to the host: devices of virtio-serial (`/dev/vportDpN`), or virtio sockets that look like such.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

use aegis_harness::machine_parts::Transport;
use rustix::fs::{Mode, OFlags};

use crate::host_listener::HostListener;
use crate::sync::lock;
use crate::{byte_relay, kernel_arguments, threads};

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

/// Opens the port of this number.
pub(crate) fn open_port(number: u32) -> io::Result<OwnedFd> {
    match kernel_arguments::machine_parts().transport {
        Transport::Serial => open_serial(number),
        Transport::Vsock => match early().remove(&number) {
            Some(port) => Ok(port),
            None => open_vsock(number),
        },
    }
}

/// Ports of virtio sockets that nobody has opened yet.
fn early() -> MutexGuard<'static, BTreeMap<u32, OwnedFd>> {
    static EARLY: Mutex<BTreeMap<u32, OwnedFd>> = Mutex::new(BTreeMap::new());
    lock(&EARLY)
}

/// Lets hosts connect to a port of virtio sockets that is opened later, if at all: one of virtio-serial is there from the beginning.
pub(crate) fn expect(number: u32) -> io::Result<()> {
    let port = open_vsock(number)?;
    early().insert(number, port);
    Ok(())
}

/// Listens on the virtio socket of this number, and has its hosts where a port would be.
fn open_vsock(number: u32) -> io::Result<OwnedFd> {
    let listener = HostListener::bind(number)?;
    let (port, ours) = byte_relay::pair()?;
    threads::spawn("relay", move || byte_relay::serve(&listener, &ours))?;
    Ok(port)
}

/// Opens a port of virtio-serial as soon as the kernel shows it.
fn open_serial(number: u32) -> io::Result<OwnedFd> {
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
