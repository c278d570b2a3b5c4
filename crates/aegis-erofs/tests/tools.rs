//! What others make of the images: `fsck.erofs` of erofs-utils, and the kernel of this machine. And the command.

// The lint's exception for tests does not reach their helper functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::cast_possible_wrap)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use aegis_erofs::Image;
use support::{Entry, Kind, archive_of, contents, model_of};

const COMMAND: &str = env!("CARGO_BIN_EXE_aegis-mkerofs");

/// A file whose attributes take more than a block.
const MANY_ATTRIBUTES: &str = "many";

/// All that an image can contain, with sizes around the limits of inline data.
fn sample() -> Vec<(String, Entry)> {
    let mut entries = vec![
        ("./".to_owned(), Entry::directory()),
        ("empty".to_owned(), Entry::file(b"")),
        ("hello".to_owned(), Entry::file(b"hello\n")),
        ("suid".to_owned(), Entry::new(Kind::File(b"#!/bin/sh\n".to_vec()), 0o4755)),
        ("sticky".to_owned(), Entry::new(Kind::Directory, 0o1777)),
        ("link".to_owned(), Entry::symlink("hello")),
        ("long-link".to_owned(), Entry::symlink(&"t/".repeat(1500))),
        ("hello2".to_owned(), Entry::hard_link("hello")),
        ("dir/hello3".to_owned(), Entry::hard_link("hello")),
        ("null".to_owned(), Entry::new(Kind::CharDevice(1, 3), 0o666)),
        ("disk".to_owned(), Entry::new(Kind::BlockDevice(259, 300), 0o660)),
        ("fifo".to_owned(), Entry::new(Kind::Fifo, 0o600)),
        ("!before-dot".to_owned(), Entry::file(b"x")),
        ("~".to_owned(), Entry::file(b"x")),
        ("zeros".to_owned(), Entry::file(&[0; 100_000])),
        (
            "attributes".to_owned(),
            Entry::file(b"x").xattr("user.note", b"a\nb=c").xattr("trusted.t", &[7; 3000]),
        ),
        (
            MANY_ATTRIBUTES.to_owned(),
            Entry::file(&contents(3000, 1)).xattr("user.a", &[1; 3000]).xattr("user.b", &[2; 3000]),
        ),
        ("dir-with".to_owned(), Entry::directory().xattr("user.d", b"1")),
        ("link-with".to_owned(), Entry::symlink(&"u".repeat(900)).xattr("trusted.l", &[3; 3500])),
    ];
    // All directories are there, before what is in them: tar gives those that are not the present time.
    for name in ["dir", "sizes", "names"] {
        entries.insert(1, (name.to_owned(), Entry::directory()));
    }
    for depth in 1..100 {
        entries.push((format!("deep{}", "/d".repeat(depth)), Entry::directory()));
    }
    entries.insert(1, ("deep".to_owned(), Entry::directory()));
    let capability = [1, 0, 0, 2, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    entries.push(("capable".to_owned(), Entry::file(b"x").xattr("security.capability", &capability)));
    for size in [1, 4031, 4032, 4033, 4095, 4096, 4097, 8191, 8192, 12_000, 1 << 20] {
        entries.push((format!("sizes/{size}"), Entry::file(&contents(size, 3))));
    }
    for i in 0..700usize {
        entries.push((format!("names/{}{i}", "n".repeat(i % 150)), Entry::file(&contents(i * 13 % 3000, 5))));
    }
    for (number, (_, entry)) in entries.iter_mut().enumerate() {
        entry.mtime = 1_700_000_000 + number as i64;
        if !matches!(entry.kind, Kind::HardLink(_)) {
            (entry.uid, entry.gid) = (1000, 3_000_000);
        }
    }
    entries
}

struct Fixture {
    dir: tempfile::TempDir,
    archive: PathBuf,
    image: PathBuf,
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let (archive, image) = (dir.path().join("in.tar"), dir.path().join("out.erofs"));
    let entries = sample();
    let bytes = support::archive(entries.iter().map(|(path, entry)| (path.as_bytes(), entry)));
    fs::write(&archive, bytes).unwrap();
    let output = Command::new(COMMAND).args([&image, &archive]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    Fixture { dir, archive, image }
}

impl Fixture {
    /// The archive as tar unpacks it.
    fn unpacked(&self) -> PathBuf {
        let dir = self.dir.path().join("unpacked");
        fs::create_dir(&dir).unwrap();
        let xattrs = ["--xattrs", "--xattrs-include=*", "--delay-directory-restore", "-p", "-xf"];
        run(Command::new("tar").arg("-C").arg(&dir).args(xattrs).arg(&self.archive));
        dir
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn installed(tool: &str) -> bool {
    let found = Command::new(tool).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        eprintln!("notice: {tool} is not installed; the test does nothing");
    }
    found
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// What `lstat`, `readlink` and reading say of each file below `root`. Unless `exact`, without what fsck.erofs loses
/// when it extracts: it changes the owner last, which clears setuid, and makes each name of a hard-linked file a file
/// of its own.
fn listing(root: &Path, exact: bool) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        let kind = stat.file_type();
        let content = if kind.is_symlink() {
            fs::read_link(&path).unwrap().display().to_string()
        } else if kind.is_file() {
            fs::read(&path).unwrap().escape_ascii().to_string()
        } else if kind.is_char_device() || kind.is_block_device() {
            stat.rdev().to_string()
        } else {
            String::new()
        };
        if kind.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let (mode, nlink) = match (exact, kind.is_dir()) {
            (true, false) => (stat.mode(), stat.nlink()),
            (true, true) => (stat.mode(), 0),
            (false, _) => (stat.mode() & !0o6000, 0),
        };
        let line = format!("{mode:o} {} {} {} {nlink} {content}", stat.uid(), stat.gid(), stat.mtime());
        found.insert(path.strip_prefix(root).unwrap().to_owned(), line);
    }
    found
}

/// The extended attributes as the kernel shows them.
fn attributes(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 65_536];
    let len = rustix::fs::llistxattr(path, &mut names).unwrap();
    let names = names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 65_536];
            let len = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
            (name.to_vec(), value[..len].to_vec())
        })
        .collect()
}

