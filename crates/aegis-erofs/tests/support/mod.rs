//! A model of a file tree, made into an archive and read back out of an image.
#![allow(dead_code)] // Each test uses its part.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom};

use aegis_erofs::{
    FileKind, FileTree, Image, ImageOptions, IngestError, Layer, Limits, ReadError, Spool, Whiteouts, ingest,
    write_image, write_over,
};
use proptest::prelude::*;

/// Kind and content of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File(Vec<u8>),
    Symlink(Vec<u8>),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
    /// Another name of the file at this path.
    HardLink(Vec<u8>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: i64,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Entry {
    pub(crate) fn new(kind: Kind, mode: u16) -> Self {
        Self { kind, mode, uid: 0, gid: 0, mtime: 0, xattrs: BTreeMap::new() }
    }

    pub(crate) fn file(contents: &[u8]) -> Self {
        Self::new(Kind::File(contents.to_vec()), 0o644)
    }

    pub(crate) fn directory() -> Self {
        Self::new(Kind::Directory, 0o755)
    }

    pub(crate) fn symlink(target: &str) -> Self {
        Self::new(Kind::Symlink(target.into()), 0o777)
    }

    pub(crate) fn hard_link(target: &str) -> Self {
        Self::new(Kind::HardLink(target.into()), 0o644)
    }

    pub(crate) fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.xattrs.insert(name.into(), value.to_vec());
        self
    }
}

/// Paths with what is there; the first of several names of a file has the file, the others are hard links to it.
pub(crate) type Model = BTreeMap<Vec<u8>, Entry>;

/// An archive with these entries in this order.
pub(crate) fn archive<'e>(entries: impl IntoIterator<Item = (&'e [u8], &'e Entry)>) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, entry) in entries {
        append(&mut builder, path, entry);
    }
    builder.into_inner().unwrap()
}

/// The same with paths as text.
pub(crate) fn archive_of(entries: &[(&str, Entry)]) -> Vec<u8> {
    archive(entries.iter().map(|(path, entry)| (path.as_bytes(), entry)))
}

fn append(builder: &mut tar::Builder<Vec<u8>>, path: &[u8], entry: &Entry) {
    let (kind, link, device, contents): (_, &[u8], _, &[u8]) = match &entry.kind {
        Kind::File(contents) => (tar::EntryType::Regular, b"", None, contents),
        Kind::Directory => (tar::EntryType::Directory, b"", None, b""),
        Kind::Symlink(target) => (tar::EntryType::Symlink, target, None, b""),
        Kind::HardLink(target) => (tar::EntryType::Link, target, None, b""),
        Kind::CharDevice(major, minor) => (tar::EntryType::Char, b"", Some((*major, *minor)), b""),
        Kind::BlockDevice(major, minor) => (tar::EntryType::Block, b"", Some((*major, *minor)), b""),
        Kind::Fifo => (tar::EntryType::Fifo, b"", None, b""),
    };
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(entry.mode.into());
    header.set_uid(entry.uid.into());
    header.set_gid(entry.gid.into());
    header.set_mtime(entry.mtime.try_into().unwrap());
    header.set_size(contents.len() as u64);
    if let Some((major, minor)) = device {
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
    }
    // What does not fit into the header goes into an extension, of both kinds in turn. The crate's own methods for
    // paths do not take all bytes.
    let mut pax: Vec<(String, &[u8])> = Vec::new();
    for (name, value) in &entry.xattrs {
        pax.push((format!("SCHILY.xattr.{}", str::from_utf8(name).unwrap()), value));
    }
    for (name, kind, value, start) in [("path", b'L', path, 0), ("linkpath", b'K', link, 157)] {
        if value.len() > 100 && value.len() % 2 == 0 {
            append_gnu_name(builder, kind, value);
        } else if value.len() > 100 {
            pax.push((name.to_owned(), value));
        }
        let len = value.len().min(100);
        header.as_mut_bytes()[start..start + len].copy_from_slice(&value[..len]);
    }
    if !pax.is_empty() {
        builder.append_pax_extensions(pax.iter().map(|(name, value)| (name.as_str(), *value))).unwrap();
    }
    header.set_cksum();
    builder.append(&header, contents).unwrap();
}

