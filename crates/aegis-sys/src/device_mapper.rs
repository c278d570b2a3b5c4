//! Block devices made of others (`Documentation/admin-guide/device-mapper` of Linux).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use crate::check;

/// Where devices are made.
const CONTROL: &str = "/dev/mapper/control";
/// The interface of `linux/dm-ioctl.h` that these calls are of.
const VERSION: [u32; 3] = [4, 0, 0];
/// `DM_DEV_CREATE`, `DM_TABLE_LOAD` and `DM_DEV_SUSPEND`, which without its flag resumes.
const CREATE: u64 = 0xc138_fd03;
const LOAD: u64 = 0xc138_fd09;
const RESUME: u64 = 0xc138_fd06;
/// `DM_READONLY_FLAG`.
const READ_ONLY: u32 = 1;
/// Most parts of a device.
const MOST: usize = 16;
/// The target of a part: its type, as the kernel has it, and the unit in which targets are laid out, bytes.
const LINEAR: &[u8] = b"linear";
const ALIGNMENT: usize = 8;

/// `struct dm_ioctl`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Header {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_number: u32,
    padding: u32,
    device: u64,
    name: [u8; 128],
    uuid: [u8; 129],
    data: [u8; 7],
}

/// How long the header is, and `struct dm_target_spec`, bytes.
const HEADER: usize = size_of::<Header>();
const TARGET: usize = 40;
/// Room for the targets, bytes.
const ROOM: usize = MOST * 128;

/// What a call takes: a header, and what follows it.
#[repr(C)]
struct Request {
    header: Header,
    targets: [u8; ROOM],
}

fn request(name: &str) -> io::Result<Box<Request>> {
    let mut text = [0; 128];
    if name.is_empty() || name.len() >= text.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    text.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
    let header = Header {
        version: VERSION,
        data_size: (HEADER + ROOM) as u32,
        data_start: HEADER as u32,
        target_count: 0,
        open_count: 0,
        flags: READ_ONLY,
        event_number: 0,
        padding: 0,
        device: 0,
        name: text,
        uuid: [0; 129],
        data: [0; 7],
    };
    Ok(Box::new(Request { header, targets: [0; ROOM] }))
}

fn call(control: &File, number: u64, request: &mut Request) -> io::Result<()> {
    // SAFETY: the request is laid out as these calls take it, says how long it is, and outlives the call.
    check(unsafe { libc::ioctl(control.as_raw_fd(), number as _, std::ptr::from_mut(request)) })
}

/// The table of a device whose parts follow each other: major and minor number of each, and its length in sectors.
fn table(parts: &[(u32, u32, u64)]) -> Vec<u8> {
    let (mut table, mut start) = (Vec::new(), 0u64);
    for (major, minor, sectors) in parts {
        let mut parameters = format!("{major}:{minor} 0\0").into_bytes();
        parameters.resize(parameters.len().next_multiple_of(ALIGNMENT), 0);
        let next = (TARGET + parameters.len()) as u32;
        table.extend(start.to_ne_bytes());
        table.extend(sectors.to_ne_bytes());
        table.extend(0i32.to_ne_bytes());
        table.extend(next.to_ne_bytes());
        table.extend(LINEAR.iter().copied().chain(std::iter::repeat(0)).take(16));
        table.extend(parameters);
        start = start.saturating_add(*sectors);
    }
    table
}

/// Makes a device that can only be read, of parts that follow each other: major and minor number of each, and its length in
/// sectors of 512 bytes. Returns its minor number.
///
/// # Errors
/// The system's; `InvalidInput` if there are more than the kernel is told of at once.
pub fn join(name: &str, parts: &[(u32, u32, u64)]) -> io::Result<u32> {
    let control = File::options().read(true).write(true).open(CONTROL)?;
    let mut created = request(name)?;
    call(&control, CREATE, &mut created)?;
    let device = created.header.device;
    let table = table(parts);
    let mut loaded = request(name)?;
    let room = loaded.targets.get_mut(..table.len()).ok_or(io::ErrorKind::InvalidInput)?;
    room.copy_from_slice(&table);
    loaded.header.target_count = u32::try_from(parts.len()).map_err(io::Error::other)?;
    call(&control, LOAD, &mut loaded)?;
    call(&control, RESUME, &mut *request(name)?)?;
    Ok(libc::minor(device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_are_as_long_as_the_kernels() {
        assert_eq!((HEADER, CREATE >> 16 & 0x3fff), (312, 312));
    }

    #[test]
    fn parts_follow_each_other_and_each_says_where_the_next_is() {
        let table = table(&[(254, 0, 8), (254, 16, 100)]);
        let number = |at: usize| u64::from_ne_bytes(table[at..at + 8].try_into().unwrap());
        let next = u32::from_ne_bytes(table[20..24].try_into().unwrap()) as usize;
        assert_eq!((number(0), number(8)), (0, 8));
        assert_eq!((number(next), number(next + 8)), (8, 100));
        assert!(table[next + TARGET..].starts_with(b"254:16 0\0"));
        assert_eq!(table.len() % ALIGNMENT, 0);
    }
}
