//! Layers beside what `umoci unpack` makes of them: some hundred images of layers that chance has made, and layers with the
//! habits of the usual builders.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use aegis_erofs::{FileKind, FileTree, Image, ImageOptions, Layer, Limits, Spool, write_over};

use super::builders;
use super::chance;
use super::tars::digest;

/// What is at each path, in words.
type Tree = BTreeMap<String, String>;

/// How long chance may make images.
const TIME: Duration = Duration::from_secs(35);
/// How many it makes at most, and at least, however slow the host is.
const IMAGES: std::ops::RangeInclusive<u64> = 60..=300;

/// What a file is, but for its names.
fn described(
    kind: &str,
    (mode, uid, gid): (u32, u32, u32),
    content: &str,
    mut xattrs: Vec<(String, Vec<u8>)>,
) -> String {
    xattrs.sort();
    let xattrs: Vec<String> =
        xattrs.iter().map(|(name, value)| format!("{name}={}", value.escape_ascii())).collect();
    format!("{kind} {:o} {uid}:{gid} {content} {xattrs:?}", mode & 0o7777)
}

fn contents(bytes: &[u8]) -> String {
    if bytes.len() < 100 {
        bytes.escape_ascii().to_string()
    } else {
        format!("{} {}", bytes.len(), digest(bytes))
    }
}

/// Names of one file get the first of them.
fn with_links(files: Vec<(String, u64, String)>) -> Tree {
    let mut first: BTreeMap<u64, String> = BTreeMap::new();
    let mut sorted = files;
    sorted.sort();
    let tree = sorted.into_iter().map(|(path, number, what)| {
        let name = first.entry(number).or_insert_with(|| path.clone()).clone();
        (path, format!("{what} = {name}"))
    });
    tree.collect()
}

/// What is in a directory of the host.
fn of_host(root: &Path) -> Tree {
    let (mut files, mut dirs) = (Vec::new(), vec![root.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let kind = meta.file_type();
            if kind.is_dir() {
                dirs.push(path.clone());
            }
            files.push((
                path.strip_prefix(root).unwrap().to_str().unwrap().to_owned(),
                meta.ino(),
                of_file(&path),
            ));
        }
    }
    files.push((String::new(), 0, of_file(root)));
    with_links(files)
}

