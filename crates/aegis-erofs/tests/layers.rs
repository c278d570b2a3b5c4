//! Later entries over earlier ones, in one archive and over layers.

// The lint's exception for tests does not reach their helper functions.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use aegis_erofs::{Image, IngestError, Limits, Whiteouts, ingest};
use support::{Entry, Kind, Model, archive_of, contents, image_of, layered, model_of, new_tree};

type Entries<'l> = &'l [(&'l str, Entry)];

fn try_stack(layers: &[Entries<'_>], whiteouts: Whiteouts) -> Result<Model, IngestError> {
    let mut tree = new_tree(Limits::default());
    for layer in layers {
        ingest(&mut tree, archive_of(layer).as_slice(), whiteouts)?;
    }
    let model = model_of(&image_of(&tree));
    if whiteouts == Whiteouts::Apply {
        let archives: Vec<Vec<u8>> = layers.iter().map(|layer| archive_of(layer)).collect();
        let layered = model_of(&Image::open(layered(&archives)?).unwrap());
        assert_eq!(layered, model, "layers that are read by themselves give the same image");
    }
    Ok(model)
}

fn stack(layers: &[Entries<'_>]) -> Model {
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
    let lower: Entries<'_> = &[("a", file()), ("d/x", file()), ("d/y/z", file()), ("e", file())];
    let model = stack(&[lower, &[(".wh.a", file()), ("d/.wh.y", file()), (".wh.nothing", file())]]);
    assert_eq!(paths(&model), ["d", "d/x", "e"]);
}

#[test]
fn opaque_directories_hide_what_is_below() {
    let lower: Entries<'_> = &[("d/x", file()), ("d/y/z", file())];
    let before = stack(&[lower, &[("d/.wh..wh..opq", file()), ("d/new", file())]]);
    let after = stack(&[lower, &[("d/new", file()), ("d/.wh..wh..opq", file())]]);
    assert_eq!(paths(&before), ["d", "d/new"]);
    assert_eq!(before, after, "the order in the layer does not matter");
}

#[test]
fn a_whiteout_does_not_touch_its_own_layer() {
    let lower: Entries<'_> = &[("d/old", file()), ("f", Entry::file(b"old"))];
    let upper: Entries<'_> = &[
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
    for path in [".wh.", ".wh..", ".wh...", "a/.wh."] {
        let refused = try_stack(&[&[(path, file())]], Whiteouts::Apply);
        assert!(matches!(refused, Err(IngestError::Whiteout(_))), "{path}");
    }
}

#[test]
fn bookkeeping_of_aufs_is_left_out() {
    let model =
        stack(&[&[(".wh..wh.plnk", Entry::directory()), (".wh..wh.plnk/1.2", file()), ("a", file())]]);
    assert_eq!(paths(&model), ["a"]);
}

#[test]
fn contents_of_all_sizes_come_from_the_layer_that_has_them() {
    let sizes = [0, 1, 2047, 2048, 2049, 4096, 4097, 100_000];
    let layer = |prefix: &str, seed| -> Vec<(String, Entry)> {
        sizes.iter().map(|size| (format!("{prefix}{size}"), Entry::file(&contents(*size, seed)))).collect()
    };
    let (lower, upper) = (layer("a", 1), [layer("a", 2).split_off(4), layer("b", 3)].concat());
    let lower: Vec<(&str, Entry)> =
        lower.iter().map(|(path, entry)| (path.as_str(), entry.clone())).collect();
    let upper: Vec<(&str, Entry)> =
        upper.iter().map(|(path, entry)| (path.as_str(), entry.clone())).collect();
    let model = stack(&[&lower, &upper]);
    assert_eq!(model[&b"a100000"[..]], Entry::file(&contents(100_000, 2)));
    assert_eq!(model[&b"a2048"[..]], Entry::file(&contents(2048, 1)));
    assert_eq!(model[&b"b4097"[..]], Entry::file(&contents(4097, 3)));
}

#[test]
fn the_root_of_a_layer_may_be_called_slash() {
    let archive = archive_of(&[("/", Entry::new(Kind::Directory, 0o711)), ("a", file())]);
    let image = Image::open(layered(&[archive]).unwrap()).unwrap();
    assert_eq!(image.root().unwrap().mode(), 0o711);
    assert_eq!(paths(&model_of(&image)), ["a"]);
}

#[test]
fn a_layer_keeps_its_limits() {
    let archive = archive_of(&[("a", Entry::file(&[1; 5000])), ("b", Entry::file(&[2; 100]))]);
    let read = |limits: Limits| {
        aegis_erofs::Layer::read(archive.as_slice(), tempfile::tempfile().unwrap(), &limits).map(drop)
    };
    assert!(read(Limits::default()).is_ok());
    for limits in [
        Limits { max_data_bytes: 5050, ..Limits::default() },
        Limits { max_entries: 1, ..Limits::default() },
        Limits { max_metadata_bytes: 50, ..Limits::default() },
    ] {
        assert!(read(limits.clone()).unwrap_err().to_string().contains("more than"), "{limits:?}");
    }
}
