//! Layers: fetched, checked, unpacked.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use aegis_erofs::{Layer, Limits};
use aegis_store::free_space::{SpaceCheck, SpaceCheckedReader, check_for};
use tokio::sync::mpsc;

use crate::compression::{self, Compression};
use crate::decompression;
use crate::digest::{self, Digest, Hasher};
use crate::error::ImageError;
use crate::image_record::{BLOCK, Layout, sync_parent};
use crate::manifest::{LayerPart, Part};
use crate::registry::{Repository, RequestFailure, RetryPolicy};

/// Chunks on their way from the network to the disk.
const CHUNKS: usize = 16;
/// Archives may have so many bytes beside contents, for each entry that is allowed: its headers.
const HEADER_BYTES: u64 = 4096;

/// A download: its file, and how far it is.
#[derive(Debug)]
struct Partial {
    file: File,
    hasher: Hasher,
    len: u64,
}

impl Partial {
    /// Goes on with what is there.
    fn open(path: &Path) -> io::Result<Partial> {
        let mut file = File::options().read(true).append(true).create(true).open(path)?;
        let (hasher, len) = digest::of_reader(&mut file)?;
        Ok(Partial { file, hasher, len })
    }

    fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        (self.hasher, self.len) = (Hasher::default(), 0);
        Ok(())
    }

    fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, ImageError> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|_| ImageError::BrokenOff)?;
    done.map_err(ImageError::io("cannot write", path))
}

