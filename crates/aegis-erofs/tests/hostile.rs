//! Archives that must be refused, each with its own error.

// The lint's exception for tests does not reach their helper functions.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use aegis_erofs::{ArchiveError, IngestError, IngestReport, Limits, TreeError, Whiteouts, ingest};
use support::{Entry, Kind, archive_of, image_of, model_of, new_tree, tree_of};

fn refusal(entries: &[(&str, Entry)]) -> IngestError {
    tree_of(&archive_of(entries)).expect_err("must be refused")
}

fn tree_refusal(entries: &[(&str, Entry)]) -> TreeError {
    match refusal(entries) {
        IngestError::Entry { source, .. } => source,
        other => panic!("another refusal: {other}"),
    }
}

fn limited(limits: Limits, entries: &[(&str, Entry)]) -> &'static str {
    let archive = archive_of(entries);
    match ingest(&mut new_tree(limits), archive.as_slice(), Whiteouts::Keep) {
        Err(IngestError::Entry { source: TreeError::Limit { what, .. }, .. }) => what,
        other => panic!("not limited: {other:?}"),
    }
}

/// The archive with one entry whose header `change` may change.
fn crafted(entry: &Entry, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = archive_of(&[("a", entry.clone())]);
    change(&mut bytes[..512]);
    let header = &mut bytes[..512];
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    bytes
}

fn archive_refusal(bytes: &[u8]) -> ArchiveError {
    match tree_of(bytes) {
        Err(IngestError::Archive(e)) => e,
        other => panic!("another result: {other:?}"),
    }
}

#[test]
fn absolute_paths_are_below_the_root() {
    let bytes = archive_of(&[("/etc/x", Entry::file(b"1")), ("/y", Entry::hard_link("/etc/x"))]);
    let model = model_of(&image_of(&tree_of(&bytes).unwrap()));
    let paths: Vec<&[u8]> = model.keys().map(Vec::as_slice).collect();
    assert_eq!(paths, [&b"etc"[..], b"etc/x", b"y"]);
    assert_eq!(model[&b"etc"[..]], Entry::directory());
}

#[test]
fn hard_links_to_nothing_and_to_directories() {
    assert!(matches!(tree_refusal(&[("b", Entry::hard_link("a"))]), TreeError::LinkTargetMissing(_)));
    assert!(matches!(tree_refusal(&[("b", Entry::hard_link("b"))]), TreeError::LinkTargetMissing(_)));
    let directory = [("d", Entry::directory()), ("b", Entry::hard_link("d"))];
    assert!(matches!(tree_refusal(&directory), TreeError::LinkToDirectory(_)));
    assert!(matches!(tree_refusal(&[("b", Entry::hard_link("/"))]), TreeError::LinkToDirectory(_)));
}

#[test]
fn links_on_the_way_that_never_end() {
    let circle = [("a", Entry::symlink("b")), ("b", Entry::symlink("a")), ("a/x", Entry::file(b""))];
    assert!(matches!(tree_refusal(&circle), TreeError::TooManyLinks(_)));
    let own = [("s", Entry::symlink("s")), ("l", Entry::hard_link("s/x"))];
    assert!(matches!(tree_refusal(&own), TreeError::TooManyLinks(_)));
    // Each pass over it is longer than the one before.
    let growing = [("s", Entry::symlink("s/s/s/s/s/s/s/s")), ("s/x", Entry::file(b""))];
    assert!(matches!(tree_refusal(&growing), TreeError::TooManyLinks(_)));
}

#[test]
fn links_that_lead_deeper_than_any_path() {
    let deep = "d/".repeat(200);
    let entries = [("s", Entry::symlink(&deep)), ("s/s", Entry::symlink(&deep)), ("s/s/x", Entry::file(b""))];
    assert!(matches!(tree_refusal(&entries), TreeError::Limit { what: "directories in a path", .. }));
}

#[test]
fn much_work_for_few_entries() {
    let target = "../s/".repeat(800);
    let mut entries = vec![("t".to_owned(), Entry::symlink(&target)), ("s".to_owned(), Entry::directory())];
    entries.extend((0..100).map(|number| (format!("t/{number}"), Entry::file(b""))));
    let entries: Vec<(&str, Entry)> =
        entries.iter().map(|(path, entry)| (path.as_str(), entry.clone())).collect();
    let limits = Limits { max_entries: 1000, ..Limits::default() };
    assert_eq!(limited(limits, &entries), "names in targets of links on the way");
}

#[test]
fn files_on_the_way() {
    let through = [("f", Entry::file(b"")), ("f/x", Entry::file(b""))];
    assert!(matches!(tree_refusal(&through), TreeError::ParentNotDirectory(_)));
}

#[test]
fn a_root_that_is_no_directory() {
    for path in [".", "./."] {
        assert!(
            matches!(tree_refusal(&[(path, Entry::symlink("x"))]), TreeError::RootNotDirectory),
            "{path}"
        );
    }
}

