//! Whether the host's `/dev/kvm` executes an ordinary 64-bit guest.
//!
//! A host may offer the whole of KVM's interface (`Documentation/virt/kvm/api.rst` of Linux) and still not execute what every
//! operating system consists of: where virtualisation is nested without the processor's help, `SYSCALL` was seen to arrive in
//! the kernel's code with the rights of the program. No flag tells, so one such call is made.

use std::fmt;
use std::path::Path;

/// Why `/dev/kvm` is of no use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KvmFault {
    /// It cannot be opened; the system's words.
    Closed(String),
    /// A call that every monitor makes fails.
    Refused {
        /// Name of the call.
        call: &'static str,
        /// The system's words.
        error: String,
    },
    /// A program's system call does not arrive in its kernel; how the machine ended instead.
    SystemCall(String),
}

impl fmt::Display for KvmFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KvmFault::Closed(error) => write!(f, "/dev/kvm cannot be opened: {error}"),
            KvmFault::Refused { call, error } => {
                write!(f, "/dev/kvm is there, but {call} fails: {error}")
            }
            KvmFault::SystemCall(end) => {
                write!(
                    f,
                    "/dev/kvm is there, but a system call in a machine does not arrive in its kernel ({end})"
                )
            }
        }
    }
}

impl std::error::Error for KvmFault {}

/// Names the call in the error of its result.
fn made<T>(call: &'static str, result: Result<T, kvm_ioctls::Error>) -> Result<T, KvmFault> {
    result.map_err(|error| KvmFault::Refused {
        call,
        error: std::io::Error::from_raw_os_error(error.errno()).to_string(),
    })
}

/// Makes a machine of a few pages and, on x86-64, has a program in it call its kernel.
///
/// Takes some milliseconds. A `/dev/kvm` that is broken may keep the processor busy for good: bound the process that calls
/// this (`RLIMIT_CPU`).
///
/// # Errors
/// What is wrong with it.
pub fn try_kvm(device: &Path) -> Result<(), KvmFault> {
    let path = std::ffi::CString::new(std::os::unix::ffi::OsStrExt::as_bytes(device.as_os_str()));
    let path = path.map_err(|error| KvmFault::Closed(error.to_string()))?;
    let closed = |error: kvm_ioctls::Error| std::io::Error::from_raw_os_error(error.errno()).to_string();
    let kvm = kvm_ioctls::Kvm::new_with_path(path).map_err(|error| KvmFault::Closed(closed(error)))?;
    let machine = made("KVM_CREATE_VM", kvm.create_vm())?;
    trial::run(&kvm, &machine)
}

#[cfg(not(target_arch = "x86_64"))]
mod trial {
    use super::{KvmFault, made};

    /// On other architectures the interface has not been seen to promise what it does not keep.
    pub(super) fn run(_kvm: &kvm_ioctls::Kvm, machine: &kvm_ioctls::VmFd) -> Result<(), KvmFault> {
        made("KVM_CREATE_VCPU", machine.create_vcpu(0)).map(drop)
    }
}

#[cfg(target_arch = "x86_64")]
mod trial {
    use std::ptr::NonNull;

