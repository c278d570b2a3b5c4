//! Trees that change while they are copied, what the kernel makes up, holes, and copies that are broken off.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::chunks::{self, CHUNK, Chunk};
use crate::wire::{Entry, GREETING, Kind, Record};

const MIB: u64 = 1 << 20;

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn put(root: &Path, bytes: &[u8]) -> Result<u64, CopyError> {
    unpack(Target::exactly(root)?, bytes, None, Limits::default())
}

/// Takes a stream, and does something before its second part is taken: that is the root's head, and its contents were
/// looked up by then if it is a directory.
struct Meanwhile<F> {
    stream: Vec<u8>,
    then: Option<F>,
}

impl<F: FnOnce()> Write for Meanwhile<F> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if !self.stream.is_empty()
            && let Some(then) = self.then.take()
        {
            then();
        }
        self.stream.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn pack_while(root: &Path, then: impl FnOnce()) -> (Packed, Vec<u8>) {
    let mut to = Meanwhile { stream: Vec::new(), then: Some(then) };
    let packed = pack(root, &mut to).unwrap();
    assert!(to.then.is_none(), "it was too late");
    (packed, to.stream)
}

#[test]
fn what_goes_or_becomes_something_else_is_left_out_and_the_rest_comes() {
    let (from, to) = (dir(), dir());
    let at = |name: &str| from.path().join(name);
    for name in ["a", "gone", "pipe", "z"] {
        fs::write(at(name), name).unwrap();
    }
    for name in ["dir", "link"] {
        fs::create_dir(at(name)).unwrap();
        fs::write(at(name).join("f"), "f").unwrap();
    }
    let (packed, stream) = pack_while(from.path(), || {
        fs::remove_file(at("gone")).unwrap();
        fs::remove_file(at("pipe")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), 0o600.into()).unwrap();
        fs::remove_dir_all(at("dir")).unwrap();
        fs::remove_dir_all(at("link")).unwrap();
        symlink("/etc", at("link")).unwrap();
    });
    let told = &packed.left_out;
    assert_eq!((told.vanished.count, told.unreadable.count, told.no_files.count), (2, 0, 1), "{told:?}");
    assert_eq!(told.exit_code(), VANISHED);
    assert!(told.lines().iter().any(|line| line.starts_with(&format!("left out: {}", at("gone").display()))));
    assert_eq!(put(&to.path().join("copy"), &stream).unwrap(), packed.entries);
    let copied = |name: &str| fs::read(to.path().join("copy").join(name));
    assert_eq!((copied("a").unwrap(), copied("z").unwrap()), (b"a".to_vec(), b"z".to_vec()));
    assert!(copied("gone").is_err() && copied("dir/f").is_err());
    assert_eq!(fs::read_link(to.path().join("copy/link")).unwrap(), Path::new("/etc"));
}

#[test]
fn a_file_that_grows_or_shrinks_meanwhile_leaves_the_next_one_as_it_is() {
    let size = 3 * CHUNK as u64;
    for new_size in [0, 5, size - 1, size + 1, 3 * size] {
        let (from, to) = (dir(), dir());
        let log = File::create(from.path().join("log")).unwrap();
        log.write_all_at(&vec![7; 3 * CHUNK], 0).unwrap();
        fs::write(from.path().join("next"), "next").unwrap();
        // The head of the file is out when its contents are read.
        let (_, stream) = pack_while(&from.path().join("log"), || log.set_len(new_size).unwrap());
        put(&to.path().join("log"), &stream).unwrap();
        assert_eq!(fs::metadata(to.path().join("log")).unwrap().len(), new_size.min(size));
        log.set_len(size).unwrap();
        let (_, stream) = pack_while(from.path(), || log.set_len(new_size).unwrap());
        put(&to.path().join("tree"), &stream).unwrap();
        assert_eq!(fs::read(to.path().join("tree/next")).unwrap(), b"next", "{new_size}");
    }
}

#[test]
fn what_the_kernel_makes_up_is_read_to_its_end() {
    let to = dir();
    let mut stream = Vec::new();
    pack(Path::new("/proc/self/cmdline"), &mut stream).unwrap();
    put(&to.path().join("cmdline"), &stream).unwrap();
    assert_eq!(fs::read(to.path().join("cmdline")).unwrap(), fs::read("/proc/self/cmdline").unwrap());
    // One that says that it has a page, and has less.
    let page = Path::new("/sys/devices/system/cpu/online");
    if let Ok(told) = fs::read(page) {
        let mut stream = Vec::new();
        pack(page, &mut stream).unwrap();
        put(&to.path().join("online"), &stream).unwrap();
        assert_eq!(fs::read(to.path().join("online")).unwrap(), told);
    }
    // Some can only be written, and some have no end.
    if fs::metadata("/proc/sys/vm/drop_caches").is_ok() && File::open("/proc/sys/vm/drop_caches").is_err() {
        let mut stream = Vec::new();
        let packed = pack(Path::new("/proc/sys/vm"), &mut stream).unwrap();
        assert_eq!(packed.left_out.exit_code(), PARTIAL);
        put(&to.path().join("vm"), &stream).unwrap();
        assert!(!to.path().join("vm/drop_caches").exists());
        assert!(!fs::read(to.path().join("vm/swappiness")).unwrap().is_empty());
    }
    let endless = Path::new("/proc/self/pagemap");
    if File::open(endless).is_ok() {
        let mut stream = Vec::new();
        assert!(matches!(pack(endless, &mut stream), Err(CopyError::Endless(_))));
        assert!(matches!(put(&to.path().join("pagemap"), &stream), Err(CopyError::OtherEnd(_))));
        assert_eq!(
            fs::read_dir(to.path())
                .unwrap()
                .filter(|e| e.as_ref().unwrap().path().ends_with("pagemap"))
                .count(),
            0
        );
    }
}