/// Fetches a blob, going on where an earlier attempt stopped. `progress` is told how much is here.
pub(crate) async fn download(
    layout: &Layout,
    from: &Repository,
    blob: &Part,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<(), ImageError> {
    let path = layout.partial_blob(&blob.digest);
    let opened = path.clone();
    let mut partial = blocking(&path, move || Partial::open(&opened)).await?;
    // What an earlier daemon left may be damaged: then the whole is fetched once more.
    let mut inherited = partial.len > 0;
    let mut retries = RetryPolicy::default();
    loop {
        if partial.len > blob.size {
            partial = blocking(&path, move || partial.restart().map(|()| partial)).await?;
        }
        let before = partial.len;
        if partial.len < blob.size {
            let (rest, failure) = fetch_on(from, blob, partial, &path, progress).await?;
            partial = rest;
            if partial.len > before {
                retries.renew();
            }
            if let Some(failure) = failure {
                if matches!(failure, RequestFailure::Permanent(_)) {
                    // Of no use to another attempt.
                    crate::image_record::remove(&path)?;
                }
                retries.after(failure).await?;
                continue;
            }
        }
        let found = partial.hasher.clone().finish();
        match blob.digest.check(&found) {
            Ok(()) => return finish(partial, path, layout.blob(&blob.digest)).await,
            Err(_) if inherited => inherited = false,
            Err(error) => {
                crate::image_record::remove(&path)?;
                return Err(error);
            }
        }
        partial = blocking(&path, move || partial.restart().map(|()| partial)).await?;
    }
}

async fn finish(partial: Partial, path: PathBuf, at: PathBuf) -> Result<(), ImageError> {
    let to = at.clone();
    blocking(&at, move || {
        partial.file.sync_all()?;
        fs::rename(&path, &to)
    })
    .await?;
    sync_parent(&at)
}

/// One request's worth of a blob. The failure, if it did not bring all of the rest.
async fn fetch_on(
    from: &Repository,
    blob: &Part,
    mut partial: Partial,
    path: &Path,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<(Partial, Option<RequestFailure>), ImageError> {
    let mut body = match from.blob(&blob.digest, partial.len).await {
        Ok(body) => body,
        Err(failure) => return Ok((partial, Some(failure))),
    };
    if body.starts_at != partial.len {
        partial = blocking(path, move || partial.restart().map(|()| partial)).await?;
    }
    let mut len = partial.len;
    let (chunks, mut to_write) = mpsc::channel::<bytes::Bytes>(CHUNKS);
    let rest = blob.size.saturating_sub(len);
    let writer = tokio::task::spawn_blocking(move || {
        let mut write = || {
            check_for(&partial.file, rest)?;
            let mut pace = SpaceCheck::default();
            while let Some(chunk) = to_write.blocking_recv() {
                pace.check(&partial.file, chunk.len() as u64)?;
                partial.add(&chunk)?;
            }
            Ok(())
        };
        let result = write();
        (partial, result)
    });
    let failure = loop {
        match body.next().await {
            Ok(Some(chunk)) => {
                len += chunk.len() as u64;
                if len > blob.size {
                    let text = format!("{} has more than the {} bytes promised", blob.digest, blob.size);
                    break Some(RequestFailure::Permanent(ImageError::Invalid(text)));
                }
                progress(len);
                if chunks.send(chunk).await.is_err() {
                    // The writer tells why.
                    break None;
                }
            }
            Ok(None) if len < blob.size => break Some(from.breaks_off(len, blob.size)),
            Ok(None) => break None,
            Err(failure) => break Some(failure),
        }
    };
    drop(chunks);
    let (partial, written) = writer.await.map_err(|_| ImageError::BrokenOff)?;
    written.map_err(ImageError::io("cannot write", path))?;
    Ok((partial, failure))
}

/// Unpacks a blob that is here into the layer that its configuration names, if that is not here yet. Blocks.
pub(crate) fn unpack(
    layout: &Layout,
    layer: &LayerPart,
    diff_id: &Digest,
    limits: &Limits,
) -> Result<(), ImageError> {
    if read_index(layout, diff_id).is_ok() {
        return Ok(());
    }
    let failed = |cause: &dyn std::fmt::Display| {
        let error = ImageError::layer(layer.blob.digest.short());
        match &layer.unknown {
            None => error(cause),
            Some(name) => error(&format!("{name:?} is no layer of a file system: {cause}")),
        }
    };
    let path = layout.blob(&layer.blob.digest);
    let mut blob = File::open(&path).map_err(ImageError::io("cannot read", &path))?;
    let start = compression::first_bytes(&mut blob).map_err(ImageError::io("cannot read", &path))?;
    blob.rewind().map_err(ImageError::io("cannot read", &path))?;
    let data = layout.temporary()?;
    let writer = data.reopen().map_err(ImageError::io("cannot write", data.path()))?;

    let target = data.reopen().map_err(ImageError::io("cannot write", data.path()))?;
    let most = limits.max_data_bytes.saturating_add(limits.max_entries.saturating_mul(HEADER_BYTES));
    let read = |archive: &mut dyn Read| {
        let mut archive = SpaceCheckedReader::new(archive, target);
        let index = Layer::read(&mut archive, writer, limits);
        let index = index.map_err(|error| {
            ImageError::for_want_of_room(&error, data.path()).unwrap_or_else(|| failed(&error))
        })?;
        // Writers of tar fill up their last record; all of it counts for the digest.
        io::copy(&mut archive, &mut io::sink()).map_err(|error| failed(&error))?;
        Ok(index)
    };
    let (unpacked, found) = decompression::inflated(blob, Compression::of(&start), most, read)?;
    diff_id.check(&found)?;
    layout.place(data, &layout.layer_data(diff_id))?;
    layout.write(&layout.layer_index(diff_id), &unpacked.encode())
}

/// The index of a layer that is here, with its data.
pub(crate) fn read_index(layout: &Layout, diff_id: &Digest) -> Result<Layer, ImageError> {
    let path = layout.layer_index(diff_id);
    let bytes = fs::read(&path).map_err(ImageError::io("cannot read", path))?;
    let index = Layer::decode(&bytes).map_err(|error| ImageError::layer(diff_id.short())(&error))?;
    let data = layout.layer_data(diff_id);
    let len = fs::metadata(&data).map_err(ImageError::io("cannot read", data))?.len();
    if len == u64::from(index.blocks()) * BLOCK {
        Ok(index)
    } else {
        Err(ImageError::layer(diff_id.short())(&"its data is cut off"))
    }
}
