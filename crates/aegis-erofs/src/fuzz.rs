//! What the fuzzer drives; see `fuzz/`.

use std::fs::File;
use std::os::unix::fs::FileExt;

use aegis_fuzz::{Target, mend_archive, scratch};

use crate::archive::pax;
use crate::format::{self, BLOCK, BLOCK_BYTES, SUPERBLOCK_OFFSET};
use crate::{
    FileKind, FileTree, Image, ImageOptions, Layer, Limits, ReadAt, ReadError, Spool, Whiteouts, ingest,
    write_over,
};

/// Most that is read of a file.
const MOST_READ: u64 = 64 << 10;
/// Largest data of a layer that an index may speak of, blocks.
const MOST_BLOCKS: u32 = 256;

fn limits() -> Limits {
    Limits {
        max_entries: 500,
        max_data_bytes: 1 << 20,
        max_metadata_bytes: 1 << 20,
        max_depth: 32,
        ..Limits::default()
    }
}

fn file() -> File {
    tempfile::tempfile_in(scratch()).unwrap_or_else(|error| panic!("no file to work with: {error}"))
}

fn tree() -> FileTree {
    FileTree::new(limits(), Spool::over(file()))
}

/// Reads all that there is in an image, and returns how many files it has.
fn read<R: ReadAt>(image: &Image<R>) -> Result<u64, ReadError> {
    let (mut count, mut buffer) = (0, Vec::new());
    image.walk(2000, |_, inode| {
        count += 1;
        image.xattrs(inode)?;
        match inode.kind() {
            FileKind::Symlink => drop(image.read_link(inode)?),
            FileKind::File => {
                let size = inode.size().min(MOST_READ);
                buffer.resize(usize::try_from(size).unwrap_or(0), 0);
                image.read(inode, 0, &mut buffer)?;
                image.read(inode, inode.size() - size, &mut buffer)?;
            }
            _ => {}
        }
        Ok::<(), ReadError>(())
    })?;
    Ok(count)
}

/// Writes a tree, followed by the data of one layer, and reads that.
fn written(tree: &FileTree, layer: Option<(&File, u32)>) {
    let out = file();
    let blocks: Vec<u32> = layer.iter().map(|(_, blocks)| *blocks).collect();
    // Some of what an archive may say has no form on disk.
    let Ok(summary) = write_over(tree, &out, &blocks, &ImageOptions::default()) else { return };
    if let Some((data, blocks)) = layer {
        let mut block = [0; BLOCK_BYTES];
        for number in (0..u64::from(blocks)).map(|number| number * BLOCK) {
            let there = data.read_at(&mut block, number).unwrap_or(0);
            let there = block.get(..there).unwrap_or_default();
            out.write_all_at(there, summary.bytes + number).unwrap_or_else(|error| panic!("{error}"));
        }
        let size = summary.bytes + u64::from(blocks) * BLOCK;
        out.set_len(size).unwrap_or_else(|error| panic!("{error}"));
    }
    let count = Image::open(&out as &dyn ReadAt).and_then(|image| read(&image));
    let count = count.unwrap_or_else(|error| panic!("what was written cannot be read: {error}"));
    assert!(count >= summary.inodes, "{count} names of {} files", summary.inodes);
}

/// A tar archive: read into a tree, and as a layer that is put over that tree. What can be written can be read.
///
/// # Panics
/// If it cannot, or the layer's index changes on its way to disk and back.
pub fn archive(bytes: &[u8]) {
    let Some((mode, archive)) = bytes.split_first() else { return };
    let archive = mend_archive(archive);
    let whiteouts = if mode & 1 == 0 { Whiteouts::Keep } else { Whiteouts::Apply };
    let mut tree = tree();
    let _refused = ingest(&mut tree, archive.as_slice(), whiteouts);
    written(&tree, None);
    let data = file();
    let Ok(writing) = data.try_clone() else { return };
    let Ok(layer) = Layer::read(archive.as_slice(), writing, &limits()) else { return };
    let index = layer.encode();
    let decoded = Layer::decode(&index).unwrap_or_else(|error| panic!("its index: {error}"));
    assert!(decoded.encode() == index);
    let blocks = decoded.blocks();
    if decoded.stack(&mut tree, 0).is_ok() {
        written(&tree, Some((&data, blocks)));
    }
}

/// Extended headers of an archive.
pub fn pax(bytes: &[u8]) {
    drop(pax::Records::parse(bytes));
}

/// The index of a layer, without its magic and checksum, put over an empty tree with data that is all zeros.
///
/// # Panics
/// If it makes an image that cannot be read.
pub fn index(bytes: &[u8]) {
    drop(Layer::decode(bytes));
    let Ok(layer) = Layer::decode_body(bytes) else { return };
    let blocks = layer.blocks();
    let mut tree = tree();
    if blocks <= MOST_BLOCKS && layer.stack(&mut tree, 0).is_ok() {
        written(&tree, Some((&file(), blocks)));
    }
}

/// An image.
pub fn image(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().max(BLOCK_BYTES), 0);
    if let Some(block) = bytes.get_mut(SUPERBLOCK_OFFSET..BLOCK_BYTES) {
        // Who makes an image makes its checksum.
        let (magic, rest) = block.split_at_mut(4);
        if let Some((sum, after)) = rest.split_at_mut_checked(4) {
            let sealed = [&*magic, &[0; 4], &*after].concat();
            sum.copy_from_slice(&format::crc32c(&sealed).to_le_bytes());
        }
    }
    if let Ok(image) = Image::open(bytes.as_slice()) {
        let _damaged = read(&image);
    }
}

/// All of them by name; the seeds of each are in `fuzz/seeds/NAME`.
pub const TARGETS: [(&str, Target); 4] =
    [("erofs-archive", archive), ("erofs-pax", pax), ("erofs-index", index), ("erofs-image", image)];

#[cfg(test)]
mod tests {
    #[test]
    fn seeds() {
        aegis_fuzz::replay(&super::TARGETS);
    }
}
