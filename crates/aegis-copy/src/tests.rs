use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::chunks::{self, Chunk};
use crate::target::At;
use crate::wire::{Entry, GREETING, Kind, Record};

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn packed(root: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    pack(root, &mut bytes).unwrap();
    bytes
}

fn put(root: &Path, bytes: &[u8]) -> Result<u64, CopyError> {
    unpack(Target::exactly(root)?, bytes, None, Limits::default())
}

fn listing(root: &Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let found = fs::symlink_metadata(&path).unwrap();
        let own = path.strip_prefix(root).unwrap().display().to_string();
        let what = if found.is_symlink() {
            fs::read_link(&path).unwrap().display().to_string()
        } else if found.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            format!("{:o}", found.mode() & 0o7777)
        } else {
            format!("{:o} {} {:?}", found.mode() & 0o7777, found.mtime(), fs::read(&path).unwrap())
        };
        all.push(format!("{own}: {what}"));
    }
    all.sort();
    all
}

#[test]
fn a_tree_comes_out_as_it_went_in() {
    let (from, to) = (dir(), dir());
    let at = |name: &str| from.path().join(name);
    fs::create_dir_all(at("a/b/c")).unwrap();
    fs::write(at("a/file"), "hello").unwrap();
    fs::write(at("a/b/empty"), "").unwrap();
    fs::write(at("a/b/big"), vec![7; 700_000]).unwrap();
    symlink("../nowhere", at("a/link")).unwrap();
    fs::set_permissions(at("a/file"), fs::Permissions::from_mode(0o751)).unwrap();
    fs::set_permissions(at("a/b/c"), fs::Permissions::from_mode(0o555)).unwrap();
    let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
    for name in ["a/b/c", "a/b", "a"] {
        fs::File::open(at(name)).unwrap().set_modified(old).unwrap();
    }
    let bytes = packed(&at("a"));
    let copied = to.path().join("copy");
    assert_eq!(put(&copied, &bytes).unwrap(), 7);
    assert_eq!(listing(&copied), listing(&at("a")));
    for name in ["b/c", "b", ""] {
        assert_eq!(fs::metadata(copied.join(name)).unwrap().modified().unwrap(), old, "{name}");
    }
    // Again over what is there, and into it.
    assert_eq!(put(&copied, &bytes).unwrap(), 7);
    assert_eq!(listing(&copied), listing(&at("a")));
    assert_eq!(put(&to.path().join("one"), &packed(&at("a/file"))).unwrap(), 1);
    assert_eq!(fs::read(to.path().join("one")).unwrap(), b"hello");
}

#[test]
fn what_is_in_the_way_is_told_and_links_are_replaced_not_followed() {
    let (from, to) = (dir(), dir());
    fs::create_dir(from.path().join("d")).unwrap();
    fs::write(from.path().join("f"), "new").unwrap();
    let outside = to.path().join("outside");
    fs::write(&outside, "untouched").unwrap();
    let root = to.path().join("root");
    fs::create_dir_all(root.join("f")).unwrap();
    assert!(matches!(put(&root, &packed(from.path())), Err(CopyError::InTheWay { .. })));
    fs::remove_dir(root.join("f")).unwrap();
    symlink(&outside, root.join("f")).unwrap();
    put(&root, &packed(from.path())).unwrap();
    assert_eq!(fs::read(&outside).unwrap(), b"untouched");
    assert!(fs::symlink_metadata(root.join("f")).unwrap().is_file());
    fs::remove_dir(root.join("d")).unwrap();
    symlink(to.path(), root.join("d")).unwrap();
    assert!(matches!(put(&root, &packed(from.path())), Err(CopyError::InTheWay { .. })));
}

/// A file's contents that are four bytes.
const FOUR: Kind = Kind::File;

fn stream(entries: &[(&[u8], Kind)]) -> Vec<u8> {
    let mut bytes = GREETING.to_vec();
    for (path, kind) in entries {
        let entry = Entry { path: path.to_vec(), kind: kind.clone(), mode: 0o4777, mtime: (0, 0) };
        wire::write(&Record::Entry(entry), &mut bytes).unwrap();
        if *kind == Kind::File {
            chunks::write(Chunk::Data(4), &mut bytes).unwrap();
            bytes.extend(b"xxxx");
            chunks::write(Chunk::End(4), &mut bytes).unwrap();
        }
    }
    wire::write(&Record::End(entries.len() as u64), &mut bytes).unwrap();
    bytes
}