fn append_gnu_name(builder: &mut tar::Builder<Vec<u8>>, kind: u8, name: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_size(name.len() as u64 + 1);
    header.set_cksum();
    builder.append(&header, [name, b"\0"].concat().as_slice()).unwrap();
}

pub(crate) fn new_tree(limits: Limits) -> FileTree {
    FileTree::new(limits, Spool::in_dir(&std::env::temp_dir()).unwrap())
}

/// The tree of one archive.
pub(crate) fn tree_of(archive: &[u8]) -> Result<FileTree, IngestError> {
    let mut tree = new_tree(Limits::default());
    ingest(&mut tree, archive, Whiteouts::Keep)?;
    Ok(tree)
}

/// The image of a tree, in an unlinked file.
pub(crate) fn image_of(tree: &FileTree) -> Image<File> {
    let file = tempfile::tempfile().unwrap();
    write_image(tree, &file, &ImageOptions::default()).unwrap();
    Image::open(file).unwrap()
}

/// The image of layers that are read by themselves and stacked: metadata, then the data of each.
pub(crate) fn layered(archives: &[Vec<u8>]) -> Result<File, IngestError> {
    let mut tree = new_tree(Limits::default());
    let (mut data, mut blocks) = (Vec::new(), Vec::new());
    for (number, archive) in (0..).zip(archives) {
        let file = tempfile::tempfile().unwrap();
        let layer = Layer::read(archive.as_slice(), file.try_clone().unwrap(), &Limits::default())?;
        assert_eq!(file.metadata().unwrap().len(), u64::from(layer.blocks()) * 4096);
        blocks.push(layer.blocks());
        // As it comes back from the disk.
        Layer::decode(&layer.encode()).unwrap().stack(&mut tree, number)?;
        data.push(file);
    }
    let mut image = tempfile::tempfile().unwrap();
    let written = write_over(&tree, &image, &blocks, &ImageOptions::default()).unwrap();
    assert_eq!(image.seek(SeekFrom::End(0)).unwrap(), written.bytes);
    for mut layer in data {
        layer.rewind().unwrap();
        std::io::copy(&mut layer, &mut image).unwrap();
    }
    Ok(image)
}

/// Everything in an image, without the root. Also checks the link counts.
pub(crate) fn model_of(image: &Image<File>) -> Model {
    let mut model = Model::new();
    // Sorted, so that it is always the same name that has the file.
    let mut inodes = BTreeMap::new();
    image
        .walk(1 << 20, |path, inode| {
            inodes.insert(path.to_vec(), inode.clone());
            Ok::<_, ReadError>(())
        })
        .unwrap();
    let mut first_names: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    for (path, inode) in &inodes {
        let names = inodes.values().filter(|other| other.nid() == inode.nid()).count();
        let inside = |other: &&Vec<u8>| other.len() > path.len() && parent(other) == path.as_slice();
        let subdirectories =
            || inodes.iter().filter(|(other, i)| i.kind() == FileKind::Directory && inside(other)).count();
        let expected = if inode.kind() == FileKind::Directory { 2 + subdirectories() } else { names };
        assert_eq!(inode.nlink() as usize, expected, "links of {}", path.escape_ascii());
        if path.is_empty() {
            continue;
        }
        let first = first_names.entry(inode.nid()).or_insert_with(|| path.clone());
        let kind = if first == path { kind_of(image, inode) } else { Kind::HardLink(first.clone()) };
        let xattrs =
            image.xattrs(inode).unwrap().into_iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
        let mtime = inode.mtime().seconds;
        model.insert(
            path.clone(),
            Entry { kind, mode: inode.mode(), uid: inode.uid(), gid: inode.gid(), mtime, xattrs },
        );
    }
    model
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(b"", |slash| &path[..slash])
}

