//! Paths as builders of images write them: below the root whatever their letter, over links and in place of files.

// The lint's exception for tests does not reach their helper functions.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use aegis_erofs::{Image, IngestError, Limits, Whiteouts, ingest};
use support::{Entry, Kind, Model, archive_of, image_of, layered, model_of, new_tree};

type Entries<'l> = &'l [(&'l str, Entry)];

fn try_stack(layers: &[Entries<'_>]) -> Result<Model, IngestError> {
    let archives: Vec<Vec<u8>> = layers.iter().map(|layer| archive_of(layer)).collect();
    let mut tree = new_tree(Limits::default());
    for archive in &archives {
        ingest(&mut tree, archive.as_slice(), Whiteouts::Apply)?;
    }
    let model = model_of(&image_of(&tree));
    let layered = model_of(&Image::open(layered(&archives)?).unwrap());
    assert_eq!(layered, model, "layers that are read by themselves give the same image");
    Ok(model)
}

fn stack(layers: &[Entries<'_>]) -> Model {
    try_stack(layers).unwrap()
}

fn paths(model: &Model) -> Vec<&str> {
    model.keys().map(|path| str::from_utf8(path).unwrap()).collect()
}

fn file() -> Entry {
    Entry::file(b"")
}

#[test]
fn no_letter_of_a_path_leads_above_the_root() {
    let entries = [
        ("/a", file()),
        ("//b/./c", file()),
        ("../d", file()),
        ("x/../e", file()),
        ("../../y/../f", file()),
        ("/../g/", Entry::directory()),
    ];
    let model = stack(&[&entries]);
    assert_eq!(paths(&model), ["a", "b", "b/c", "d", "e", "f", "g"]);
    assert_eq!(model[&b"b"[..]], Entry::directory());
}

#[test]
fn so_it_is_with_targets_of_hard_links() {
    let entries = [
        ("d/a", Entry::file(b"one")),
        ("b", Entry::hard_link("/d/a")),
        ("c", Entry::hard_link("../x/../d/./a")),
    ];
    let model = stack(&[&entries]);
    assert_eq!(model[&b"b"[..]], Entry::file(b"one"));
    assert_eq!(model[&b"c"[..]].kind, Kind::HardLink(b"b".to_vec()));
    let over_links = [("s", Entry::symlink("/d")), ("e", Entry::hard_link("s/a"))];
    assert_eq!(model_with(&over_links)[&b"e"[..]].kind, Kind::HardLink(b"d/a".to_vec()));
}

/// `entries` over a layer with the file `d/a`.
fn model_with(entries: Entries<'_>) -> Model {
    stack(&[&[("d/a", Entry::file(b"one"))], entries])
}

#[test]
fn what_is_below_a_link_of_the_same_layer_is_where_the_link_leads() {
    let expected = ["d", "d/a", "d/x", "s"];
    for target in ["d", "/d", "./d/", "../d", "/../../q/../d"] {
        assert_eq!(
            paths(&model_with(&[("s", Entry::symlink(target)), ("s/x", file())])),
            expected,
            "{target}"
        );
    }
    let chain = [("s", Entry::symlink("t")), ("t", Entry::symlink("/d")), ("s/x", file())];
    assert_eq!(paths(&model_with(&chain)), ["d", "d/a", "d/x", "s", "t"]);
    // `..` is that of the directory the link is in, and a target that is not there is made.
    let beside = [("u/v/s", Entry::symlink("../w")), ("u/v/s/x", file())];
    assert_eq!(paths(&stack(&[&beside])), ["u", "u/v", "u/v/s", "u/w", "u/w/x"]);
}

#[test]
fn links_to_files_and_files_of_the_same_layer_have_nothing_below_them() {
    for entries in [
        &[("f", file()), ("f/x", file())][..],
        &[("f", file()), ("s", Entry::symlink("f")), ("s/x", file())],
        &[("f", Entry::new(Kind::Fifo, 0o644)), ("f/x/y", file())],
    ] {
        let told = try_stack(&[entries]).unwrap_err().to_string();
        assert!(told.contains("below \"f\"") && told.contains("same layer"), "{told}");
    }
}

#[test]
fn a_directory_takes_the_place_of_what_else_a_lower_layer_has_there() {
    for below in [
        file(),
        Entry::symlink("d"),
        Entry::symlink("nowhere"),
        Entry::new(Kind::Fifo, 0o600),
        Entry::new(Kind::CharDevice(1, 3), 0o666),
    ] {
        let model = stack(&[&[("d/a", file()), ("p", below.clone())], &[("p/q/x", file())]]);
        assert_eq!(paths(&model), ["d", "d/a", "p", "p/q", "p/q/x"], "{below:?}");
        assert_eq!(model[&b"p"[..]], Entry::directory());
    }
    // Over a link of its own layer, too: that leads to what is a link in a lower one.
    let model = stack(&[
        &[("d/a", file()), ("l", Entry::symlink("d"))],
        &[("s", Entry::symlink("l")), ("s/x", file())],
    ]);
    assert_eq!(paths(&model), ["d", "d/a", "l", "l/x", "s"]);
}

#[test]
fn deletion_marks_delete_where_their_way_leads_and_nothing_where_it_leads_nowhere() {
    let lower: Entries<'_> = &[("d/a", file()), ("d/b", file()), ("f", file()), ("s", Entry::symlink("d"))];
    let all = ["d", "d/a", "d/b", "f", "s"];
    for mark in
        ["q/.wh.a", "f/.wh.a", "f/.wh..wh..opq", "q/r/.wh..wh..opq", "s/.wh.a", "s/.wh..wh..opq", ".wh.q"]
    {
        assert_eq!(paths(&stack(&[lower, &[(mark, file())]])), all, "{mark}");
    }
    for mark in ["d/.wh.a", "/d/.wh.a", "x/../d/.wh.a", "../d/.wh.a", "./d//.wh.a"] {
        assert_eq!(paths(&stack(&[lower, &[(mark, file())]])), ["d", "d/b", "f", "s"], "{mark}");
    }
    let own_link: Entries<'_> = &[("t", Entry::symlink("d")), ("t/.wh.a", file())];
    assert_eq!(paths(&stack(&[lower, own_link])), ["d", "d/b", "f", "s", "t"]);
    let own_link: Entries<'_> = &[("t", Entry::symlink("d")), ("t/.wh..wh..opq", file())];
    assert_eq!(paths(&stack(&[lower, own_link])), ["d", "f", "s", "t"]);
}

#[test]
fn what_is_below_a_name_that_looks_like_a_deletion_mark_is_a_file() {
    assert_eq!(paths(&stack(&[&[("a", file())], &[(".wh.b/c", file())]])), [".wh.b", ".wh.b/c", "a"]);
}

#[test]
fn an_image_of_ko_loads() {
    let base: Entries<'_> = &[
        ("etc/passwd", file()),
        ("run", Entry::directory()),
        ("var", Entry::directory()),
        ("var/run", Entry::symlink("/run")),
    ];
    let data: Entries<'_> =
        &[("/var/run/ko/HEAD", Entry::file(b"main")), ("/var/run/ko/own", Entry::symlink("HEAD"))];
    let app: Entries<'_> = &[
        ("/ko-app", Entry::directory()),
        ("/ko-app/server", Entry::new(Kind::File(b"ELF".to_vec()), 0o555)),
    ];
    let model = stack(&[base, data, app]);
    assert_eq!(model[&b"ko-app/server"[..]].mode, 0o555);
    assert_eq!(model[&b"var/run/ko/HEAD"[..]], Entry::file(b"main"));
    let alone = stack(&[data, app]);
    assert_eq!(alone[&b"var/run/ko"[..]], Entry::directory());
}

#[test]
fn directories_that_no_entry_speaks_of_are_as_mkdir_makes_them() {
    let shared = Entry { gid: 50, ..Entry::new(Kind::Directory, 0o2775) };
    let model = stack(&[&[("s", shared), ("s/a/b", file()), ("t/a", file())]]);
    let made = &model[&b"s/a"[..]];
    assert_eq!((made.mode, made.uid, made.gid), (0o2755, 0, 50));
    assert_eq!(model[&b"t"[..]], Entry::directory());
}
