use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use super::*;

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
