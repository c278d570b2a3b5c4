//! What the fuzzer drives; see `fuzz/`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use aegis_fuzz::{Bytes, Fence, Target, scratch};
use aegis_guest_protocol::changes::{Change, WINDOW};
use aegis_guest_protocol::frame::HEADER_LEN;

use crate::export::Export;
use crate::fuse_request::{self, IN_HEADER, Operation};
use crate::inode_table::{InodeTable, Key, Place, ROOT};
use crate::notifier::Notifier;
use crate::watcher::Watcher;
use crate::{ExportSpec, Limit, inode_journal};

/// Most that may be in a directory with a limit, bytes.
const LIMIT: u64 = 256 << 10;

/// A request.
///
/// # Panics
/// If one is taken whose names are not those of files in a directory.
pub fn request(bytes: &[u8]) {
    let Ok(Ok(request)) = fuse_request::parse(bytes) else { return };
    let (first, second) = match request.operation {
        Operation::Lookup { name }
        | Operation::SymLink { name, .. }
        | Operation::MakeNode { name, .. }
        | Operation::MakeDirectory { name, .. }
        | Operation::Unlink { name }
        | Operation::RemoveDirectory { name }
        | Operation::Link { name, .. }
        | Operation::Create { name, .. } => (name, name),
        Operation::Rename { name, new_name, .. } => (name, new_name),
        _ => return,
    };
    for name in [first, second] {
        let bytes = name.as_bytes();
        assert!(
            !bytes.is_empty() && bytes != b"." && bytes != b".." && bytes.len() <= fuse_request::MOST_NAME
        );
        assert!(!bytes.contains(&b'/') && !bytes.contains(&0));
    }
}

fn root() -> Key {
    Key { device: 1, inode: 1, born: 0 }
}

/// A journal.
///
/// # Panics
/// If what it tells cannot be written down, or is something else when it is read again.
pub fn told(bytes: &[u8]) {
    let mut nodes = InodeTable::new(root());
    assert!(inode_journal::replay(bytes, &mut nodes) <= bytes.len() as u64);
    assert_eq!(nodes.key(ROOT), Some(root()));
    let mut again = InodeTable::new(root());
    nodes.all().into_iter().for_each(|change| again.apply(change));
    assert_eq!(again.len(), nodes.len());
}

/// What a kernel does with nodes: finds, forgets, moves and loses them.
///
/// # Panics
/// If a number stands for two files, or a table cannot be written down.
pub fn nodes(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    let mut nodes = InodeTable::new(root());
    let name =
        |byte: u8| OsStr::from_bytes(["a", "b", "c", "d"][usize::from(byte & 3)].as_bytes()).to_owned();
    while !bytes.0.is_empty() {
        let (step, parent, other) =
            (bytes.byte(), u64::from(bytes.byte() & 15), u64::from(bytes.byte() & 15));
        let (one, two) = (bytes.byte(), bytes.byte());
        let place = |parent, byte| Place { parent, name: name(byte) };
        match step % 5 {
            0 => {
                let key = Key { device: 1, inode: u64::from(two & 7) + 2, born: 0 };
                if let Ok(id) = nodes.found(parent, &name(one), key) {
                    assert_eq!(nodes.key(id), Some(key));
                }
            }
            1 => drop(nodes.gone(parent, &name(one))),
            2 => nodes.moved(place(parent, one), place(other, two)),
            3 => nodes.exchanged(place(parent, one), place(other, two)),
            _ => drop(nodes.forget(parent, u64::from(one))),
        }
        assert_eq!(nodes.key(ROOT), Some(root()));
        let _within = nodes.is_within(parent, other);
        let _places = nodes.places(parent);
        // What is written down makes the same table.
        let mut again = InodeTable::new(root());
        nodes.all().into_iter().for_each(|change| again.apply(change));
        assert_eq!(again.len(), nodes.len());
        assert!((0..16).all(|id| again.key(id) == nodes.key(id)));
    }
}