fn kind_of(image: &Image<File>, inode: &aegis_erofs::Inode) -> Kind {
    match inode.kind() {
        FileKind::Directory => Kind::Directory,
        FileKind::File => {
            let mut contents = vec![0; inode.size().try_into().unwrap()];
            image.read(inode, 0, &mut contents).unwrap();
            Kind::File(contents)
        }
        FileKind::Symlink => Kind::Symlink(image.read_link(inode).unwrap()),
        FileKind::CharDevice(d) => Kind::CharDevice(d.major, d.minor),
        FileKind::BlockDevice(d) => Kind::BlockDevice(d.major, d.minor),
        FileKind::Fifo => Kind::Fifo,
        FileKind::Socket => panic!("no archive has a socket"),
    }
}

/// Random trees: names of any bytes, sizes around the block size, all kinds.
pub(crate) fn models() -> impl Strategy<Value = Model> {
    let name = prop_oneof![
        8 => prop::collection::vec(name_byte(), 1..12),
        1 => prop::collection::vec(name_byte(), 200..256),
    ];
    let kind = prop_oneof![
        3 => Just(Kind::Directory),
        4 => (0usize..10_000, any::<u8>()).prop_map(|(len, seed)| Kind::File(contents(len, seed))),
        1 => prop::sample::select(vec![4096usize, 8192, 4032, 4033, 4095]).prop_map(|n| Kind::File(contents(n, 1))),
        1 => prop::collection::vec(name_byte(), 1..200).prop_map(Kind::Symlink),
        1 => (0u32..4096, 0u32..1 << 20).prop_map(|(major, minor)| Kind::CharDevice(major, minor)),
        1 => (0u32..4096, 0u32..1 << 20).prop_map(|(major, minor)| Kind::BlockDevice(major, minor)),
        1 => Just(Kind::Fifo),
        2 => Just(Kind::HardLink(Vec::new())),
    ];
    let xattrs = prop::collection::btree_map(
        "(user|trusted|security)\\.[a-z]{1,9}".prop_map(String::into_bytes),
        xattr_value(),
        0..3,
    );
    let entry = (kind, 0u16..0o10_000, any::<u32>(), any::<u32>(), 0i64..1 << 40, xattrs).prop_map(
        |(kind, mode, uid, gid, mtime, xattrs)| {
            let mode = if matches!(kind, Kind::Symlink(_)) { 0o777 } else { mode };
            Entry { kind, mode, uid, gid, mtime, xattrs }
        },
    );
    prop::collection::vec((any::<prop::sample::Index>(), name, entry), 0..60).prop_map(assemble)
}

fn name_byte() -> impl Strategy<Value = u8> {
    prop_oneof![3 => b'a'..=b'e', 1 => any::<u8>().prop_filter("in a name", |byte| !matches!(byte, 0 | b'/'))]
}

fn xattr_value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![4 => prop::collection::vec(any::<u8>(), 0..40), 1 => prop::collection::vec(any::<u8>(), 2000..5000)]
}

pub(crate) fn contents(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i / 7 + i * i / 5).to_le_bytes()[0] ^ seed).collect()
}

/// Puts the entries into directories among them.
fn assemble(parts: Vec<(prop::sample::Index, Vec<u8>, Entry)>) -> Model {
    let mut model = Model::new();
    let mut directories = vec![Vec::new()];
    let mut targets: Vec<Vec<u8>> = Vec::new();
    for (at, name, mut entry) in parts {
        let parent: &Vec<u8> = at.get(&directories);
        let path = if parent.is_empty() { name.clone() } else { [parent, &b"/"[..], &name].concat() };
        if name == b"." || name == b".." || path.len() > 2000 || model.contains_key(&path) {
            continue;
        }
        match &mut entry.kind {
            Kind::Directory => directories.push(path.clone()),
            Kind::HardLink(target) => {
                // A later name of the file, so that it sorts after it: see `model_of`.
                let Some(found) = targets.iter().find(|target| **target < path) else { continue };
                target.clone_from(found);
                let Entry { mode, uid, gid, mtime, xattrs, .. } = model[found].clone();
                entry = Entry { kind: entry.kind, mode, uid, gid, mtime, xattrs };
            }
            _ => targets.push(path.clone()),
        }
        model.insert(path, entry);
    }
    model
}