    use kvm_bindings::{
        KVM_MAX_CPUID_ENTRIES, Msrs, kvm_msr_entry, kvm_segment, kvm_sregs, kvm_userspace_memory_region,
    };
    use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};

    use super::{KvmFault, made};

    const PAGE: usize = 4096;
    /// Physical addresses of the trial's pages; virtual ones are the same. The four levels of page tables come first.
    const TABLES: [usize; 4] = [0x1000, 0x2000, 0x3000, 0x4000];
    const PROGRAM: usize = 0x5000;
    const KERNEL: usize = 0x6000;
    const SIZE: usize = 0x8000;

    /// Bits of entries of page tables (Intel SDM, volume 3, 4.5).
    const PRESENT: u64 = 1;
    const WRITABLE: u64 = 1 << 1;
    const USER: u64 = 1 << 2;

    /// `syscall`
    const SYSCALL: [u8; 2] = [0x0f, 0x05];
    /// `hlt`, which the kernel alone may execute, and which ends the trial.
    const HLT: [u8; 1] = [0xf4];

    /// CR0: PE, ET, NE, WP, PG. CR4: PAE. EFER: SCE, LME, LMA, NXE (Intel SDM, volume 3, 2.2.1 and 2.5).
    const CR0: u64 = 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31;
    const CR4: u64 = 1 << 5;
    const EFER: u64 = 1 | 1 << 8 | 1 << 10 | 1 << 11;

    /// Selectors and what `SYSCALL` takes from `MSR_STAR`.
    const KERNEL_CODE: u16 = 0x10;
    const USER_CODE: u16 = 0x33;
    const USER_DATA: u16 = 0x2b;
    const MSR_STAR: u32 = 0xc000_0081;
    const MSR_LSTAR: u32 = 0xc000_0082;
    const MSR_SYSCALL_MASK: u32 = 0xc000_0084;

    /// Memory of a machine, which lives longer than that does.
    struct Memory(NonNull<u8>);

    impl Memory {
        fn new() -> Result<Memory, KvmFault> {
            let (protection, flags) =
                (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            // SAFETY: asks for new memory at no address in particular.
            let memory = unsafe { libc::mmap(std::ptr::null_mut(), SIZE, protection, flags, -1, 0) };
            let memory = if memory == libc::MAP_FAILED { None } else { NonNull::new(memory.cast()) };
            let error = || std::io::Error::last_os_error().to_string();
            memory.map(Memory).ok_or_else(|| KvmFault::Refused { call: "mmap", error: error() })
        }

        /// Writes bytes; those beyond the end are left out.
        fn write(&mut self, at: usize, bytes: &[u8]) {
            let room = SIZE.saturating_sub(at).min(bytes.len());
            // SAFETY: `at` and the `room` bytes from there on lie within the mapping, and nobody else has it.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.as_ptr().add(at.min(SIZE)), room) };
        }
    }

    impl Drop for Memory {
        fn drop(&mut self) {
            // SAFETY: mapped by `new` with this size, and the machine is gone.
            unsafe { libc::munmap(self.0.as_ptr().cast(), SIZE) };
        }
    }

    /// What the machine's memory holds: page tables, a program that calls its kernel, and the kernel.
    fn fill(memory: &mut Memory) {
        let next = [TABLES[1], TABLES[2], TABLES[3]];
        for (table, next) in TABLES.into_iter().zip(next) {
            memory.write(table, &(next as u64 | PRESENT | WRITABLE | USER).to_le_bytes());
        }
        for (page, rights) in [(PROGRAM, USER), (KERNEL, 0)] {
            let entry = page as u64 | PRESENT | WRITABLE | rights;
            memory.write(TABLES[3] + page / PAGE * size_of::<u64>(), &entry.to_le_bytes());
        }
        memory.write(PROGRAM, &SYSCALL);
        memory.write(KERNEL, &HLT);
    }

    /// A program's segment; flat, as all are in 64-bit mode.
    fn segment(selector: u16, code: bool) -> kvm_segment {
        kvm_segment {
            base: 0,
            limit: u32::MAX,
            selector,
            type_: if code { 11 } else { 3 },
            present: 1,
            dpl: 3,
            db: u8::from(!code),
            s: 1,
            l: u8::from(code),
            g: 1,
            ..kvm_segment::default()
        }
    }

    /// The processor in 64-bit mode, executing the program.
    fn in_program(before: kvm_sregs) -> kvm_sregs {
        let data = segment(USER_DATA, false);
        kvm_sregs {
            cs: segment(USER_CODE, true),
            ss: data,
            ds: data,
            es: data,
            fs: data,
            gs: data,
            cr0: CR0,
            cr3: TABLES[0] as u64,
            cr4: CR4,
            efer: EFER,
            ..before
        }
    }

    fn set_up(kvm: &Kvm, processor: &VcpuFd) -> Result<(), KvmFault> {
        let known = made("KVM_GET_SUPPORTED_CPUID", kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES))?;
        made("KVM_SET_CPUID2", processor.set_cpuid2(&known))?;
        let before = made("KVM_GET_SREGS", processor.get_sregs())?;
        made("KVM_SET_SREGS", processor.set_sregs(&in_program(before)))?;
        let mut registers = made("KVM_GET_REGS", processor.get_regs())?;
        (registers.rip, registers.rflags) = (PROGRAM as u64, 2);
        made("KVM_SET_REGS", processor.set_regs(&registers))?;
        let star = u64::from(USER_CODE - 16) << 48 | u64::from(KERNEL_CODE) << 32;
        let all = [(MSR_STAR, star), (MSR_LSTAR, KERNEL as u64), (MSR_SYSCALL_MASK, 0)];
        let all = all.map(|(index, data)| kvm_msr_entry { index, data, ..kvm_msr_entry::default() });
        let all = Msrs::from_entries(&all);
        let all =
            all.map_err(|error| KvmFault::Refused { call: "KVM_SET_MSRS", error: format!("{error:?}") })?;
        made("KVM_SET_MSRS", processor.set_msrs(&all)).map(drop)
    }

    pub(super) fn run(kvm: &Kvm, machine: &VmFd) -> Result<(), KvmFault> {
        let mut memory = Memory::new()?;
        fill(&mut memory);
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: SIZE as u64,
            userspace_addr: memory.0.as_ptr() as u64,
        };
        // SAFETY: the memory is mapped with this size, nobody else uses it from here on, and no processor of the machine
        // executes when this function has returned: the only one is dropped before the memory is.
        made("KVM_SET_USER_MEMORY_REGION", unsafe { machine.set_user_memory_region(region) })?;
        let mut processor = made("KVM_CREATE_VCPU", machine.create_vcpu(0))?;
        set_up(kvm, &processor)?;
        let end = match made("KVM_RUN", processor.run())? {
            VcpuExit::Hlt => None,
            VcpuExit::Shutdown => Some("the machine shut down".to_owned()),
            other => Some(format!("{other:?}")),
        };
        let code = made("KVM_GET_SREGS", processor.get_sregs())?.cs;
        match end {
            None if code.dpl == 0 && code.selector == KERNEL_CODE => Ok(()),
            None => Err(KvmFault::SystemCall(format!("its code segment is {:#x}", code.selector))),
            Some(end) => Err(KvmFault::SystemCall(end)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_kvm_is_said_to_be_none() {
        let absent = try_kvm(Path::new("/nonexistent/kvm"));
        assert!(matches!(absent, Err(KvmFault::Closed(_))), "{absent:?}");
        let other = try_kvm(Path::new("/dev/null"));
        assert!(matches!(other, Err(KvmFault::Refused { call: "KVM_CREATE_VM", .. })), "{other:?}");
    }
}
