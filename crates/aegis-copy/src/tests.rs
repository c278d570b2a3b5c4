use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use proptest::prelude::*;

use super::*;
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
    unpack(root, bytes, None, Limits::default())
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
    let bytes = packed(&at("a"));
    let copied = to.path().join("copy");
    assert_eq!(put(&copied, &bytes).unwrap(), 7);
    assert_eq!(listing(&copied), listing(&at("a")));
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

fn stream(entries: &[(&[u8], Kind)]) -> Vec<u8> {
    let mut bytes = GREETING.to_vec();
    for (path, kind) in entries {
        let entry = Entry { path: path.to_vec(), kind: kind.clone(), mode: 0o4777, mtime: (0, 0) };
        wire::write(&Record::Entry(entry), &mut bytes).unwrap();
        if let Kind::File(size) = kind {
            bytes.extend(vec![b'x'; usize::try_from(*size).unwrap().min(10)]);
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
    let evil = Kind::File(4);
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
    let limits = |entries, bytes| Limits { entries, bytes };
    let limited = |limits| unpack(&to.path().join("r"), bytes.as_slice(), None, limits);
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
        assert_eq!(name_of(source), name, "{source}");
    }
    assert_eq!(target(there.path(), Some("b")), there.path().join("b"));
    assert_eq!(target(there.path(), None), there.path());
    assert_eq!(target(&there.path().join("new"), Some("b")), there.path().join("new"));
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
            (path.as_bytes(), Kind::File(1)),
            (b"a/b", Kind::File(1)),
        ];
        drop(put(&root, &stream(&entries)));
        prop_assert!(fs::read_dir(to.path()).unwrap().all(|entry| entry.unwrap().file_name() == "root"));
    }
}
