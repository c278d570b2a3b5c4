//! The directories of the host that the guest is shown: mounted, written out at the end, given up.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use aegis_guest_protocol::changes::{Hello, WINDOW};
use aegis_guest_protocol::messages::{Share, code};
use aegis_guest_protocol::rpc::RpcError;
use rustix::mount::{MountFlags, OpenTreeFlags, mount, mount_remount, open_tree};

use crate::fuse_notify::{self, MountedExport};
use crate::fuse_transport::start;
use crate::rootfs_paths;
use crate::threads::spawn;

/// How long what is not yet written may take to be, at the end.
const LAST_WRITES: Duration = Duration::from_secs(3);
/// Where the kernel lets go of a mount whose server does not answer.
const CONNECTIONS: &str = "/sys/fs/fuse/connections";

fn failed(what: impl std::fmt::Display) -> impl Fn(io::Error) -> RpcError {
    move |error| RpcError::new(code::SHARE, format!("{what}: {error}"))
}

/// Mounts directories of the host. Whoever uses them waits until the server is there.
pub(crate) fn mount_all(shares: &[Share], (uid, gid): (u32, u32)) -> Result<(), RpcError> {
    if shares.is_empty() {
        return Ok(());
    }
    let hello = serde_json::to_vec(&Hello { uid, gid, changes: WINDOW });
    let hello = hello.map_err(|error| failed("serve files")(error.into()))?;
    let traffic = start(shares.len(), hello).map_err(failed("serve files"))?;
    let mut own = Vec::new();
    for (index, (share, mount)) in (0u32..).zip(shares.iter().zip(&traffic.mounts)) {
        let failed = failed(format!("mount {}", share.at));
        // It may be in one that was mounted just now, and then the server makes it.
        rootfs_paths::reach(Path::new(&share.at)).map_err(&failed)?;
        let root = mount_one(share, mount).map_err(&failed)?;
        own.push(MountedExport { device: mount.try_clone().map_err(&failed)?, root });
        let (traffic, mount) = (Arc::clone(&traffic), mount.try_clone().map_err(&failed)?);
        spawn("requests", move || traffic.carry(index, &mount)).map_err(&failed)?;
    }
    spawn("changes", move || {
        fuse_notify::repeat(&traffic.changes, own, |server, count| traffic.taken(server, count))
    })
    .map_err(failed("serve files"))
}

/// Mounts a directory where it is wanted. Returns a mount of the same, for reference, that nobody sees, and that may be
/// written: nothing is written to the host through it.
fn mount_one(share: &Share, device: &OwnedFd) -> io::Result<OwnedFd> {
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other",
        device.as_raw_fd()
    );
    let options = std::ffi::CString::new(options)?;
    let (at, flags) = (share.at.as_str(), MountFlags::NOSUID | MountFlags::NODEV);
    mount("aegis", at, "fuse.aegis", flags, Some(options.as_c_str()))?;
    let own = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let root = open_tree(rustix::fs::CWD, at, own)?;
    if share.read_only {
        mount_remount(at, flags | MountFlags::BIND | MountFlags::RDONLY, "")?;
    }
    Ok(root)
}

/// Writes what is not yet written. A server that does not answer is given up.
pub(crate) fn settle() {
    let (done, when_done) = mpsc::channel();
    let written = spawn("sync", move || {
        rustix::fs::sync();
        // Nobody may wait any more.
        let _late = done.send(());
        Ok(())
    });
    if written.is_err() || when_done.recv_timeout(LAST_WRITES).is_err() {
        abandon();
    }
}

/// Fails whatever waits for the server, now and later.
pub(crate) fn abandon() {
    let control = Path::new(CONNECTIONS);
    // It may be mounted already; if it cannot be, nothing more can be done from here.
    let _mounted = mount("fusectl", control, "fusectl", MountFlags::empty(), None);
    for connection in fs::read_dir(control).into_iter().flatten().flatten() {
        let _gone = fs::write(connection.path().join("abort"), "1");
    }
}