fn entry(path: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let entry = Entry { path: path.to_vec(), kind: Kind::File, mode: 0o644, mtime: (0, 0) };
    wire::write(&Record::Entry(entry), &mut bytes).unwrap();
    bytes
}

/// A stream of one file with these chunks; data are `x`.
fn one_file(all: &[Chunk]) -> Vec<u8> {
    let mut bytes = [&GREETING[..], &entry(b"")].concat();
    for chunk in all {
        chunks::write(*chunk, &mut bytes).unwrap();
        if let Chunk::Data(count) = chunk {
            bytes.resize(bytes.len() + count, b'x');
        }
    }
    wire::write(&Record::End(1), &mut bytes).unwrap();
    bytes
}

#[test]
fn a_copy_that_is_broken_off_leaves_what_was_there_and_nothing_else() {
    let to = dir();
    let file = to.path().join("f");
    let kept = || {
        assert_eq!(fs::read(&file).unwrap(), b"precious");
        assert_eq!(fs::read_dir(to.path()).unwrap().count(), 1, "nothing half done is left");
    };
    fs::write(&file, "precious").unwrap();
    let whole = one_file(&[Chunk::Data(1000), Chunk::Hole(5000), Chunk::Data(3), Chunk::End(6003)]);
    let end = wire_end();
    for len in 0..whole.len() - end {
        assert!(put(&file, &whole[..len]).is_err(), "{len}");
        kept();
    }
    // What cannot be read further is not kept, and what makes no sense neither.
    put(&file, &one_file(&[Chunk::Data(10), Chunk::Cut])).unwrap();
    kept();
    for nonsense in [
        &[Chunk::Data(10), Chunk::End(9)][..],
        &[Chunk::Hole(u64::MAX), Chunk::Hole(2), Chunk::End(1)],
        &[Chunk::Hole(1 << 60), Chunk::End(1 << 60)],
        &[Chunk::Data(10), Chunk::Hole(u64::MAX - 9), Chunk::End(0)],
        &[Chunk::Data(CHUNK + 1), Chunk::End(CHUNK as u64 + 1)],
    ] {
        assert!(put(&file, &one_file(nonsense)).is_err(), "{nonsense:?}");
        kept();
    }
    // A full disk, as far as a test can have one.
    let limits = Limits { bytes: 1002, ..Limits::default() };
    let told = unpack(Target::exactly(&file).unwrap(), whole.as_slice(), None, limits);
    assert!(matches!(told, Err(CopyError::TooMuch { what: "bytes", .. })));
    kept();
    put(&file, &whole).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().len(), 6003);
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 1);
}

/// Length of the record behind the last entry.
fn wire_end() -> usize {
    let mut bytes = Vec::new();
    wire::write(&Record::End(1), &mut bytes).unwrap();
    bytes.len()
}

#[test]
fn another_version_is_told_from_nonsense() {
    let to = dir();
    let told = |greeting: &[u8]| put(&to.path().join("f"), greeting).unwrap_err();
    assert!(matches!(told(b"AEGISCP1"), CopyError::OtherVersion));
    assert!(matches!(told(b"AEGISCPX"), CopyError::OtherVersion));
    assert!(matches!(told(b"HTTP/1.1"), CopyError::Stream(_)));
}

#[test]
fn names_are_of_any_bytes_and_any_length_that_a_directory_takes() {
    let (from, to) = (dir(), dir());
    let names = [&b"\xff\xfe\n\x1b"[..], &[b'n'; 255], b"-rf", b" ", &[0xc3; 255]];
    for name in names {
        fs::write(from.path().join(OsStr::from_bytes(name)), name).unwrap();
    }
    // Deeper than a path can say: left out, and the rest comes.
    let mut deep = aegis_paths::Dir::open_root(from.path()).unwrap();
    for _ in 0..20 {
        deep = deep.mkdir_beneath(Path::new(OsStr::from_bytes(&[b'd'; 255])), 0o700.into()).unwrap();
    }
    let mut stream = Vec::new();
    let packed = pack(from.path(), &mut stream).unwrap();
    assert_eq!((packed.left_out.unreadable.count, packed.left_out.exit_code()), (1, PARTIAL));
    for _twice in 0..2 {
        put(&to.path().join("copy"), &stream).unwrap();
    }
    for name in names {
        let copied = fs::read(to.path().join("copy").join(OsStr::from_bytes(name))).unwrap();
        assert_eq!(copied, name);
    }
    assert_eq!(name_of(OsStr::from_bytes(b"/a/\xff/")), Some(OsStr::from_bytes(b"\xff")));
}