#[test]
fn nothing_is_written_outside_whatever_the_stream_says() {
    let to = dir();
    let (root, secret) = (to.path().join("root"), to.path().join("secret"));
    fs::write(&secret, "mine").unwrap();
    let evil = FOUR;
    for path in [&b"../secret"[..], b"/secret", b"a/../../secret", b"", b".", b"a//b", b"a\0b", &[b'n'; 256]]
    {
        let told = put(&root, &stream(&[(b"", Kind::Directory), (path, evil.clone())]));
        assert!(matches!(told, Err(CopyError::Hostile(_))), "{}", path.escape_ascii());
    }
    // Through a link that the stream has made itself.
    let link = Kind::Symlink(to.path().as_os_str().as_encoded_bytes().to_vec());
    let through = stream(&[(b"", Kind::Directory), (b"l", link.clone()), (b"l/secret", evil.clone())]);
    assert!(matches!(put(&root, &through), Err(CopyError::File { .. })));
    // A link in place of the root.
    let replaced = stream(&[(b"", link), (b"secret", evil.clone())]);
    assert!(put(&to.path().join("other"), &replaced).is_err());
    assert!(put(&root, &stream(&[(b"", evil.clone()), (b"a", evil.clone())])).is_err());
    assert_eq!(fs::read(&secret).unwrap(), b"mine");
    // No setuid comes out.
    put(&root, &stream(&[(b"", Kind::Directory), (b"s", evil)])).unwrap();
    assert_eq!(fs::metadata(root.join("s")).unwrap().mode() & 0o7777, 0o777);
}

#[test]
fn a_stream_that_is_cut_off_or_too_long_is_no_success() {
    let (from, to) = (dir(), dir());
    fs::write(from.path().join("f"), vec![1; 1000]).unwrap();
    let bytes = packed(from.path());
    for len in 0..bytes.len() {
        assert!(put(&to.path().join("r"), &bytes[..len]).is_err(), "{len}");
    }
    let limits = |entries, bytes| Limits { entries, bytes, ..Limits::default() };
    let limited =
        |limits| unpack(Target::exactly(&to.path().join("r")).unwrap(), bytes.as_slice(), None, limits);
    assert!(matches!(limited(limits(1, 1 << 20)), Err(CopyError::TooMuch { what: "files", .. })));
    assert!(matches!(limited(limits(10, 999)), Err(CopyError::TooMuch { what: "bytes", .. })));
    assert_eq!(limited(limits(2, 1000)).unwrap(), 2);
    let mut failed = Vec::new();
    assert!(pack(&from.path().join("absent"), &mut failed).is_err());
    let told = put(&to.path().join("r"), &failed).unwrap_err();
    assert!(matches!(told, CopyError::OtherEnd(_)) && told.to_string().contains("absent"), "{told}");
}

#[test]
fn a_destination_is_filled_or_becomes_the_copy_as_cp_has_it() {
    let there = dir();
    for (source, name) in
        [("a/b", Some("b")), ("/x/y/", Some("y")), (".", None), ("a/.", None), ("/", None), ("..", None)]
    {
        assert_eq!(name_of(OsStr::new(source)), name.map(OsStr::new), "{source}");
    }
    fs::create_dir(there.path().join("d")).unwrap();
    symlink("d", there.path().join("l")).unwrap();
    let place = |path: &str, name: Option<&str>| {
        let target = Target::open(&there.path().join(path), name.map(OsStr::new)).unwrap();
        let shown = target.shown.strip_prefix(there.path()).unwrap().to_str().unwrap().to_owned();
        (shown, matches!(target.at, At::Directory(_)))
    };
    assert_eq!(place("d", Some("b")), ("d/b".into(), false));
    assert_eq!(place("l", Some("b")), ("l/b".into(), false));
    assert_eq!(place("d", None), ("d".into(), true));
    assert_eq!(place("l", None), ("l".into(), true));
    assert_eq!(place("new", Some("b")), ("new".into(), false));
    assert_eq!(place("new", None), ("new".into(), false));
    for none in ["new/", "new/.", "none/new"] {
        assert!(Target::open(&there.path().join(none), Some(OsStr::new("b"))).is_err(), "{none}");
    }
}

