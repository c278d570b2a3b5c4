//! What the harness does to the machine itself, behind a trait: the real guest, or a host that runs the tests.

use std::fmt::Debug;
use std::fs::File;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::PathBuf;

use aegis_guest_protocol::messages::{DiskUsageReply, Network, Share, code};
use aegis_guest_protocol::rpc::RpcError;
use aegis_sys::listening::Listens;

/// The machine that the harness runs.
pub trait Platform: Debug {
    /// Mounts the root file system and makes it the root of everything, under the given host name. Called once.
    ///
    /// # Errors
    /// [`aegis_guest_protocol::messages::code::ROOT`] with what failed.
    fn prepare_root(&self, hostname: &str) -> Result<(), RpcError>;

    /// Lets go of the disks, which will be others when the root is prepared. Called before that, if at all.
    ///
    /// # Errors
    /// [`code::ROOT`] with what failed.
    fn settle(&self) -> Result<(), RpcError> {
        Err(RpcError::new(code::ROOT, "this guest has no disks"))
    }

    /// Begins what [`forget`](Platform::forget) ends: until then everything happens in a mount namespace of its own, but that the
    /// root disk is mounted. Called before the root is prepared, if at all.
    ///
    /// # Errors
    /// [`code::SYSTEM`] with what failed.
    fn prewarm(&self) -> Result<(), RpcError> {
        Err(RpcError::new(code::SYSTEM, "this guest does not rehearse"))
    }

    /// Leaves nothing of what has happened since [`prewarm`](Platform::prewarm), and lets go of the instance's disk,
    /// which will be another one. All that was started has ended.
    ///
    /// # Errors
    /// [`code::SYSTEM`] with what failed; then something may be left.
    fn forget(&self) -> Result<(), RpcError> {
        Ok(())
    }

    /// Does what it can so that copies of this machine become others quickly.
    fn expect_copies(&self) {}

    /// Takes the names and numbers of another instance, which this machine is to be from now on.
    ///
    /// # Errors
    /// [`code::SYSTEM`] with what failed.
    fn reidentify(&self, _hostname: &str) -> Result<(), RpcError> {
        Err(RpcError::new(code::SYSTEM, "this guest cannot be another"))
    }

    /// Sets up the network card. Called once, when the root is there; without a network there is none.
    ///
    /// # Errors
    /// [`code::SYSTEM`] with what failed.
    fn connect(&self, _network: &Network) -> Result<(), RpcError> {
        Ok(())
    }

    /// Gives the network card these addresses beside its own, and no others.
    ///
    /// # Errors
    /// [`code::SYSTEM`] with what failed.
    fn set_groups(&self, _groups: &[(Ipv4Addr, u8)]) -> Result<(), RpcError> {
        Ok(())
    }

    /// Mounts directories of the host, as belonging to this user and group, who also gets a workspace that is none of
    /// them. Called once, when the root is there.
    ///
    /// # Errors
    /// [`aegis_guest_protocol::messages::code::SHARE`] with what failed.
    fn mount_shares(&self, shares: &[Share], _owner: (u32, u32)) -> Result<(), RpcError> {
        match shares {
            [] => Ok(()),
            [first, ..] => Err(RpcError::new(code::SHARE, format!("{} cannot be mounted here", first.at))),
        }
    }

    /// Lets go of directories of the host, so that nobody waits for them any more.
    fn abandon_shares(&self) {}

    /// Tells when something begins to listen; `None` if the kernel cannot. Called once, when the root is there.
    fn listens(&self) -> Option<Listens>;

    /// How much the machine has worked since its boot, over all processors, milliseconds; `None` if that is not to be
    /// known.
    fn busy_ms(&self) -> Option<u64>;

    /// How many connections its programs have opened to somewhere outside.
    fn outward_connections(&self) -> u32;

    /// Where programs of the guest find the socket of their own instance; `None` for nowhere.
    fn own_api(&self) -> Option<PathBuf>;

    /// How full the instance's disk is.
    ///
    /// # Errors
    /// The system's.
    fn disk_usage(&self) -> io::Result<DiskUsageReply> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Starts a process for the host by calling `start`, which returns its number; again where there is room for it, if
    /// the first call finds none.
    ///
    /// # Errors
    /// Those of the last call.
    fn start(&self, start: &mut dyn FnMut() -> io::Result<u32>) -> io::Result<u32> {
        start()
    }

    /// Makes all processes but the harness stand still, without their noticing; or lets them go on.
    fn freeze(&self, frozen: bool);

    /// Writes everything to disk.
    fn sync(&self) {
        rustix::fs::sync();
    }

    /// Sets the wall clock, nanoseconds since 1970.
    fn set_clock(&self, unix_time_ns: u64);

    /// Stirs bytes into the kernel's random pool.
    fn add_entropy(&self, bytes: &[u8]);

    /// How many processes the kernel has killed for want of memory.
    fn oom_kills(&self) -> u64;

    /// Sends a signal to every process; `groups` are those that the host started.
    fn signal_everyone(&self, groups: &[u32], signal: i32);

    /// Whether any process but the harness is left; zombies that nobody has reaped do not count.
    fn anyone_left(&self, groups: &[u32]) -> bool;

    /// Writes everything to disk and detaches the file systems. Returns whether they are clean.
    fn release_root(&self) -> bool;
}

/// Sets the kernel's clock.
pub fn set_clock(unix_time_ns: u64) {
    use rustix::time::{ClockId, Timespec, clock_settime};
    let (Ok(seconds), Ok(nanoseconds)) =
        (i64::try_from(unix_time_ns / 1_000_000_000), i64::try_from(unix_time_ns % 1_000_000_000))
    else {
        return;
    };
    // A clock that cannot be set stays as it is; nothing can be done about it from here.
    let _unset = clock_settime(ClockId::Realtime, Timespec { tv_sec: seconds, tv_nsec: nanoseconds });
}

/// Mixes bytes into the kernel's pool and makes its generator use them at once.
pub fn add_entropy(bytes: &[u8]) {
    if let Ok(mut pool) = File::options().write(true).open("/dev/urandom") {
        let _unmixed = pool.write_all(bytes).and_then(|()| aegis_sys::guest::reseed(&pool));
    }
}
