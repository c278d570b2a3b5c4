//! The real guest: its mounts, devices, clock and processes.

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use aegis_guest_protocol::messages::{DiskUsageReply, Network, Share, code};
use aegis_guest_protocol::rpc::RpcError;
use aegis_harness::platform::{self, Platform};
use aegis_harness::{activity, outbound_sockets};
use aegis_sys::listening::Listens;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change, mount_move, mount_remount};

use crate::cgroup::{self, CGROUPS};
use crate::console_log;
use crate::disk_reserve;
use crate::disks::{self, DiskReport};
use crate::ephemeral_directories::{self, SHARED};
use crate::freezer::CgroupFreezer;
use crate::hostname;
use crate::kernel_modules;
use crate::managed_files::{self, ManagedFiles};
use crate::mount_namespace;
use crate::mount_point_layer::{self, Wanted};
use crate::network_interface;
use crate::overlay_storage::{self, OverlayStorage};
use crate::rootfs_paths;
use crate::share_mounts;
use crate::sysctl;

/// Number of the control port: the host's `nr=`.
pub(crate) const CONTROL: u32 = 1;
/// Number of the bulk port.
pub(crate) const BULK: u32 = 2;

/// For how long the kernel must be able to keep what is in use in memory; it kills something otherwise.
const MIN_TTL: &str = "/sys/kernel/mm/lru_gen/min_ttl_ms";
const MIN_TTL_MS: &str = "1000";
/// How much more than usual the kernel frees when it finds its memory in pieces (`vm.rst` of its documentation). While it does that it
/// kills as if memory were short, with a least age also when most is free (`balance_pgdat` of `mm/vmscan.c`), and panics when it
/// finds nobody.
const BOOST: &str = "/proc/sys/vm/watermark_boost_factor";

/// Where programs find the socket of their own instance.
const OWN_API: &str = "/run/aegis/api.sock";
/// How much of a table is looked at, bytes: one connection is enough to know.
const MOST_TABLE: u64 = 64 << 10;

fn read_some(path: &str) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MOST_TABLE).read_to_string(&mut text)?;
    Ok(text)
}

fn plain() -> MountFlags {
    MountFlags::NOSUID | MountFlags::NODEV
}

fn mount_at(kind: &str, at: &Path, flags: MountFlags, options: &str) -> io::Result<()> {
    rootfs_paths::directory(at)?;
    let options = std::ffi::CString::new(options)?;
    Ok(mount(kind, at, kind, flags, Some(options.as_c_str()))?)
}

/// Mounts what finding the devices needs.
pub(crate) fn mount_early() -> io::Result<()> {
    mount_at("proc", Path::new("/proc"), plain() | MountFlags::NOEXEC, "")?;
    mount_at("sysfs", Path::new("/sys"), plain() | MountFlags::NOEXEC, "")?;
    mount_at("devtmpfs", Path::new("/dev"), MountFlags::NOSUID, "mode=0755")?;
    aegis_sys::guest::own_root()?;
    sysctl::apply();
    // Without one of these a machine lacks something, and comes up.
    let groups = mount_at("cgroup2", Path::new(CGROUPS), plain() | MountFlags::NOEXEC, "");
    network_interface::told("the bound of processes", groups.and_then(|()| cgroup::enter()));
    // A process that floods its pipe fills it before we empty it: each of our turns carries more.
    aegis_sys::guest::yield_to_others()?;
    // Here, so that it has been done in a guest that others are started from.
    let _without_loopback = aegis_sys::guest::loopback_up();
    aegis_sys::guest::protect_memory()
}

/// Most descriptors of a process, here and in everything that is started here: each connection of the host takes one
/// of ours and one of the server's.
const MOST_DESCRIPTORS: u64 = 65_536;

/// Lets this process and its children have many descriptors.
pub(crate) fn allow_many_descriptors() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let limit = Rlimit { current: Some(MOST_DESCRIPTORS), maximum: Some(MOST_DESCRIPTORS) };
    // With fewer there are fewer connections at a time, and that is said then.
    let _fewer = setrlimit(Resource::Nofile, limit);
}

/// The machine that the harness is PID 1 of.
#[derive(Debug)]
pub(crate) struct Guest {
    /// The joined root and then the instance's disk, kept to detach them at the end.
    mounts: RefCell<Vec<OwnedFd>>,
    /// What was written where users may write too.
    record: ManagedFiles,
    /// Makes the other processes stand still.
    freezer: RefCell<CgroupFreezer>,
    /// Whether directories of the host are mounted.
    shares: Cell<bool>,
    /// Disks that were let go of.
    settled: RefCell<DiskReport>,
    /// Whether the root disk is mounted.
    lower: Cell<bool>,
    /// The namespace of mounts to return to.
    home: RefCell<Option<OwnedFd>>,
}

