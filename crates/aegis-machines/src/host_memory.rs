//! Memory of the host: how much there is, and how much a machine needs.

/// Memory that must stay available to the host besides what a guest needs to boot, MiB.
const HOST_RESERVE_MIB: u64 = 128;
/// What a guest touches until its command runs, MiB; the rest of its memory it takes when it needs it.
const GUEST_FOOTPRINT_MIB: u64 = 96;

/// Memory of the host, MiB.
#[must_use]
pub fn host_memory_mib() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(u64::from(info.mem_unit)) >> 20
}

/// Memory that the host could give away now, MiB.
#[must_use]
pub fn available_memory_mib() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? >> 10)
}

/// Memory that the host must have for a machine of this size, MiB.
#[must_use]
pub fn needed_mib(memory_mib: u32) -> u64 {
    HOST_RESERVE_MIB + GUEST_FOOTPRINT_MIB.min(memory_mib.into())
}
