//! Archive to image and back; and garbage in both places.

// The lint's exception for tests does not reach their helper functions.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use aegis_erofs::{Image, ImageOptions, Limits, ReadError, Whiteouts, ingest, write_image};
use proptest::prelude::*;
use support::{archive, image_of, layered, model_of, models, new_tree, tree_of};

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn a_tree_comes_back_out_of_its_image(model in models()) {
        let bytes = archive(model.iter().map(|(path, entry)| (path.as_slice(), entry)));
        let image = image_of(&tree_of(&bytes).unwrap());
        prop_assert_eq!(model_of(&image), model);
    }

    #[test]
    fn a_tree_comes_back_out_of_its_layers(model in models(), at in any::<prop::sample::Index>()) {
        let mut lower = model.clone();
        let cut = model.keys().nth(at.index(model.len() + 1)).cloned();
        let upper = cut.map_or_else(Default::default, |cut| lower.split_off(&cut));
        let archives = [lower, upper].map(|part| archive(part.iter().map(|(path, entry)| (path.as_slice(), entry))));
        let image = Image::open(layered(&archives).unwrap()).unwrap();
        prop_assert_eq!(model_of(&image), model);
    }

    #[test]
    fn damaged_archives_never_panic(
        model in models(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = archive(model.iter().map(|(path, entry)| (path.as_slice(), entry)));
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
            fix_checksum(&mut bytes, at);
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        try_to_write(&bytes);
    }

    #[test]
    fn arbitrary_bytes_are_no_archive_and_no_image(bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
        try_to_write(&bytes);
        prop_assert!(Image::open(bytes.as_slice()).is_err());
    }

    #[test]
    fn damaged_images_never_panic(
        model in models(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..60),
    ) {
        let bytes = archive(model.iter().map(|(path, entry)| (path.as_slice(), entry)));
        let mut image = image_bytes(&bytes);
        // The checksum has to stay right, or nothing but its test is tested. Damage in the first blocks hits inodes.
        for (at, value) in damage {
            let area = if value % 2 == 0 { image.len() - 4096 } else { 8192.min(image.len() - 4096) };
            let at = 4096 + at.index(area);
            image[at] = value;
        }
        read_everything(&image);
    }
}

fn image_bytes(archive: &[u8]) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    write_image(&tree_of(archive).unwrap(), file.as_file(), &ImageOptions::default()).unwrap();
    std::fs::read(file.path()).unwrap()
}

fn try_to_write(archive: &[u8]) {
    let limits = Limits { max_data_bytes: 1 << 20, ..Limits::default() };
    for whiteouts in [Whiteouts::Keep, Whiteouts::Apply] {
        let mut tree = new_tree(limits.clone());
        // A refusal is as good as success.
        if ingest(&mut tree, archive, whiteouts).is_ok() {
            write_image(&tree, &tempfile::tempfile().unwrap(), &ImageOptions::default()).ok();
        }
    }
}

/// Makes the header that was damaged pass, so that the damage is seen.
fn fix_checksum(bytes: &mut [u8], at: usize) {
    let start = at / 512 * 512;
    let Some(header) = bytes.get_mut(start..start + 512) else { return };
    if &header[257..262] == b"ustar" && !(148..156).contains(&(at - start)) {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

fn read_everything(bytes: &[u8]) {
    let Ok(image) = Image::open(bytes) else { return };
    image
        .walk(10_000, |_, inode| {
            image.xattrs(inode).ok();
            image.read_link(inode).ok();
            image.read(inode, inode.size().saturating_sub(10), &mut [0; 10]).ok();
            Ok::<_, ReadError>(())
        })
        .ok();
}

#[test]
fn a_directory_of_many_blocks() {
    let entries: Vec<(String, support::Entry)> =
        (0..3000).map(|i| (format!("dir/{i}-{}", "x".repeat(i % 100)), support::Entry::file(b""))).collect();
    let bytes = archive(entries.iter().map(|(path, entry)| (path.as_bytes(), entry)));
    let model = model_of(&image_of(&tree_of(&bytes).unwrap()));
    assert_eq!(model.len(), 3001);
    assert!(entries.iter().all(|(path, entry)| model[path.as_bytes()] == *entry));
}

#[test]
fn the_same_archive_gives_the_same_image() {
    let bytes = support::archive_of(&[
        ("b", support::Entry::file(b"x").xattr("user.a", b"1")),
        ("a/c", support::Entry::symlink("../b")),
    ]);
    assert_eq!(image_bytes(&bytes), image_bytes(&bytes));
}

#[test]
fn a_wrong_checksum_is_seen() {
    let mut image = image_bytes(&support::archive_of(&[("a", support::Entry::file(b"x"))]));
    image[1024 + 16] ^= 1;
    assert!(matches!(Image::open(image.as_slice()), Err(ReadError::Checksum)));
}
