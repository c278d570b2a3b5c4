//! When something in this machine begins to listen on TCP: a small program in the kernel tells.
//!
//! The kernel calls a `sock_ops` program of the root control group from `listen(2)`, when the socket takes connections
//! already (`BPF_SOCK_OPS_TCP_LISTEN_CB` in `linux/bpf.h`). Ours notes it in a ring buffer, whose descriptor becomes
//! readable. The notes say nothing; that there is one is all.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Commands of `bpf(2)`.
const MAP_CREATE: libc::c_int = 0;
const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
/// `BPF_MAP_TYPE_RINGBUF`.
const RINGBUF: u32 = 27;
/// `BPF_PROG_TYPE_SOCK_OPS`.
const SOCK_OPS: u32 = 13;
/// `BPF_CGROUP_SOCK_OPS`.
const CGROUP_SOCK_OPS: u32 = 3;
/// `BPF_SOCK_OPS_TCP_LISTEN_CB`.
const TCP_LISTEN_CB: i32 = 11;
/// `bpf_ringbuf_output`.
const RINGBUF_OUTPUT: i32 = 130;
/// `BPF_RB_FORCE_WAKEUP`.
const FORCE_WAKEUP: i32 = 2;
/// Size of the ring, bytes; one page is the least.
const RING: usize = 4096;

/// One instruction: opcode, registers (source in the high half), offset, immediate value.
const fn instruction(opcode: u8, registers: u8, offset: i16, value: i32) -> u64 {
    let [low, high] = offset.to_le_bytes();
    let [a, b, c, d] = value.to_le_bytes();
    u64::from_ne_bytes([opcode, registers, low, high, a, b, c, d])
}

/// The program: if a socket begins to listen, put eight zero bytes into the ring.
const fn program(ring: i32) -> [u64; 12] {
    [
        // r1 = the first field of the context, which says what happened
        instruction(0x61, 0x11, 0, 0),
        // unless it is a listen, go to the end
        instruction(0x55, 0x01, 8, TCP_LISTEN_CB),
        // zero the top of the stack
        instruction(0x7a, 0x0a, -8, 0),
        // r1 = the ring (two slots; 1 marks a descriptor)
        instruction(0x18, 0x11, 0, ring),
        instruction(0x00, 0x00, 0, 0),
        // r2 = the top of the stack
        instruction(0xbf, 0xa2, 0, 0),
        instruction(0x07, 0x02, 0, -8),
        // r3 = 8 bytes, r4 = wake whoever waits
        instruction(0xb7, 0x03, 0, 8),
        instruction(0xb7, 0x04, 0, FORCE_WAKEUP),
        instruction(0x85, 0x00, 0, RINGBUF_OUTPUT),
        // return 1
        instruction(0xb7, 0x00, 0, 1),
        instruction(0x95, 0x00, 0, 0),
    ]
}

/// The fields of `union bpf_attr` that each command reads.
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attach_type: u32,
}

#[repr(C)]
struct ProgAttach {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_int> {
    let size = std::mem::size_of::<T>();
    // SAFETY: the kernel reads `size` bytes of a live value. The pointers in it, if any, are to live memory of the
    // lengths that stand beside them; callers are the three functions below.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size) };
    match libc::c_int::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

fn descriptor(number: libc::c_int) -> OwnedFd {
    // SAFETY: the kernel has just returned this descriptor to us, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(number) }
}

fn number(fd: &impl AsRawFd) -> u32 {
    u32::try_from(fd.as_raw_fd()).unwrap_or(u32::MAX)
}

fn create_ring() -> io::Result<OwnedFd> {
    let entries = u32::try_from(RING).unwrap_or(u32::MAX);
    bpf(MAP_CREATE, &MapCreate { map_type: RINGBUF, key_size: 0, value_size: 0, max_entries: entries })
        .map(descriptor)
}

fn load(ring: &OwnedFd) -> io::Result<OwnedFd> {
    let instructions = program(ring.as_raw_fd());
    let license = c"Apache-2.0";
    let attributes = ProgLoad {
        prog_type: SOCK_OPS,
        instruction_count: u32::try_from(instructions.len()).unwrap_or(0),
        instructions: instructions.as_ptr().expose_provenance() as u64,
        license: license.as_ptr().expose_provenance() as u64,
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
        kernel_version: 0,
        flags: 0,
        name: [0; 16],
        interface: 0,
        expected_attach_type: CGROUP_SOCK_OPS,
    };
    bpf(PROG_LOAD, &attributes).map(descriptor)
}

/// The first page of the ring: how far its reader has read. Unmapped when dropped.
#[derive(Debug)]
struct Page(*mut libc::c_void);

// SAFETY: it is only read and written as an atomic, and unmapped once.
unsafe impl Send for Page {}

impl Page {
    fn map(ring: &OwnedFd, offset: usize, protection: libc::c_int) -> io::Result<Page> {
        let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: a new mapping of one page at an address of the kernel's choice; nothing of ours is there.
        let at = unsafe {
            libc::mmap(std::ptr::null_mut(), RING, protection, libc::MAP_SHARED, ring.as_raw_fd(), offset)
        };
        if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Page(at)) }
    }

    fn position(&self) -> &AtomicU64 {
        // SAFETY: the mapping is a page long, begins on a page boundary, lives as long as `self`, and begins with a
        // position, which the kernel, too, accesses atomically.
        unsafe { &*self.0.cast::<AtomicU64>() }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: made by `map` with this length; no reference to it outlives `self`.
        unsafe { libc::munmap(self.0, RING) };
    }
}

/// Tells when something begins to listen: its descriptor is readable from then until [`Listens::take`].
#[derive(Debug)]
pub struct Listens {
    ring: OwnedFd,
    consumed: Page,
    produced: Page,
}

impl Listens {
    /// Begins to watch everything below this control group, which is to be the root.
    ///
    /// # Errors
    /// The system's: the kernel lacks this, or we may not do it.
    pub fn watch(cgroup: &Path) -> io::Result<Listens> {
        let ring = create_ring()?;
        let program = load(&ring)?;
        let group = std::fs::File::open(cgroup)?;
        let attach = ProgAttach {
            target: number(&group),
            program: number(&program),
            attach_type: CGROUP_SOCK_OPS,
            flags: 0,
        };
        bpf(PROG_ATTACH, &attach)?;
        // The group keeps the program, and the program the ring.
        let consumed = Page::map(&ring, 0, libc::PROT_READ | libc::PROT_WRITE)?;
        let produced = Page::map(&ring, RING, libc::PROT_READ)?;
        Ok(Listens { ring, consumed, produced })
    }

    /// Takes all notes. Returns whether there were any.
    #[must_use]
    pub fn take(&self) -> bool {
        let produced = self.produced.position().load(Ordering::Acquire);
        self.consumed.position().swap(produced, Ordering::AcqRel) != produced
    }
}

impl AsFd for Listens {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_is_laid_out_as_the_kernel_reads_it() {
        // linux/bpf.h, struct bpf_insn: code, dst and src, off, imm.
        let bytes = instruction(0x7a, 0x0a, -8, 0x0102_0304).to_ne_bytes();
        assert_eq!(bytes, [0x7a, 0x0a, 0xf8, 0xff, 4, 3, 2, 1]);
    }

    #[test]
    fn a_control_group_that_is_none_is_an_error_and_not_a_crash() {
        assert!(Listens::watch(Path::new("/proc")).is_err());
    }
}
