//! What is kept of an image that is ready, and where everything lies.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::ImageError;

/// Version of records, and of what they bind together. Others are made anew from their blobs.
pub(crate) const FORMAT: u32 = 1;
/// Unit of layers' data and of disks.
pub(crate) const BLOCK: u64 = 4096;

/// A layer of an image that is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedLayer {
    /// As it is sent.
    pub blob: Digest,
    /// Size as it is sent, bytes.
    pub size: u64,
    /// Unpacked.
    pub diff_id: Digest,
    /// Size of its data, blocks.
    pub(crate) blocks: u32,
}

/// An image that is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub(crate) format: u32,
    /// Digest of its manifest: its identity.
    pub digest: Digest,
    /// Digest of its configuration.
    pub config: Digest,
    /// Its layers, lowest first.
    pub layers: Vec<RecordedLayer>,
    /// Size of the disk of its own, bytes.
    pub(crate) own_bytes: u64,
    /// The processor that it is for, as OCI names it.
    pub architecture: String,
    /// When it was made, as its maker says.
    pub created: Option<String>,
    /// The environment that it gives to commands.
    pub env: BTreeMap<String, String>,
    /// When it became ready here, milliseconds since 1970.
    pub prepared_ms: i64,
}

impl Record {
    /// What its root disk has, bytes; layers that it shares with others count.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.own_bytes + self.layers.iter().map(|layer| u64::from(layer.blocks) * BLOCK).sum::<u64>()
    }
}

/// A name for an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NameRecord {
    pub(crate) name: String,
    pub(crate) digest: Digest,
}

/// Where everything lies.
#[derive(Clone, Debug)]
pub(crate) struct Layout(pub(crate) PathBuf);

impl Layout {
    pub(crate) fn dirs(&self) -> [PathBuf; 6] {
        ["blobs", "layers", "disks", "records", "names", "tmp"].map(|name| self.0.join(name))
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.0.join("blobs").join(digest.hex())
    }

    pub(crate) fn partial_blob(&self, digest: &Digest) -> PathBuf {
        self.0.join("blobs").join(format!("{}.partial", digest.hex()))
    }

    pub(crate) fn layer_data(&self, diff_id: &Digest) -> PathBuf {
        self.0.join("layers").join(format!("{}.data", diff_id.hex()))
    }

    pub(crate) fn layer_index(&self, diff_id: &Digest) -> PathBuf {
        self.0.join("layers").join(format!("{}.index", diff_id.hex()))
    }

    pub(crate) fn disk(&self, manifest: &Digest) -> PathBuf {
        self.0.join("disks").join(format!("{}.erofs", manifest.hex()))
    }

    pub(crate) fn record(&self, manifest: &Digest) -> PathBuf {
        self.0.join("records").join(format!("{}.json", manifest.hex()))
    }

    pub(crate) fn name(&self, name: &str) -> PathBuf {
        self.0.join("names").join(format!("{}.json", Digest::of(name.as_bytes()).hex()))
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.0.join("tmp")
    }

    /// A file without a final name yet.
    pub(crate) fn temporary(&self) -> Result<tempfile::NamedTempFile, ImageError> {
        let dir = self.tmp();
        tempfile::NamedTempFile::new_in(&dir).map_err(ImageError::io("cannot make a file in", dir))
    }

    /// Puts a file where it belongs, whole and on disk.
    pub(crate) fn place(&self, file: tempfile::NamedTempFile, at: &Path) -> Result<(), ImageError> {
        file.as_file().sync_all().map_err(ImageError::io("cannot write", at))?;
        file.persist(at).map_err(|error| ImageError::io("cannot write", at)(error.error))?;
        sync_parent(at)
    }

    /// Writes a small file, whole and on disk.
    pub(crate) fn write(&self, at: &Path, bytes: &[u8]) -> Result<(), ImageError> {
        let mut file = self.temporary()?;
        file.write_all(bytes).map_err(ImageError::io("cannot write", at))?;
        self.place(file, at)
    }

    /// Writes a small file as JSON, whole and on disk.
    pub(crate) fn write_json(&self, at: &Path, value: &impl Serialize) -> Result<(), ImageError> {
        let bytes = serde_json::to_vec_pretty(value)
            .map_err(|error| ImageError::io("cannot write", at)(error.into()))?;
        self.write(at, &bytes)
    }
}

pub(crate) fn sync_parent(path: &Path) -> Result<(), ImageError> {
    let Some(dir) = path.parent() else { return Ok(()) };
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(ImageError::io("cannot write", dir))
}

/// All files of a directory that hold such a record; others are named in the log and left alone.
pub(crate) fn read_all<T: for<'d> Deserialize<'d>>(dir: &Path) -> Result<Vec<T>, ImageError> {
    let entries = fs::read_dir(dir).map_err(ImageError::io("cannot read", dir))?;
    let read = |path: PathBuf| {
        let parsed = fs::read(&path)
            .map_err(|error| error.to_string())
            .and_then(|bytes| serde_json::from_slice::<T>(&bytes).map_err(|error| error.to_string()));
        parsed.inspect_err(|error| tracing::warn!(path = %path.display(), error, "not a record")).ok()
    };
    Ok(entries.flatten().filter_map(|entry| read(entry.path())).collect())
}

/// Removes a file that may be gone already.
pub(crate) fn remove(path: &Path) -> Result<(), ImageError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(ImageError::io("cannot remove", path)(error))
        }
        _ => Ok(()),
    }
}
