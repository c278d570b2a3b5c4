use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use aegis_guest_protocol::changes::Change as HostChange;
use aegis_guest_protocol::frame::HEADER_LEN;

use super::*;
use crate::notifier::Notifier;
use crate::watcher::Watcher;

const MIB: u64 = 1 << 20;

fn export(dir: &tempfile::TempDir, read_only: bool) -> Export {
    let root = File::open(dir.path().join("w")).unwrap();
    let spec = ExportSpec {
        name: dir.path().join("w"),
        descriptor: root.as_raw_fd(),
        read_only,
        limit: None,
        journal: dir.path().join("journal"),
    };
    Export::open(&spec).unwrap()
}

fn look_up(export: &mut Export, name: &str) -> u64 {
    let (mut reply, operation) = (Vec::new(), Operation::Lookup { name: OsStr::new(name) });
    export.answer(&Request { unique: 1, node: ROOT, operation }, &mut reply).unwrap();
    u64::from_ne_bytes(reply[..8].try_into().unwrap())
}

#[test]
fn holes_of_a_file_are_told_also_where_nothing_may_be_written() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("w")).unwrap();
    let file = File::create(dir.path().join("w/sparse")).unwrap();
    file.set_len(64 * MIB).unwrap();
    file.write_all_at(&[7; 4096], 32 * MIB).unwrap();
    std::fs::create_dir(dir.path().join("w/d")).unwrap();
    for read_only in [false, true] {
        let mut export = export(&dir, read_only);
        let (sparse, directory) = (look_up(&mut export, "sparse"), look_up(&mut export, "d"));
        let mut seek = |node, offset, whence| {
            let (mut reply, operation) = (Vec::new(), Operation::Seek { offset, whence });
            let told = export.answer(&Request { unique: 1, node, operation }, &mut reply);
            told.map(|_| u64::from_ne_bytes(reply.try_into().unwrap()))
        };
        assert_eq!(seek(sparse, 0, Whence::Hole), Ok(0));
        assert_eq!(seek(sparse, 0, Whence::Data), Ok(32 * MIB));
        let end = seek(sparse, 32 * MIB, Whence::Hole).unwrap();
        assert!((32 * MIB + 4096..33 * MIB).contains(&end), "{end}");
        assert_eq!(seek(sparse, end, Whence::Data), Err(Errno::NXIO), "a hole up to the end");
        assert_eq!(seek(sparse, 64 * MIB, Whence::Hole), Err(Errno::NXIO), "behind the end");
        assert_eq!(seek(sparse, i64::MAX.cast_unsigned(), Whence::Data), Err(Errno::NXIO));
        assert_eq!(seek(directory, 0, Whence::Data), Err(Errno::INVAL));
        assert_eq!(seek(99, 0, Whence::Data), Err(Errno::STALE));
    }
}

/// What the guest is told of what happens on the host while a request is carried out.
fn told(
    meanwhile: impl Fn(&std::path::Path),
    operation: impl Fn(u64) -> (u64, Operation<'static>),
) -> Vec<HostChange> {
    let dir = tempfile::tempdir().unwrap();
    let w = dir.path().join("w");
    std::fs::create_dir(&w).unwrap();
    std::fs::write(w.join("f"), "x").unwrap();
    std::fs::write(w.join("g"), "y").unwrap();
    let mut exports = [export(&dir, false)];
    let mut telling = Notifier::new(Some(Watcher::new().unwrap()));
    telling.begin(64, &mut exports);
    let (node, operation) = operation(look_up(&mut exports[0], "f"));
    let request = Request { unique: 1, node, operation };
    telling.before(0, &request, &mut exports);
    meanwhile(&w);
    // What was looked at may be another one now.
    let _stale = exports[0].answer(&request, &mut Vec::new());
    let news = exports[0].take_news();
    telling.after(0, &request, &news, &mut exports);
    let frames = std::iter::from_fn(|| telling.next());
    frames.map(|frame| HostChange::decode(&frame[HEADER_LEN..]).unwrap()).collect()
}

#[test]
fn what_a_request_does_is_not_told_and_what_others_do_meanwhile_is() {
    let nothing = |_: &std::path::Path| {};
    let unlink = |_| (ROOT, Operation::Unlink { name: OsStr::new("f") });
    let write = |node| (node, Operation::Write { offset: 0, data: b"new" });
    let look = |node| (node, Operation::GetAttributes);
    assert_eq!(told(nothing, unlink), []);
    assert_eq!(told(nothing, write), []);
    let rename = |w: &std::path::Path| std::fs::rename(w.join("g"), w.join("f")).unwrap();
    let edit = |w: &std::path::Path| std::fs::write(w.join("f"), "edited").unwrap();
    assert!(matches!(&told(rename, look)[..], [HostChange::Moved { replaced: 2.., .. }]));
    assert!(matches!(&told(edit, look)[..], [HostChange::Touched { node: 2.., .. }]));
    let other = told(|w| std::fs::write(w.join("h"), "").unwrap(), unlink);
    assert!(matches!(&other[..], [HostChange::Made { .. }, HostChange::Touched { .. }]), "{other:?}");
}

#[test]
fn another_server_watches_what_the_guest_knows() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("w/d")).unwrap();
    let mut before = export(&dir, false);
    look_up(&mut before, "d");
    drop(before);
    let mut exports = [export(&dir, false)];
    let mut telling = Notifier::new(Some(Watcher::new().unwrap()));
    telling.begin(64, &mut exports);
    std::fs::create_dir(dir.path().join("w/d/e")).unwrap();
    telling.notice(&mut exports);
    let change = HostChange::decode(&telling.next().unwrap()[HEADER_LEN..]);
    assert!(matches!(change, Some(HostChange::Made { at, .. }) if at.path == b"d" && at.name == b"e"));
}
