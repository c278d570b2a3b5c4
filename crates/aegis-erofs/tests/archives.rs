//! Archives as tools write them, read as Go's reader reads them.

// The lint's exception for tests does not reach their helper functions.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use aegis_erofs::{Image, Limits, ingest_some};
use support::{Entry, Kind, archive_of, contents, image_of, layered, model_of, tree_of};

/// Writes a header's checksum.
fn seal(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// The archive of `entries`, the first header of which `change` may change.
fn changed(entries: &[(&str, Entry)], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = archive_of(entries);
    change(&mut bytes[..512]);
    seal(&mut bytes[..512]);
    bytes
}

/// What both ways of reading say of an archive.
fn read(archive: &[u8]) -> support::Model {
    let model = model_of(&image_of(&tree_of(archive).unwrap()));
    let layered = layered(&[archive.to_vec()]).unwrap();
    assert_eq!(model_of(&Image::open(layered).unwrap()), model);
    model
}

#[test]
fn what_has_no_contents_is_followed_by_none_whatever_its_size() {
    let size = |bytes: &mut [u8]| bytes[124..136].copy_from_slice(b"00000001000\0");
    let fifo = || Entry::new(Kind::Fifo, 0o600);
    for entry in [Entry::directory(), Entry::symlink("x"), fifo(), Entry::new(Kind::CharDevice(1, 3), 0o600)]
    {
        let model = read(&changed(&[("a", entry.clone()), ("b", Entry::file(b"next"))], size));
        assert_eq!(model[&b"a"[..]], entry);
        assert_eq!(model[&b"b"[..]], Entry::file(b"next"));
    }
    // A hard link has the size of its file in archives of some writers.
    let mut linked = archive_of(&[("a", Entry::file(b"1")), ("b", Entry::hard_link("a"))]);
    size(&mut linked[1024..1536]);
    seal(&mut linked[1024..1536]);
    assert_eq!(read(&linked)[&b"b"[..]].kind, Kind::HardLink(b"a".to_vec()));
    let negative = |bytes: &mut [u8]| bytes[124..136].fill(0xff);
    let directory = [("a", Entry::directory())];
    assert_eq!(read(&changed(&directory, negative))[&b"a"[..]], Entry::directory());
}

/// A file with holes at both ends and in its middle, in `dir`.
fn with_holes(dir: &Path, ranges: u64) -> Vec<u8> {
    let file = std::fs::File::create(dir.join("holes")).unwrap();
    let mut expected = vec![0; usize::try_from(ranges).unwrap() * 65_536 + 70_000];
    for number in 0..ranges {
        let at = 65_536 * number + 8192;
        let bytes = contents(5000, u8::try_from(number % 250).unwrap());
        file.write_all_at(&bytes, at).unwrap();
        expected[usize::try_from(at).unwrap()..][..5000].copy_from_slice(&bytes);
    }
    file.set_len(expected.len() as u64).unwrap();
    expected
}

#[test]
fn files_that_are_stored_without_their_holes_have_them_again() {
    // More ranges than the header has places for, and than one block more has.
    for ranges in [0, 1, 3, 40] {
        let dir = tempfile::tempdir().unwrap();
        let expected = with_holes(dir.path(), ranges);
        std::fs::write(dir.path().join("next"), b"next").unwrap();
        for form in ["--format=gnu", "--sparse-version=0.0", "--sparse-version=0.1", "--sparse-version=1.0"] {
            let mut tar = Command::new("tar");
            tar.current_dir(dir.path()).args(["--create", "--sparse", form, "--mtime=@0", "--mode=0644"]);
            if form != "--format=gnu" {
                tar.arg("--format=posix");
            }
            let archive = tar.args(["holes", "next"]).output().unwrap();
            assert!(archive.status.success(), "{}", String::from_utf8_lossy(&archive.stderr));
            assert!(archive.stdout.len() < expected.len(), "the tool has stored the holes");
            let model = read(&archive.stdout);
            let Kind::File(found) = &model[&b"holes"[..]].kind else { panic!("{model:?}") };
            assert!(
                *found == expected,
                "{form}, {ranges} ranges: {} bytes for {}",
                found.len(),
                expected.len()
            );
            assert_eq!(model[&b"next"[..]].kind, Kind::File(b"next".to_vec()), "{form}");
            let cut = &archive.stdout[..archive.stdout.len().min(2000)];
            assert!(ranges == 0 || tree_of(cut).is_err(), "{form}: {ranges} ranges, cut off");
        }
    }
}

#[test]
fn a_hole_of_terabytes_is_refused_at_once_and_one_of_gigabytes_takes_no_time() {
    let holes = |size: &str| {
        changed(&[("a", Entry::file(b""))], |bytes| {
            bytes[156] = b'S';
            bytes[483..495].copy_from_slice(format!("{size}\0").as_bytes());
        })
    };
    // 8 TiB, where 64 GiB are allowed.
    assert!(tree_of(&holes("77777777777")).map(drop).is_ok(), "8 GiB");
    let mut beyond = holes("77777777777");
    beyond[483..495].copy_from_slice(b"\x80\0\0\0\0\0\x08\0\0\0\0\0");
    seal(&mut beyond[..512]);
    let told = tree_of(&beyond).unwrap_err().to_string();
    assert!(told.contains("more than 68719476736 bytes of file contents"), "{told}");
}

#[test]
fn records_of_a_sparse_file_that_nobody_knows_are_no_matter() {
    let mut builder = tar::Builder::new(Vec::new());
    let records = [("GNU.sparse.major", &b"7"[..]), ("GNU.sparse.minor", b"0"), ("GNU.sparse.size", b"99")];
    builder.append_pax_extensions(records).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_size(3);
    builder.append_data(&mut header, "a", &b"abc"[..]).unwrap();
    let model = read(&builder.into_inner().unwrap());
    assert_eq!(model[&b"a"[..]].kind, Kind::File(b"abc".to_vec()));
}

#[test]
fn of_several_extensions_the_last_one_counts_and_one_before_the_end_for_nothing() {
    let named = |name: &str| {
        let mut archive = changed(&[("x", Entry::file(name.as_bytes()))], |bytes| bytes[156] = b'L');
        archive.truncate(512 + name.len().next_multiple_of(512));
        archive
    };
    let file = archive_of(&[("c", Entry::file(b""))]);
    let twice = [named("a"), named("b\0junk"), file.clone()].concat();
    assert_eq!(read(&twice).keys().next().unwrap(), b"b");
    assert_eq!(
        read(&[named(""), file.clone()].concat()).keys().next().unwrap(),
        b"c",
        "an empty name is none"
    );
    let whole = [&file[..512], &named("a")].concat();
    assert_eq!(read(&whole).len(), 1);
}

#[test]
fn an_archive_may_end_where_its_last_contents_end() {
    let whole = archive_of(&[("a", Entry::file(&[1; 700]))]);
    for len in [512 + 700, 512 + 800, 512 + 1024, 512 + 1024 + 512] {
        assert_eq!(read(&whole[..len])[&b"a"[..]], Entry::file(&[1; 700]), "{len}");
    }
}

#[test]
fn only_headers_of_the_oldest_kind_mark_a_directory_by_its_slash() {
    assert_eq!(
        read(&changed(&[("a/", Entry::file(b""))], |bytes| bytes[156] = 0))[&b"a"[..]].kind,
        Kind::Directory
    );
    let model = read(&changed(&[("a/", Entry::file(b""))], |_| {}));
    assert_eq!(model[&b"a"[..]].kind, Kind::File(Vec::new()));
}

#[test]
fn headers_of_all_forms_are_read() {
    let v7 = changed(&[("n", Entry::new(Kind::CharDevice(1, 3), 0o600))], |bytes| {
        // What version 7 of Unix knew nothing of; others may have written anything there.
        bytes[257..265].fill(0);
        bytes[345..350].copy_from_slice(b"wrong");
    });
    assert_eq!(read(&v7)[&b"n"[..]].kind, Kind::CharDevice(0, 0));
    let star = changed(&[("n", Entry::file(b""))], |bytes| {
        bytes[257..265].copy_from_slice(b"ustar\x0000");
        bytes[345..348].copy_from_slice(b"dir");
        // Its times are where ustar's prefix ends.
        bytes[476..499].fill(b'1');
        bytes[345 + 130] = 0;
        bytes[508..512].copy_from_slice(b"tar\0");
    });
    assert!(read(&star).contains_key(&b"dir/n"[..]));
    let numbers = changed(&[("n", Entry::file(b""))], |bytes| {
        bytes[100..108].copy_from_slice(b" 755 \0x\0");
        bytes[108..116].copy_from_slice(b"\x80\0\0\0\x00\x0f\x42\x40");
        bytes[116..124].fill(0);
    });
    let entry = &read(&numbers)[&b"n"[..]];
    assert_eq!((entry.mode, entry.uid, entry.gid), (0o755, 1_000_000, 0));
}

#[test]
fn global_records_are_skipped() {
    let mut global = changed(
        &[("pax_global_header", Entry::file(b"52 comment=0123456789012345678901234567890123456789\n"))],
        |bytes| {
            bytes[156] = b'g';
        },
    );
    global.truncate(1024);
    let archive = [global, archive_of(&[("a", Entry::file(b"1"))])].concat();
    assert_eq!(read(&archive).keys().collect::<Vec<_>>(), [b"a"]);
}

#[test]
fn symbolic_links_have_the_mode_that_they_have_on_every_disk() {
    let link = Entry { mode: 0o4755, ..Entry::symlink("x") };
    assert_eq!(read(&archive_of(&[("s", link)]))[&b"s"[..]], Entry::symlink("x"));
}

#[test]
fn of_an_archive_of_which_some_files_are_wanted_the_others_do_not_matter() {
    let label = changed(&[("label", Entry::file(b"with contents"))], |bytes| bytes[156] = b'V');
    let entries = [
        ("s", Entry::symlink("")),
        ("b", Entry::hard_link("missing")),
        ("f", Entry::file(b"1")),
        ("f/x", Entry::file(b"")),
        ("g", Entry::file(b"2")),
    ];
    let archive = [&label[..1024], &archive_of(&entries)].concat();
    let mut tree = support::new_tree(Limits::default());
    ingest_some(&mut tree, archive.as_slice()).unwrap();
    assert_eq!(model_of(&image_of(&tree)).keys().collect::<Vec<_>>(), [b"f", b"g"]);
    let few = Limits { max_entries: 1, ..Limits::default() };
    assert!(ingest_some(&mut support::new_tree(few), archive.as_slice()).is_err());
    assert!(ingest_some(&mut support::new_tree(Limits::default()), &archive[..2300]).is_err());
}