#[test]
fn a_sparse_file_costs_what_it_has_and_no_more() {
    let (from, to) = (dir(), dir());
    let file = File::create(from.path().join("disk")).unwrap();
    file.set_len(60 << 30).unwrap();
    file.write_all_at(b"begin", 0).unwrap();
    file.write_all_at(&[9; 8192], 30 << 30).unwrap();
    let mut stream = Vec::new();
    let begun = std::time::Instant::now();
    pack(&from.path().join("disk"), &mut stream).unwrap();
    if stream.len() as u64 > MIB {
        return eprintln!("this file system tells no holes");
    }
    put(&to.path().join("disk"), &stream).unwrap();
    assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{:?}", begun.elapsed());
    let copied = fs::metadata(to.path().join("disk")).unwrap();
    assert_eq!(copied.len(), 60 << 30);
    assert!(copied.blocks() * 512 < MIB, "{} blocks", copied.blocks());
    let (mut begin, mut middle) = ([0; 5], [0; 8192]);
    let read = File::open(to.path().join("disk")).unwrap();
    read.read_exact_at(&mut begin, 0).unwrap();
    read.read_exact_at(&mut middle, 30 << 30).unwrap();
    assert_eq!((&begin, middle), (b"begin", [9; 8192]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn data_and_holes_come_back_wherever_they_are(
        parts in prop::collection::vec((0u64..3 * MIB, 1usize..300_000), 0..5), size in 0u64..4 * MIB, dense in any::<bool>(),
    ) {
        let (from, to) = (dir(), dir());
        let file = File::create(from.path().join("f")).unwrap();
        if dense {
            file.write_all_at(&vec![0; usize::try_from(size).unwrap()], 0).unwrap();
        }
        for (at, count) in parts {
            file.write_all_at(&vec![b'p'; count], at).unwrap();
        }
        file.set_len(size).unwrap();
        let mut stream = Vec::new();
        pack(&from.path().join("f"), &mut stream).unwrap();
        put(&to.path().join("f"), &stream).unwrap();
        prop_assert!(fs::read(from.path().join("f")).unwrap() == fs::read(to.path().join("f")).unwrap());
        let blocks = |dir: &tempfile::TempDir| fs::metadata(dir.path().join("f")).unwrap().blocks();
        prop_assert!(blocks(&to) <= blocks(&from) + 16, "{} of {}", blocks(&to), blocks(&from));
    }

    #[test]
    fn what_is_read_without_being_told_holes_is_the_same(
        parts in prop::collection::vec((0u64..2 * MIB, 1usize..300_000), 0..4), size in 0u64..3 * MIB,
    ) {
        let from = dir();
        let file = File::options().create(true).truncate(true).read(true).write(true).open(from.path().join("f")).unwrap();
        for (at, count) in parts {
            file.write_all_at(&vec![b'p'; count], at).unwrap();
        }
        file.set_len(size).unwrap();
        let contents = |sparse| {
            let mut stream = Vec::new();
            assert!(crate::send::Sender::new().send(&file, size, sparse, &mut stream).is_ok());
            let to = tempfile::tempfile().unwrap();
            let mut receiver = crate::receive::Receiver::new(Limits::default());
            let done = receiver.receive(&mut stream.as_slice(), &to, |error| panic!("{error}"));
            assert_eq!(done.unwrap(), crate::receive::Received::Complete);
            let mut read = vec![0; usize::try_from(to.metadata().unwrap().len()).unwrap()];
            to.read_exact_at(&mut read, 0).unwrap();
            read
        };
        let (told, plain) = (contents(true), contents(false));
        prop_assert_eq!(plain.len() as u64, size);
        prop_assert!(told == plain);
    }

    #[test]
    fn arbitrary_chunks_never_panic_and_never_leave_anything(bytes in prop::collection::vec(any::<u8>(), 0..200), kinds in "[dhec]{0,6}") {
        let to = dir();
        let file = to.path().join("f");
        let mut stream = [&GREETING[..], &entry(b"")].concat();
        for (kind, number) in kinds.bytes().zip(&bytes) {
            stream.push(kind);
            stream.extend(u64::from(*number).to_le_bytes());
        }
        stream.extend(bytes);
        if put(&file, &stream).is_err() {
            prop_assert_eq!(fs::read_dir(to.path()).unwrap().count(), usize::from(file.exists()));
        }
    }
}