impl Default for Guest {
    fn default() -> Guest {
        let freezer = RefCell::new(CgroupFreezer::new(Path::new(CGROUPS)));
        Guest {
            mounts: RefCell::default(),
            record: ManagedFiles::default(),
            freezer,
            shares: Cell::new(false),
            settled: RefCell::default(),
            lower: Cell::new(false),
            home: RefCell::default(),
        }
    }
}

/// Where the instance's disk is mounted.
const UPPER: &str = "/mnt/upper";
/// Where both are joined.
const ROOT: &str = "/mnt/root";
/// Where the root disk is mounted.
const LOWER: &str = "/mnt/lower";
/// Where mount points are that the root disk lacks.
const POINTS: &str = "/mnt/points";
/// Where an instance's workspace is.
const WORKSPACE: &str = "/workspace";

/// Gives a directory of root to somebody else; what anybody else has made of it stays. A link of the image leads nowhere
/// out of its root.
fn own(path: &str, (uid, gid): (u32, u32)) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let status = fs::metadata(path)?;
    if status.is_dir() && status.uid() == 0 {
        std::os::unix::fs::chown(path, Some(uid), Some(gid))?;
    }
    Ok(())
}

fn unrehearsed(error: io::Error) -> RpcError {
    RpcError::new(code::SYSTEM, format!("no rehearsal: {error}"))
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> RpcError {
    move |error| RpcError::new(code::ROOT, format!("{what}: {error}"))
}

/// Makes the layer with what is mounted in every root, but few images have.
fn lay_mount_points() -> io::Result<()> {
    let modules = kernel_modules::place();
    let own = [Path::new(WORKSPACE), &modules].map(|at| Wanted { at, mode: 0o755, with_parents: true });
    let store = |at| Wanted { at: Path::new(at), mode: overlay_storage::PRIVATE.bits(), with_parents: false };
    let wanted: Vec<Wanted<'_>> =
        own.into_iter().chain(overlay_storage::STORES.into_iter().map(store)).collect();
    mount_point_layer::lay(Path::new(LOWER), Path::new(POINTS), &wanted)
}

impl Guest {
    /// Mounts the root disk with the modules that are on it, unless it has stayed mounted.
    fn mount_lower(&self) -> Result<(), RpcError> {
        if self.lower.replace(true) {
            return Ok(());
        }
        let modules = disks::modules();
        if let Some(disk) = &modules {
            // First, because joining disks takes one of them.
            network_interface::told(kernel_modules::MODPROBE, kernel_modules::mount_image(disk));
        }
        let image = disks::root().map_err(failed("find the root disk"))?;
        fs::create_dir_all(LOWER).map_err(failed("create mount points"))?;
        mount(&image, LOWER, "erofs", MountFlags::RDONLY, None)
            .map_err(|error| failed("mount the root disk")(error.into()))?;
        if modules.is_none() {
            network_interface::told(kernel_modules::MODPROBE, kernel_modules::mount_behind(&image));
        }
        lay_mount_points().map_err(failed("create mount points"))
    }

    fn mount_root(&self) -> Result<(), RpcError> {
        let [upper, root] = [UPPER, ROOT].map(Path::new);
        for dir in [upper, root] {
            fs::create_dir_all(dir).map_err(failed("create mount points"))?;
        }
        self.settled.take().take_up().map_err(failed("take up the disks"))?;
        self.mount_lower()?;
        let data = disks::data().map_err(failed("find the instance's disk"))?;
        mount(&data, upper, "ext4", MountFlags::NOATIME, None)
            .map_err(|error| failed("mount the instance's disk")(error.into()))?;
        // A disk that cannot grow is as good as before.
        network_interface::told("the size of the disk", disks::fill(&data, upper));
        disk_reserve::open(upper);
        for dir in ["root", "work"] {
            fs::create_dir_all(upper.join(dir)).map_err(failed("prepare the instance's disk"))?;
        }
        ephemeral_directories::empty(&upper.join("root"));
        let options = c"lowerdir=/mnt/points:/mnt/lower,upperdir=/mnt/upper/root,workdir=/mnt/upper/work";
        mount("overlay", root, "overlay", MountFlags::NOATIME, Some(options))
            .map_err(|error| failed("join the disks")(error.into()))?;
        // On a full disk nothing is remembered.
        self.record.keep_on(managed_files::open(upper).ok());
        let mut mounts = self.mounts.borrow_mut();
        for dir in [root, upper] {
            let opened = rustix::fs::open(dir, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
            mounts.push(opened.map_err(|error| failed("open the root")(error.into()))?);
        }
        Ok(())
    }
}

/// Mounts the kernel's file systems and the volatile ones in the root, which has been entered: links of an image lead
/// nowhere else.
fn mount_system(modules: Option<OwnedFd>, stores: OverlayStorage) -> io::Result<()> {
    let hard = plain() | MountFlags::NOEXEC;
    let [run, shm] = ["/run", "/dev/shm"].map(ephemeral_directories::open);
    mount_at("proc", Path::new("/proc"), hard, "")?;
    mount_at("sysfs", Path::new("/sys"), hard, "")?;
    mount_at("devtmpfs", Path::new("/dev"), MountFlags::NOSUID, "mode=0755")?;
    let terminals = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount_at("devpts", Path::new("/dev/pts"), terminals, "mode=0620,ptmxmode=0666")?;
    mount_at("tmpfs", Path::new("/dev/shm"), plain(), "mode=1777")?;
    mount_at("tmpfs", Path::new("/run"), plain(), "mode=0755")?;
    mount_at("cgroup2", Path::new(CGROUPS), hard, "")?;
    for (link, target) in [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")]
    {
        match std::os::unix::fs::symlink(target, Path::new("/dev").join(link)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    // A machine whose disk is full, or whose image has too much there, comes up all the same.
    for (at, done) in [
        ("/lib/modules", kernel_modules::show(modules)),
        ("/var/lib", stores.show()),
        ("/run", ephemeral_directories::copy(run, Path::new("/run"), None)),
        // Everybody's, as it is under every engine: images have it by accident.
        ("/dev/shm", ephemeral_directories::copy(shm, Path::new("/dev/shm"), Some(SHARED))),
        ("/tmp", ephemeral_directories::share(Path::new("/tmp"))),
        (WORKSPACE, rootfs_paths::directory(Path::new(WORKSPACE))),
    ] {
        network_interface::told(at, done);
    }
    // As every distribution has it: containers within see what is mounted later.
    Ok(mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC)?)
}

/// Makes `root` the root of this process and all it will start. The initramfs is gone for good.
fn enter(root: &Path) -> io::Result<()> {
    std::env::set_current_dir(root)?;
    mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    std::env::set_current_dir("/")
}

impl Platform for Guest {
    fn prepare_root(&self, hostname: &str) -> Result<(), RpcError> {
        self.mount_root()?;
        let modules = kernel_modules::open();
        let stores = OverlayStorage::open(Path::new(UPPER), Path::new(ROOT));
        enter(Path::new(ROOT)).map_err(failed("enter the root"))?;
        mount_system(modules, stores).map_err(failed("mount the system's file systems"))?;
        hostname::give(hostname, &self.record).map_err(failed("give the machine its host name"))?;
        // Best effort: an older kernel lacks both.
        if fs::write(BOOST, "0").is_ok() {
            let _thrashes = fs::write(MIN_TTL, MIN_TTL_MS);
        }
        Ok(())
    }

    fn settle(&self) -> Result<(), RpcError> {
        *self.settled.borrow_mut() = DiskReport::all().map_err(failed("let go of the disks"))?;
        Ok(())
    }

    fn prewarm(&self) -> Result<(), RpcError> {
        self.settled.take().take_up().map_err(failed("take up the disks"))?;
        // Here, so that it stays, and with it what has been read.
        self.mount_lower()?;
        *self.home.borrow_mut() = Some(mount_namespace::enter().map_err(unrehearsed)?);
        Ok(())
    }

    fn forget(&self) -> Result<(), RpcError> {
        // They would keep the file systems, and so the disks.
        self.mounts.take();
        self.record.keep_on(None);
        // A machine without a card has none to take down.
        let _none = network_interface::take_down();
        let home = self.home.take().ok_or_else(|| unrehearsed(io::ErrorKind::NotFound.into()))?;
        mount_namespace::leave(&home).map_err(unrehearsed)?;
        *self.settled.borrow_mut() = DiskReport::data().map_err(failed("let go of the disk"))?;
        Ok(())
    }

    fn expect_copies(&self) {
        hostname::prepare();
    }

    fn reidentify(&self, hostname: &str) -> Result<(), RpcError> {
        hostname::change(hostname, &self.record)
            .map_err(|error| RpcError::new(code::SYSTEM, format!("the machine cannot be renamed: {error}")))
    }

    fn connect(&self, network: &Network) -> Result<(), RpcError> {
        network_interface::set_up(network, &self.record).map_err(|error| {
            RpcError::new(code::SYSTEM, format!("the network card cannot be set up: {error}"))
        })
    }

    fn set_groups(&self, groups: &[(Ipv4Addr, u8)]) -> Result<(), RpcError> {
        network_interface::set_groups(groups).map_err(|error| {
            RpcError::new(code::SYSTEM, format!("the network card does not take its addresses: {error}"))
        })
    }

    fn mount_shares(&self, all: &[Share], owner: (u32, u32)) -> Result<(), RpcError> {
        self.shares.set(!all.is_empty());
        if owner.0 != 0 && all.iter().all(|share| share.at != WORKSPACE) {
            network_interface::told(WORKSPACE, own(WORKSPACE, owner));
        }
        share_mounts::mount_all(all, owner)?;
        // Here, where everything is in its place. What a full disk has no room for is kept another time.
        let _less = self.mounts.borrow().last().map(disk_reserve::keep);
        Ok(())
    }

    fn abandon_shares(&self) {
        if self.shares.get() {
            share_mounts::abandon();
        }
    }

    fn listens(&self) -> Option<Listens> {
        Listens::watch(Path::new(CGROUPS))
            .inspect_err(|error| {
                console_log::print(&format!("aegis-harness: cannot see what listens: {error}"))
            })
            .ok()
    }

    fn busy_ms(&self) -> Option<u64> {
        fs::read_to_string("/proc/stat").ok().as_deref().and_then(activity::busy_ms)
    }

    fn outward_connections(&self) -> u32 {
        let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
        tables.iter().map(|table| read_some(table).map_or(0, |text| outbound_sockets::outward(&text))).sum()
    }

    fn own_api(&self) -> Option<PathBuf> {
        Some(PathBuf::from(OWN_API))
    }

    fn freeze(&self, frozen: bool) {
        let mut freezer = self.freezer.borrow_mut();
        if frozen { freezer.freeze() } else { freezer.thaw() }
    }

    fn disk_usage(&self) -> io::Result<DiskUsageReply> {
        let status = rustix::fs::statvfs("/")?;
        let used = status.f_blocks.saturating_sub(status.f_bfree);
        // As df(1) counts: what the file system keeps for itself is not for files.
        let total = used.saturating_add(status.f_bavail);
        Ok(DiskUsageReply {
            used_bytes: used.saturating_mul(status.f_frsize),
            total_bytes: total.saturating_mul(status.f_frsize),
            used_inodes: status.f_files.saturating_sub(status.f_ffree),
            total_inodes: status.f_files,
        })
    }

    fn start(&self, start: &mut dyn FnMut() -> io::Result<u32>) -> io::Result<u32> {
        cgroup::start(start)
    }

    fn set_clock(&self, unix_time_ns: u64) {
        platform::set_clock(unix_time_ns);
    }

    fn add_entropy(&self, bytes: &[u8]) {
        platform::add_entropy(bytes);
    }

    fn oom_kills(&self) -> u64 {
        let counters = fs::read_to_string("/proc/vmstat").unwrap_or_default();
        let count = counters.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }

    fn signal_everyone(&self, _groups: &[u32], signal: i32) {
        let _none = aegis_sys::guest::signal_everyone(signal);
    }

    fn anyone_left(&self, _groups: &[u32]) -> bool {
        // Kernel threads have no command line; a zombie has none either.
        let Ok(processes) = fs::read_dir("/proc") else { return false };
        processes.flatten().filter(|entry| entry.file_name() != "1").any(|entry| {
            let numeric = entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit());
            numeric && fs::read(entry.path().join("cmdline")).is_ok_and(|line| !line.is_empty())
        })
    }

    fn release_root(&self) -> bool {
        if self.shares.get() {
            share_mounts::settle();
        }
        rustix::fs::sync();
        let mounts = self.mounts.take();
        mounts.iter().all(|mount| {
            let path = format!("/proc/self/fd/{}", mount.as_raw_fd());
            mount_remount(path.as_str(), MountFlags::RDONLY, "").is_ok()
        })
    }
}