/// A request in short: opcode, node, and its body with a length before it.
fn message(opcode: u8, node: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(IN_HEADER + body.len()).unwrap_or(0);
    let mut message = [len.to_ne_bytes(), u32::from(opcode).to_ne_bytes()].concat();
    message.extend(7u64.to_ne_bytes());
    message.extend(u64::from(node).to_ne_bytes());
    message.extend([0; 16]);
    message.extend(body);
    message
}

/// Somebody else puts a link out of the directory in the place of another directory, and that back.
fn exchange(fence: &Fence) {
    let (there, aside) = (fence.inside().join("d"), fence.inside().join("aside"));
    // What is not there any more cannot be exchanged.
    let _absent = if aside.symlink_metadata().is_ok() {
        fs::remove_file(&there).and_then(|()| fs::rename(aside, there))
    } else {
        fs::rename(&there, aside).and_then(|()| symlink("../outside/d", there))
    };
}

/// Takes what the guest is told: changes of what is in the directory, and never more than it said it would take.
fn hear(telling: &mut Notifier, taken: u8, fence: &Fence) {
    let frames: Vec<Vec<u8>> = std::iter::from_fn(|| telling.next()).collect();
    assert!(frames.len() <= WINDOW as usize);
    for frame in frames {
        assert!(Change::decode(frame.get(HEADER_LEN..).unwrap_or_default()).is_some());
        fence.check_shown(&frame);
    }
    telling.take(taken.into());
}

/// Requests to an export, which somebody else changes meanwhile. The first byte says whether it may be written, whether it
/// has a limit, and whether the guest is told of changes.
///
/// # Panics
/// If anything outside its directory is changed or shown, or anything at all where nothing may be written.
pub fn export(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    let mode = bytes.byte();
    let read_only = mode & 1 == 1;
    let fence = Fence::new();
    let Ok(own) = tempfile::tempdir_in(scratch()) else { return };
    let Ok(dir) = File::open(fence.inside()) else { return };
    let spec = ExportSpec {
        name: fence.inside(),
        descriptor: dir.as_raw_fd(),
        read_only,
        limit: (mode & 2 == 2).then(|| Limit { bytes: LIMIT, ledger: own.path().join("ledger") }),
        journal: own.path().join("journal"),
    };
    let mut exports = [Export::open(&spec).unwrap_or_else(|error| panic!("{error}"))];
    let mut telling = Notifier::new(Watcher::new().ok().filter(|_| mode & 4 == 4));
    telling.begin(u32::MAX, &mut exports);
    let mut reply = Vec::new();
    while !bytes.0.is_empty() {
        let (opcode, node, len) = (bytes.byte(), bytes.byte(), bytes.byte());
        let body = bytes.take(len.into());
        if opcode == u8::MAX {
            if !read_only {
                exchange(&fence);
            }
            continue;
        }
        let message = message(opcode, node, body);
        let Ok(Ok(request)) = fuse_request::parse(&message) else { continue };
        // A hole of many bytes is made and read at once; here nobody is to wait for that.
        if let Operation::Write { offset, .. } | Operation::Allocate { offset, .. } = request.operation
            && offset > 1 << 30
        {
            continue;
        }
        reply.clear();
        telling.before(0, &request, &mut exports);
        let [export] = &mut exports;
        let _refused = export.answer(&request, &mut reply);
        let news = export.take_news();
        telling.after(0, &request, &news, &mut exports);
        fence.check_shown(&reply);
        hear(&mut telling, node, &fence);
    }
    drop(exports);
    if read_only {
        fence.check_untouched();
    }
    fence.check();
    // Another server goes on from what this one has written down.
    drop(Export::open(&spec));
}

/// All of them by name; the seeds of each are in `fuzz/seeds/NAME`.
pub const TARGETS: [(&str, Target); 4] = [
    ("workspace-request", request),
    ("workspace-journal", told),
    ("workspace-nodes", nodes),
    ("workspace-export", export),
];

#[cfg(test)]
mod tests {
    #[test]
    fn seeds() {
        aegis_fuzz::replay(&super::TARGETS);
    }
}