#[test]
fn what_the_copy_itself_names_is_never_followed() {
    let (from, to) = (dir(), dir());
    fs::create_dir(from.path().join("results")).unwrap();
    fs::write(from.path().join("results/authorized_keys"), "KEY").unwrap();
    let (out, ssh) = (to.path().join("out"), to.path().join("ssh"));
    fs::create_dir(&out).unwrap();
    fs::create_dir(&ssh).unwrap();
    // A guest cannot make the link that the second copy would take for the user's own.
    let link = Kind::Symlink(ssh.as_os_str().as_encoded_bytes().to_vec());
    let results = || Target::open(&out, Some(OsStr::new("results"))).unwrap();
    let told = unpack(results(), stream(&[(b"", link)]).as_slice(), None, Limits::default());
    assert!(matches!(told, Err(CopyError::Stream(_))), "{told:?}");
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
    // Nor is one followed that is there, wherever it is from and wherever it leads.
    let bytes = packed(&from.path().join("results"));
    for leads in [ssh.to_str().unwrap(), "../ssh", "nowhere", "results"] {
        symlink(leads, out.join("results")).unwrap();
        let told = unpack(results(), bytes.as_slice(), None, Limits::default());
        assert!(matches!(told, Err(CopyError::InTheWay { .. })), "{leads}: {told:?}");
        let one = unpack(results(), stream(&[(b"", FOUR)]).as_slice(), None, Limits::default());
        assert!(one.is_ok() && fs::symlink_metadata(out.join("results")).unwrap().is_file());
        fs::remove_file(out.join("results")).unwrap();
    }
    assert_eq!(fs::read_dir(&ssh).unwrap().count(), 0);
    assert!(!to.path().join("out/nowhere").exists());
    // What the user typed is his.
    symlink("../ssh", out.join("mine")).unwrap();
    unpack(
        Target::open(&out.join("mine"), Some(OsStr::new("results"))).unwrap(),
        bytes.as_slice(),
        None,
        Limits::default(),
    )
    .unwrap();
    assert_eq!(fs::read(ssh.join("results/authorized_keys")).unwrap(), b"KEY");
}

#[test]
fn what_would_wait_or_is_no_file_of_the_users_is_not_written_to() {
    let (from, to) = (dir(), dir());
    fs::write(from.path().join("f"), "x").unwrap();
    let bytes = packed(&from.path().join("f"));
    let parent = fs::File::open(to.path()).unwrap();
    rustix::fs::mkfifoat(&parent, "pipe", 0o600.into()).unwrap();
    put(&to.path().join("pipe"), &bytes).unwrap();
    assert_eq!(fs::read(to.path().join("pipe")).unwrap(), b"x");
    assert!(matches!(put(Path::new("/dev/null"), &bytes), Err(CopyError::InTheWay { .. })));
    rustix::fs::mkfifoat(&parent, "d", 0o600.into()).unwrap();
    let packed = {
        let mut bytes = Vec::new();
        (pack(to.path(), &mut bytes).unwrap(), bytes)
    };
    assert_eq!((packed.0.entries, packed.0.left_out.exit_code()), (2, 0));
    assert_eq!(packed.0.left_out.no_files.named, [(to.path().join("d"), "a pipe".to_owned())]);
    assert!(matches!(pack(&to.path().join("d"), Vec::new()), Err(CopyError::NoFile { .. })));
    assert!(put(&to.path().join("d"), &packed.1).is_err(), "a pipe is no directory");
    // A name that was there is replaced, not written through: the other name keeps what it has.
    fs::write(to.path().join("one"), "kept").unwrap();
    fs::hard_link(to.path().join("one"), to.path().join("two")).unwrap();
    put(&to.path().join("two"), &bytes).unwrap();
    assert_eq!(fs::read(to.path().join("one")).unwrap(), b"kept");
}

/// Exchanges two names again and again while something is done.
fn while_exchanging<T>(at: &Path, (one, two): (&str, &str), work: impl FnOnce() -> T) -> T {
    use std::sync::atomic::{AtomicBool, Ordering};
    let (done, dir) = (AtomicBool::new(false), fs::File::open(at).unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(&dir, one, &dir, two, rustix::fs::RenameFlags::EXCHANGE).unwrap();
            }
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        result
    })
}

