//! Later entries over earlier ones, in one archive and over layers.

// The lint's exception for tests does not reach their helper functions.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use aegis_erofs::{IngestError, Limits, Whiteouts, ingest};
use support::{Entry, Kind, Model, archive_of, image_of, model_of, new_tree};

type Layer<'l> = &'l [(&'l str, Entry)];

fn try_stack(layers: &[Layer<'_>], whiteouts: Whiteouts) -> Result<Model, IngestError> {
    let mut tree = new_tree(Limits::default());
    for layer in layers {
        ingest(&mut tree, archive_of(layer).as_slice(), whiteouts)?;
    }
    Ok(model_of(&image_of(&tree)))
}

fn stack(layers: &[Layer<'_>]) -> Model {
    try_stack(layers, Whiteouts::Apply).unwrap()
}

fn paths(model: &Model) -> Vec<&str> {
    model.keys().map(|path| str::from_utf8(path).unwrap()).collect()
}

fn file() -> Entry {
    Entry::file(b"")
}

#[test]
fn a_later_entry_replaces_an_earlier_one() {
    let changes = [
        ("a", Entry::file(b"old")),
        ("a", Entry::file(b"new")),
        ("s", Entry::symlink("a")),
        ("s", Entry::directory()),
        ("s/x", file()),
        ("d/x", file()),
        ("d", Entry::symlink("s")),
    ];
    let model = stack(&[&changes]);
    assert_eq!(paths(&model), ["a", "d", "s", "s/x"]);
    assert_eq!(model[&b"a"[..]], Entry::file(b"new"));
    assert_eq!(model[&b"d"[..]], Entry::symlink("s"));
}

#[test]
fn a_directory_over_a_directory_keeps_what_is_in_it() {
    let private = Entry::new(Kind::Directory, 0o700);
    let model = stack(&[&[("d/x", file()), ("d", Entry::directory())], &[("d", private.clone())]]);
    assert_eq!(paths(&model), ["d", "d/x"]);
    assert_eq!(model[&b"d"[..]], private);
}

#[test]
fn replacing_one_name_leaves_the_others() {
    let model = stack(&[
        &[("a", Entry::file(b"1")), ("b", Entry::hard_link("a")), ("c", Entry::hard_link("b"))],
        &[("a", Entry::file(b"2"))],
    ]);
    assert_eq!(model[&b"a"[..]].kind, Kind::File(b"2".to_vec()));
    assert_eq!(model[&b"b"[..]].kind, Kind::File(b"1".to_vec()));
    assert_eq!(model[&b"c"[..]].kind, Kind::HardLink(b"b".to_vec()));
}

#[test]
fn the_root_has_metadata_too() {
    let mut tree = new_tree(Limits::default());
    let archive = archive_of(&[("./", Entry::new(Kind::Directory, 0o1777))]);
    ingest(&mut tree, archive.as_slice(), Whiteouts::Keep).unwrap();
    assert_eq!(image_of(&tree).root().unwrap().mode(), 0o1777);
}

#[test]
fn whiteouts_remove_what_is_below() {
    let lower: Layer<'_> = &[("a", file()), ("d/x", file()), ("d/y/z", file()), ("e", file())];
    let model = stack(&[lower, &[(".wh.a", file()), ("d/.wh.y", file()), (".wh.nothing", file())]]);
    assert_eq!(paths(&model), ["d", "d/x", "e"]);
}

#[test]
fn opaque_directories_hide_what_is_below() {
    let lower: Layer<'_> = &[("d/x", file()), ("d/y/z", file())];
    let before = stack(&[lower, &[("d/.wh..wh..opq", file()), ("d/new", file())]]);
    let after = stack(&[lower, &[("d/new", file()), ("d/.wh..wh..opq", file())]]);
    assert_eq!(paths(&before), ["d", "d/new"]);
    assert_eq!(before, after, "the order in the layer does not matter");
}

#[test]
fn a_whiteout_does_not_touch_its_own_layer() {
    let lower: Layer<'_> = &[("d/old", file()), ("f", Entry::file(b"old"))];
    let upper: Layer<'_> = &[
        ("d", Entry::directory()),
        ("d/new", file()),
        (".wh.d", file()),
        ("f", Entry::file(b"new")),
        (".wh.f", file()),
    ];
    let model = stack(&[lower, upper]);
    assert_eq!(paths(&model), ["d", "d/new", "f"]);
    assert_eq!(model[&b"f"[..]], Entry::file(b"new"));
}

#[test]
fn kept_whiteouts_are_files() {
    let model = try_stack(&[&[("a", file())], &[(".wh.a", file())]], Whiteouts::Keep).unwrap();
    assert_eq!(paths(&model), [".wh.a", "a"]);
}

#[test]
fn whiteouts_that_name_nothing_are_refused() {
    for path in [".wh.", ".wh..", ".wh...", ".wh.a/b"] {
        let refused = try_stack(&[&[(path, file())]], Whiteouts::Apply);
        assert!(matches!(refused, Err(IngestError::Whiteout(_))), "{path}");
    }
    let through = try_stack(&[&[("s", Entry::symlink("/"))], &[("s/.wh.etc", file())]], Whiteouts::Apply);
    assert!(matches!(through, Err(IngestError::Entry { .. })));
}

#[test]
fn bookkeeping_of_aufs_is_left_out() {
    let model =
        stack(&[&[(".wh..wh.plnk", Entry::directory()), (".wh..wh.plnk/1.2", file()), ("a", file())]]);
    assert_eq!(paths(&model), ["a"]);
}
