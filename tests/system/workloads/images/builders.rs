//! Layers as the usual builders write them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;

use super::tars::{Form, Item, archive};

/// Builders, with the layers of an image of each.
pub(super) fn all() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    vec![
        ("docker", docker()),
        ("BuildKit", buildkit()),
        ("kaniko", kaniko()),
        ("ko", ko()),
        ("Jib", jib()),
        ("buildpacks", buildpacks()),
        ("Nix", nix()),
        ("Bazel", bazel()),
        ("apko", apko()),
        ("tar with sparse files", sparse()),
    ]
}

/// A base as Debian's, with its directories merged.
fn base() -> Vec<Item> {
    vec![
        Item::symlink("bin", "usr/bin"),
        Item::dir("etc/"),
        Item::file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"),
        Item::file("etc/shadow", b"root:*:::::::\n").mode(0o640).owner(0, 42),
        Item::dir("tmp/").mode(0o1777),
        Item::dir("usr/"),
        Item::dir("usr/bin/"),
        Item::file("usr/bin/sh", b"\x7fELF").mode(0o755),
        Item::file("usr/bin/su", b"\x7fELF").mode(0o4755),
        Item::hard_link("usr/bin/dash", "usr/bin/sh"),
        Item::file("usr/bin/ping", b"\x7fELF")
            .mode(0o755)
            .xattr("security.capability", b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        Item::dir("var/"),
        Item::dir("var/lib/"),
        Item::dir("var/lib/apt/").owner(42, 0).mode(0o700),
        Item::file("var/lib/apt/lists", b"many"),
        Item::symlink("var/run", "/run"),
        Item::dir("run/"),
    ]
}

fn docker() -> Vec<Vec<u8>> {
    let deleted = [
        Item::dir("etc/"),
        Item::file("etc/.wh.shadow", b"").mode(0),
        Item::dir("var/"),
        Item::dir("var/lib/"),
        Item::dir("var/lib/apt/").owner(42, 0),
        Item::file("var/lib/apt/.wh..wh..opq", b"").mode(0),
        Item::file("var/lib/apt/extended", b"few"),
    ];
    vec![archive(Form::Gnu, &base()), archive(Form::Pax, &deleted)]
}

fn buildkit() -> Vec<Vec<u8>> {
    let copied = [
        Item::dir("app/").owner(1000, 1000),
        Item { mtime: (1_700_000_000, 123_456_789), ..Item::file("app/run.sh", b"#!/bin/sh\n").mode(0o755) },
        Item::symlink("app/current", "run.sh").owner(1000, 1000),
        // A link by `COPY --link` replaces what is below, also a directory.
        Item::symlink("var/lib/apt", "../cache/apt"),
        Item::file("usr/bin/.wh.dash", b""),
    ];
    vec![archive(Form::Pax, &base()), archive(Form::Pax, &copied), archive(Form::Pax, &[])]
}

fn kaniko() -> Vec<Vec<u8>> {
    let all = [
        Item::dir("/").mode(0o711),
        Item::dir("/etc/"),
        Item::file("/etc/passwd", b"app:x:1:1::/:/app\n"),
        Item::hard_link("/etc/passwd-", "/etc/passwd"),
        Item::file("/etc/.wh.shadow", b""),
    ];
    vec![archive(Form::Gnu, &base()), archive(Form::Pax, &all)]
}

fn ko() -> Vec<Vec<u8>> {
    let data = [
        Item::file("/var/run/ko/HEAD", b"main").mode(0o444),
        Item::symlink("/var/run/ko/refs", "HEAD"),
        Item::file("/var/run/ko/deep/er/file", b"1").mode(0o444),
    ];
    let program = [Item::dir("/ko-app").mode(0o555), Item::file("/ko-app/server", b"\x7fELF").mode(0o555)];
    vec![archive(Form::Gnu, &data), archive(Form::Gnu, &program)]
}

fn jib() -> Vec<Vec<u8>> {
    let dirs =
        ["/", "/app/", "/app/libs/", "/app/classes/", "/app/classes/com/", "/app/classes/com/example/"];
    let mut items: Vec<Item> = dirs.iter().map(|path| Item::dir(path)).collect();
    let class = "/app/classes/com/example/AVeryLongNameOfAClassAsTheyAreCommonInThatLanguageWithItsFactoryBuilderFactory.class";
    items.push(Item::file(class, b"\xca\xfe\xba\xbe"));
    items.push(Item::file("/app/libs/library-1.0.jar", &[7; 5000]));
    vec![archive(Form::Gnu, &base()), archive(Form::Pax, &items)]
}

fn buildpacks() -> Vec<Vec<u8>> {
    let launch = [
        Item::dir("/cnb"),
        Item::dir("/cnb/process"),
        Item::symlink("/cnb/process/web", "/cnb/lifecycle/launcher"),
        Item::dir("/layers").owner(1000, 1000),
        Item::dir("/layers/config").owner(1000, 1000),
        Item::file("/layers/config/metadata.toml", b"[[processes]]\n").owner(1000, 1000),
    ];
    let workspace =
        [Item::dir("/workspace").owner(1000, 1000).mode(0o777), Item::file("/workspace/app", b"x")];
    vec![archive(Form::Pax, &launch), archive(Form::Pax, &workspace)]
}

fn nix() -> Vec<Vec<u8>> {
    let store = "./nix/store/8m2i0wmrxk1zdq6p9fzrk4mq0x3l8h1n-hello-2.12";
    let items = [
        Item::dir("./"),
        Item::dir("./nix/"),
        Item::dir("./nix/store/").mode(0o1775).owner(0, 30_000),
        Item::dir(store).mode(0o555),
        Item::file(&format!("{store}/hello"), b"\x7fELF").mode(0o555),
        // What is equal is one file there.
        Item::hard_link(&format!("{store}/again"), &format!("{store}/hello")),
        Item::symlink("./bin", &store[1..]),
        Item::dir("./tmp").mode(0o1777),
    ];
    vec![archive(Form::Gnu, &items)]
}

fn bazel() -> Vec<Vec<u8>> {
    let deep = "./app/main.runfiles/_main/external/rules_python~~python~python_3_11_x86_64-unknown-linux-gnu/lib/python3.11/site-packages";
    let items = [
        Item::file("./app/main", b"#!/usr/bin/env python3\n").mode(0o555),
        Item::file(&format!("{deep}/six.py"), b"pass\n").mode(0o555),
        Item::symlink("./app/link", &format!("/{deep}/six.py")),
        Item::symlink("./usr/lib64", "lib"),
        Item::file("./usr/lib64/own.so", b"\x7fELF"),
    ];
    vec![archive(Form::Ustar, &items[..1]), archive(Form::Gnu, &items)]
}

fn apko() -> Vec<Vec<u8>> {
    let items = [
        Item::symlink("bin", "usr/bin"),
        Item::symlink("lib", "usr/lib"),
        Item::symlink("lib64", "lib"),
        Item::dir("usr"),
        Item::dir("usr/bin"),
        Item::dir("usr/lib"),
        // Packages that know nothing of merged directories.
        Item::file("lib64/ld-linux-x86-64.so.2", b"\x7fELF").mode(0o755),
        Item::file("bin/busybox", b"\x7fELF").mode(0o755).xattr("user.apk-tools.checksum", b"\x01\x02\n\0"),
        Item::hard_link("bin/sh", "bin/busybox"),
        Item::dir("lib/apk/db"),
        Item::file("lib/apk/db/installed", b"C:Q1\n"),
        Item::dir("var/tmp").mode(0o1777),
        Item::device(b'3', "dev/null", (1, 3)).mode(0o666),
    ];
    vec![archive(Form::Pax, &items)]
}

/// GNU's tar itself, with holes in files.
fn sparse() -> Vec<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    for (name, ranges) in [("few", 2), ("many", 30), ("empty", 0)] {
        let file = File::create(dir.path().join(name)).unwrap();
        for number in 0..ranges {
            file.write_all_at(&[7; 3000], number * 65_536 + 8192).unwrap();
        }
        file.set_len(ranges * 65_536 + 100_000).unwrap();
    }
    let forms = ["--sparse-version=0.0", "--sparse-version=0.1", "--sparse-version=1.0"];
    let layer = |form: &&str| {
        let arguments =
            ["--create", "--sparse", "--format=posix", form, "--mtime=@0", "few", "many", "empty"];
        let done = Command::new("tar").current_dir(dir.path()).args(arguments).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        done.stdout
    };
    forms.iter().map(layer).collect()
}