#[test]
fn names_and_targets_that_cannot_be() {
    let long = "n".repeat(256);
    assert!(matches!(tree_refusal(&[(&long, Entry::file(b""))]), TreeError::NameTooLong));
    // An odd length makes it a PAX record, where NUL is not an end.
    let nul = format!("{}\0{}", "a".repeat(60), "b".repeat(60));
    assert!(matches!(tree_refusal(&[(&nul, Entry::file(b""))]), TreeError::NulByte));
    assert!(matches!(tree_refusal(&[("s", Entry::symlink(""))]), TreeError::SymlinkTarget));
}

#[test]
fn limits() {
    let limits = Limits::default;
    let two = [("a", Entry::file(b"123")), ("b", Entry::file(b"456"))];
    assert_eq!(limited(Limits { max_entries: 1, ..limits() }, &two), "entries");
    assert_eq!(limited(Limits { max_data_bytes: 5, ..limits() }, &two), "bytes of file contents");
    assert_eq!(limited(Limits { max_metadata_bytes: 1, ..limits() }, &two), "bytes of metadata");
    let deep = [("a/b/c", Entry::file(b""))];
    assert_eq!(limited(Limits { max_depth: 2, ..limits() }, &deep), "directories in a path");
    assert_eq!(limited(Limits { max_path_bytes: 4, ..limits() }, &deep), "bytes in a path");
    assert_eq!(limited(Limits { max_entries: 2, ..limits() }, &deep), "entries");
    let xattr = [("a", Entry::file(b"").xattr("user.x", &[0; 100]))];
    assert_eq!(limited(Limits { max_xattr_bytes: 50, ..limits() }, &xattr), "bytes of extended attributes");
    let links = [("a", Entry::file(b"")), ("b", Entry::hard_link("a")), ("c", Entry::hard_link("a"))];
    assert_eq!(limited(Limits { max_entries: 2, ..limits() }, &links), "entries");
}

#[test]
fn a_large_extension_header_is_refused_before_it_is_read() {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::XHeader);
    header.set_size(6 << 30);
    header.set_cksum();
    assert!(matches!(archive_refusal(header.as_bytes()), ArchiveError::ExtensionTooLarge(_)));
}

#[test]
fn truncated_archives() {
    let whole = archive_of(&[("a", Entry::file(&[1; 2000])), ("b", Entry::file(b"x"))]);
    for len in [100, 512, 700, 2511, 2700] {
        assert!(matches!(archive_refusal(&whole[..len]), ArchiveError::Truncated), "{len}");
    }
}

#[test]
fn fields_out_of_range() {
    let file = Entry::file(b"");
    let negative = |bytes: &mut [u8]| bytes[124..136].fill(0xff);
    assert!(matches!(archive_refusal(&crafted(&file, negative)), ArchiveError::Field("size")));
    let large_uid = |bytes: &mut [u8]| bytes[108..116].copy_from_slice(b"\x80\0\0\x01\0\0\0\0");
    assert!(matches!(archive_refusal(&crafted(&file, large_uid)), ArchiveError::Field("uid")));
    let letters = |bytes: &mut [u8]| bytes[100..108].copy_from_slice(b"rw-r--r-");
    assert!(matches!(archive_refusal(&crafted(&file, letters)), ArchiveError::Field("mode")));
}

#[test]
fn unknown_kinds_sparse_files_and_no_archive_at_all() {
    let kind = |byte| crafted(&Entry::file(b""), move |bytes| bytes[156] = byte);
    assert!(matches!(archive_refusal(&kind(b'M')), ArchiveError::UnsupportedType { kind: 'M', .. }));
    let outside = |bytes: &mut [u8]| {
        bytes[156] = b'S';
        bytes[386..410].copy_from_slice(b"00000000010\x0000000000001\0");
        bytes[483..495].copy_from_slice(b"00000000004\0");
    };
    assert!(matches!(archive_refusal(&crafted(&Entry::file(b"x"), outside)), ArchiveError::Sparse(_)));
    assert!(matches!(
        archive_refusal(&[b'x'; 1024]),
        ArchiveError::Field("checksum") | ArchiveError::Checksum
    ));
}

#[test]
fn attributes_without_a_place_are_counted() {
    let archive = archive_of(&[("a", Entry::file(b"").xattr("com.apple.x", b"1").xattr("user.x", b"2"))]);
    let mut tree = new_tree(Limits::default());
    let report = ingest(&mut tree, archive.as_slice(), Whiteouts::Keep).unwrap();
    assert_eq!(report, IngestReport { entries: 1, skipped_xattrs: 1 });
    assert_eq!(model_of(&image_of(&tree))[&b"a"[..]], Entry::file(b"").xattr("user.x", b"2"));
}

#[test]
fn a_device_number_without_a_form() {
    let archive = archive_of(&[("a", Entry::new(Kind::CharDevice(4096, 0), 0o600))]);
    let tree = tree_of(&archive).unwrap();
    let written = aegis_erofs::write_image(&tree, &tempfile::tempfile().unwrap(), &Default::default());
    assert!(matches!(written, Err(aegis_erofs::WriteError::DeviceNumber { major: 4096, minor: 0 })));
}