#[test]
fn directories_exchanged_for_links_meanwhile_lead_nowhere() {
    let (from, to) = (dir(), dir());
    let (work, outside) = (to.path().join("work"), to.path().join("outside"));
    fs::create_dir_all(work.join("tree/sub")).unwrap();
    fs::create_dir(&outside).unwrap();
    symlink("../../outside", work.join("tree/evil")).unwrap();
    fs::create_dir_all(from.path().join("sub")).unwrap();
    for n in 0..20 {
        fs::write(from.path().join(format!("sub/{n}")), "inside").unwrap();
    }
    let bytes = packed(from.path());
    // In: whatever becomes of it, nothing lands outside.
    while_exchanging(&work.join("tree"), ("sub", "evil"), || {
        for _ in 0..200 {
            let _either = put(&work.join("tree"), &bytes);
        }
    });
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    // Out: nothing from outside is in the stream.
    fs::write(outside.join("0"), "SECRET").unwrap();
    while_exchanging(&work.join("tree"), ("sub", "evil"), || {
        for _ in 0..200 {
            let mut stream = Vec::new();
            let _either = pack(&work.join("tree"), &mut stream);
            assert!(!stream.windows(6).any(|window| window == b"SECRET"));
        }
    });
    // The same of the root, once it is open.
    symlink("../outside", work.join("root-evil")).unwrap();
    while_exchanging(&work, ("tree", "root-evil"), || {
        for _ in 0..200 {
            let mut stream = Vec::new();
            let _either = pack(&work.join("tree"), &mut stream);
            assert!(!stream.windows(6).any(|window| window == b"SECRET"));
        }
    });
}

#[test]
fn what_is_below_an_open_directory_is_read_whatever_becomes_of_its_name() {
    let dir = dir();
    let (kit, outside) = (dir.path().join("kit"), dir.path().join("outside"));
    fs::create_dir_all(kit.join("sub")).unwrap();
    fs::write(kit.join("sub/f"), "inside").unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("f"), "SECRET").unwrap();
    symlink("../outside", kit.join("evil")).unwrap();
    let opened = aegis_paths::Dir::open_root(&kit).unwrap();
    let beneath = |path: &str| {
        let mut stream = Vec::new();
        let packed = crate::pack_beneath(&opened, std::path::Path::new(path), &mut stream);
        assert!(!stream.windows(6).any(|window| window == b"SECRET"), "{path}");
        packed.map(|packed| packed.entries)
    };
    // Somebody puts a link in its place.
    fs::rename(&kit, dir.path().join("aside")).unwrap();
    symlink("outside", &kit).unwrap();
    for (path, entries) in [("", 4), (".", 4), ("sub", 2), ("sub/", 2), ("sub/f", 1), ("./sub/f", 1)] {
        assert_eq!(beneath(path).unwrap(), entries, "{path:?}");
    }
    assert_eq!(beneath("evil").unwrap(), 1, "a link is copied as one");
    for path in ["evil/", "evil/.", "evil/f", "..", "sub/../../outside/f", "/etc/hostname", "absent"] {
        assert!(beneath(path).is_err(), "{path:?}");
    }
    // And in the place of a directory in it, at any moment.
    let work = dir.path().join("aside");
    while_exchanging(&work, ("sub", "evil"), || {
        for _ in 0..500 {
            let _either = (beneath("sub/f"), beneath("sub/"));
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_streams_never_panic_and_never_leave_their_place(
        bytes in prop::collection::vec(any::<u8>(), 0..300), path in "[a./]{0,8}", target in "[a./]{1,8}",
    ) {
        let to = dir();
        let root = to.path().join("root");
        drop(put(&root, &[&GREETING[..], &bytes].concat()));
        let entries = [
            (&b""[..], Kind::Directory),
            (b"a", Kind::Symlink(target.into_bytes())),
            (path.as_bytes(), FOUR),
            (b"a/b", FOUR),
        ];
        drop(put(&root, &stream(&entries)));
        prop_assert!(fs::read_dir(to.path()).unwrap().all(|entry| entry.unwrap().file_name() == "root"));
    }
}