fn assert_same(expected: &BTreeMap<PathBuf, String>, found: &BTreeMap<PathBuf, String>) {
    assert_eq!(expected.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
    for (path, line) in expected {
        // Not assert_eq!: a mebibyte of contents helps nobody.
        assert!(found[path] == *line, "{}: {:.200} instead of {line:.200}", path.display(), found[path]);
    }
}

#[test]
fn fsck_finds_no_fault_and_extracts_the_same() {
    if !installed("fsck.erofs") {
        return;
    }
    let fixture = fixture();
    run(Command::new("fsck.erofs").arg(&fixture.image));
    if !is_root() {
        eprintln!("notice: not root; owners and devices cannot be extracted");
        return;
    }
    let extracted = fixture.dir.path().join("extracted");
    let mut option = std::ffi::OsString::from("--extract=");
    option.push(&extracted);
    run(Command::new("fsck.erofs").args([option.as_os_str(), "--preserve".as_ref()]).arg(&fixture.image));
    assert_same(&listing(&fixture.unpacked(), false), &listing(&extracted, false));
}

#[test]
fn fsck_finds_no_fault_in_an_image_of_layers() {
    if !installed("fsck.erofs") {
        return;
    }
    let entries = sample();
    let whole: Vec<(&str, Entry)> =
        entries.iter().map(|(path, entry)| (path.as_str(), entry.clone())).collect();
    let upper = [
        ("sizes/8192", Entry::file(&contents(9000, 9))),
        (".wh.fifo", Entry::file(b"")),
        ("new", Entry::file(&[1; 5000])),
    ];
    let mut image = support::layered(&[archive_of(&whole), archive_of(&upper)]).unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Seek::rewind(&mut image).unwrap();
    std::io::copy(&mut image, &mut file).unwrap();
    run(Command::new("fsck.erofs").arg(file.path()));
    let model = model_of(&Image::open(image).unwrap());
    assert!(model.contains_key(&b"new"[..]) && !model.contains_key(&b"fifo"[..]));
}

#[test]
fn the_kernel_shows_what_tar_unpacks() {
    if !is_root() {
        eprintln!("notice: not root; the test does nothing");
        return;
    }
    let fixture = fixture();
    let mount_point = fixture.dir.path().join("mnt");
    fs::create_dir(&mount_point).unwrap();
    let mount = ["-t", "erofs", "-o", "loop,ro"];
    let mounted = Command::new("mount").args(mount).args([&fixture.image, &mount_point]).output();
    if !mounted.as_ref().is_ok_and(|output| output.status.success()) {
        eprintln!("notice: this machine mounts no EROFS; the test does nothing: {mounted:?}");
        return;
    }
    let unmount = Unmount(mount_point.clone());
    let unpacked = fixture.unpacked();
    assert_same(&listing(&unpacked, true), &listing(&mount_point, true));
    for (path, entry) in sample() {
        if !matches!(entry.kind, Kind::HardLink(_)) {
            assert!(attributes(&mount_point.join(&path)) == entry.xattrs, "attributes of {path}");
        }
    }
    let root = fs::metadata(&mount_point).unwrap();
    let directories =
        fs::read_dir(&mount_point).unwrap().filter(|e| e.as_ref().unwrap().file_type().unwrap().is_dir());
    assert_eq!(root.nlink(), 2 + directories.count() as u64);
    drop(unmount);
}

#[test]
fn the_reader_finds_the_same_in_an_image_of_mkfs() {
    if !installed("mkfs.erofs") {
        return;
    }
    if !is_root() {
        eprintln!("notice: not root; the test does nothing");
        return;
    }
    let fixture = fixture();
    let other = fixture.dir.path().join("other.erofs");
    run(Command::new("mkfs.erofs").arg("--preserve-mtime").arg(&other).arg(fixture.unpacked()));
    let model = |path: &Path| model_of(&Image::open(fs::File::open(path).unwrap()).unwrap());
    let (expected, found) = (model(&other), model(&fixture.image));
    assert_eq!(expected.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
    for (path, entry) in expected {
        // Only here: the file system that tar unpacked to may keep no more than 4096 bytes of attributes per file.
        let same = found[&path] == entry || path == MANY_ATTRIBUTES.as_bytes();
        assert!(same, "{}", path.escape_ascii());
    }
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        Command::new("umount").arg(&self.0).status().ok();
    }
}

fn command_with(arguments: &[&Path], input: &[u8]) -> Output {
    let mut child = Command::new(COMMAND)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // The command may refuse before it has read everything.
    stdin.write_all(input).ok();
    drop(stdin);
    child.wait_with_output().unwrap()
}

#[test]
fn the_command_reads_standard_input_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("x.erofs");
    let mut input = archive_of(&[("a", Entry::file(b"1")), ("b", Entry::directory())]);
    input.resize(input.len() + 500_000, 0);
    let output = command_with(&[&out], &input);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let line = format!("{}: 2 entries, {} bytes\n", out.display(), fs::metadata(&out).unwrap().len());
    assert_eq!(String::from_utf8_lossy(&output.stdout), line);
    assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o400, 0o400);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
}

#[test]
fn a_refused_archive_leaves_the_old_image() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("x.erofs");
    fs::write(&out, b"old").unwrap();
    let output = command_with(&[&out], &archive_of(&[("a", Entry::symlink(""))]));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "aegis-mkerofs: \"a\": the target of the symbolic link is not valid\n"
    );
    assert_eq!(fs::read(&out).unwrap(), b"old");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for arguments in [&[][..], &["--what"], &["a", "b", "c"]] {
        let output = Command::new(COMMAND).args(arguments).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stderr.starts_with(b"usage: "));
    }
}