fn of_file(path: &Path) -> String {
    let meta = fs::symlink_metadata(path).unwrap();
    let kind = meta.file_type();
    let device = || format!("{}:{}", rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
    let time = || format!("at {}.{:09}", meta.mtime(), meta.mtime_nsec());
    let (word, content) = if kind.is_dir() {
        ("directory", String::new())
    } else if kind.is_symlink() {
        ("link", fs::read_link(path).unwrap().to_str().unwrap().to_owned())
    } else if kind.is_char_device() {
        ("character device", device())
    } else if kind.is_block_device() {
        ("block device", device())
    } else if kind.is_fifo() {
        ("pipe", String::new())
    } else {
        ("file", format!("{} {}", contents(&fs::read(path).unwrap()), time()))
    };
    let mut names = vec![0; 64 << 10];
    let len = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let names = names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let xattrs = names.map(|name| {
        let mut value = vec![0; 64 << 10];
        let len = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        (String::from_utf8(name.to_vec()).unwrap(), value[..len].to_vec())
    });
    described(word, (meta.mode(), meta.uid(), meta.gid()), &content, xattrs.collect())
}

/// What is on the disk that we make of layers.
fn of_disk(layers: &[Vec<u8>], dir: &Path) -> Result<Tree, String> {
    let mut tree = FileTree::new(Limits::default(), Spool::in_dir(dir).unwrap());
    let (mut data, mut blocks) = (Vec::new(), Vec::new());
    for (number, layer) in (0u32..).zip(layers) {
        let file = tempfile::tempfile_in(dir).unwrap();
        let writing = file.try_clone().unwrap();
        let read =
            Layer::read(layer.as_slice(), writing, &Limits::default()).map_err(|error| error.to_string())?;
        blocks.push(read.blocks());
        data.push(file);
        let read = Layer::decode(&read.encode()).unwrap();
        read.stack(&mut tree, number).map_err(|error| error.to_string())?;
    }
    let disk = tempfile::tempfile_in(dir).unwrap();
    let mut end =
        write_over(&tree, &disk, &blocks, &ImageOptions::default()).map_err(|error| error.to_string())?.bytes;
    for (file, blocks) in data.iter().zip(&blocks) {
        let mut bytes = vec![0; usize::try_from(*blocks).unwrap() * 4096];
        let len = file.read_at(&mut bytes, 0).unwrap();
        assert!(len == bytes.len() || bytes.is_empty(), "the data of a layer is whole");
        disk.write_all_at(&bytes, end).unwrap();
        end += bytes.len() as u64;
    }
    Ok(with_links(of_image(&Image::open(disk).unwrap())))
}

fn of_image(image: &Image<File>) -> Vec<(String, u64, String)> {
    let mut files = Vec::new();
    let walked = image.walk(1_000_000, |path, inode| {
        let number = |device: aegis_erofs::Device| format!("{}:{}", device.major, device.minor);
        let (word, content) = match inode.kind() {
            FileKind::Directory => ("directory", String::new()),
            FileKind::Symlink => ("link", String::from_utf8(image.read_link(inode)?.to_vec()).unwrap()),
            FileKind::CharDevice(device) => ("character device", number(device)),
            FileKind::BlockDevice(device) => ("block device", number(device)),
            FileKind::Fifo => ("pipe", String::new()),
            FileKind::Socket => ("socket", String::new()),
            FileKind::File => {
                let mut bytes = vec![0; usize::try_from(inode.size()).unwrap()];
                image.read(inode, 0, &mut bytes)?;
                let time = inode.mtime();
                ("file", format!("{} at {}.{:09}", contents(&bytes), time.seconds, time.nanoseconds))
            }
        };
        let xattrs = image.xattrs(inode)?.into_iter();
        let xattrs = xattrs.map(|(name, value)| (String::from_utf8(name.to_vec()).unwrap(), value.to_vec()));
        let owner = (inode.mode().into(), inode.uid(), inode.gid());
        let path = String::from_utf8(path.to_vec()).unwrap();
        let number = if path.is_empty() { 0 } else { inode.nid() };
        files.push((path, number, described(word, owner, &content, xattrs.collect())));
        Ok::<(), aegis_erofs::ReadError>(())
    });
    walked.unwrap();
    files
}

/// What umoci makes of these layers, or why it refuses them.
fn unpacked(layers: &[Vec<u8>], dir: &Path) -> Result<Tree, String> {
    super::tars::layout(&dir.join("layout"), layers);
    let (image, bundle) = (format!("{}:it", dir.join("layout").display()), dir.join("bundle"));
    let umoci = Command::new("umoci").args(["unpack", "--image", &image]).arg(&bundle).output().unwrap();
    if !umoci.status.success() {
        return Err(String::from_utf8_lossy(&umoci.stderr).into_owned());
    }
    Ok(of_host(&bundle.join("rootfs")))
}

/// Whether umoci takes these layers; then we do, and have the same tree.
fn compare(what: &str, layers: &[Vec<u8>]) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let theirs = unpacked(layers, dir.path())?;
    let ours = of_disk(layers, dir.path())
        .unwrap_or_else(|error| panic!("{what}: umoci takes it, we do not: {error}"));
    let differences: Vec<String> = (theirs.keys().chain(ours.keys()))
        .filter(|path| theirs.get(*path) != ours.get(*path))
        .map(|path| format!("{path:?}\n  umoci: {:?}\n  we:    {:?}", theirs.get(path), ours.get(path)))
        .collect();
    assert!(differences.is_empty(), "{what}:\n{}", differences.join("\n"));
    Ok(())
}

/// Whether there is something to compare with, and a user who can make what it makes.
fn comparable() -> bool {
    let umoci = Command::new("umoci").arg("--version").output().is_ok();
    let root = rustix::process::geteuid().is_root();
    if !umoci || !root {
        let _mute = writeln!(
            std::io::stderr(),
            "SKIPPED: layers are not compared with umoci (installed: {umoci}, root: {root})"
        );
    }
    umoci && root
}

#[test]
fn layers_of_all_builders_have_the_tree_that_others_unpack() {
    if !comparable() {
        return;
    }
    for (builder, layers) in builders::all() {
        compare(builder, &layers)
            .unwrap_or_else(|error| panic!("umoci refuses what {builder} makes: {error}"));
    }
}

#[test]
fn layers_made_by_chance_have_the_tree_that_others_unpack() {
    if !comparable() {
        return;
    }
    let (begun, mut refused, mut made) = (Instant::now(), Vec::new(), 0);
    for seed in 1..=*IMAGES.end() {
        if begun.elapsed() > TIME && made > *IMAGES.start() {
            break;
        }
        made += 1;
        if let Err(error) = compare(&format!("seed {seed}"), &chance::layers(seed)) {
            refused.push((seed, error));
        }
    }
    // Chance makes some that nobody takes.
    assert!(refused.len() as u64 <= made / 4, "{} of {made} are refused: {refused:#?}", refused.len());
}
