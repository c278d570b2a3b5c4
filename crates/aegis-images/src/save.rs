//! Images as an archive that `docker load`, `skopeo` and [`Images::load`] read: an OCI layout with Docker's index beside it.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use serde_json::json;

use crate::digest::Digest;
use crate::error::ImageError;
use crate::image_record::{Layout, Record};
use crate::manifest;
use crate::reference::ImageName;
use crate::store::{HeldImage, Images};

impl Images {
    /// Writes images as an archive. Blocks. The names that they are asked for by become theirs in the archive.
    ///
    /// # Errors
    /// If there is no such image, or the archive cannot be written.
    pub fn save(&self, images: &[(String, HeldImage)], to: impl Write) -> Result<(), ImageError> {
        let layout = &self.workshop().layout;
        let mut archive = Saver { builder: tar::Builder::new(to), layout, written: Vec::new() };
        archive.bytes("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let (mut index, mut saved) = (Vec::new(), Vec::new());
        for (name, held) in images {
            let record = &held.record;
            let name = match name.parse()? {
                ImageName::Reference(reference) => Some(reference),
                ImageName::Digits(..) => None,
            };
            let layers = record.layers.iter().map(|layer| &layer.blob);
            for digest in [&record.digest, &record.config].into_iter().chain(layers) {
                archive.blob(digest)?;
            }
            index.push(descriptor(layout, record, name.as_ref().map(ToString::to_string))?);
            saved.push(json!({
                "Config": path(&record.config),
                "RepoTags": name.iter().map(crate::ImageReference::familiar).collect::<Vec<_>>(),
                "Layers": record.layers.iter().map(|layer| path(&layer.blob)).collect::<Vec<_>>(),
            }));
        }
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": index,
        });
        archive.bytes("index.json", index.to_string().as_bytes())?;
        archive.bytes("manifest.json", serde_json::Value::from(saved).to_string().as_bytes())?;
        archive.builder.finish().map_err(failed)
    }
}

fn failed(source: io::Error) -> ImageError {
    ImageError::Io { action: "cannot write", path: "the archive".into(), source: Arc::new(source) }
}

fn path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn descriptor(
    layout: &Layout,
    record: &Record,
    name: Option<String>,
) -> Result<serde_json::Value, ImageError> {
    let at = layout.blob(&record.digest);
    let bytes = std::fs::read(&at).map_err(ImageError::io("cannot read", at))?;
    let annotations = name
        .map(|name| json!({ "io.containerd.image.name": name, "org.opencontainers.image.ref.name": name }));
    let mut descriptor = json!({
        "mediaType": manifest::media_type(&bytes),
        "digest": record.digest,
        "size": bytes.len(),
        "platform": { "os": "linux", "architecture": record.architecture },
    });
    if let (Some(annotations), Some(fields)) = (annotations, descriptor.as_object_mut()) {
        fields.insert("annotations".to_owned(), annotations);
    }
    Ok(descriptor)
}

struct Saver<'l, W: Write> {
    builder: tar::Builder<W>,
    layout: &'l Layout,
    written: Vec<Digest>,
}

impl<W: Write> Saver<'_, W> {
    fn entry(&mut self, path: &str, size: u64, contents: impl io::Read) -> Result<(), ImageError> {
        let mut header = tar::Header::new_ustar();
        header.set_size(size);
        header.set_mode(0o644);
        header.set_entry_type(tar::EntryType::Regular);
        self.builder.append_data(&mut header, path, contents).map_err(failed)
    }

    fn bytes(&mut self, path: &str, bytes: &[u8]) -> Result<(), ImageError> {
        self.entry(path, bytes.len() as u64, bytes)
    }

    /// Each once, however many images have it.
    fn blob(&mut self, digest: &Digest) -> Result<(), ImageError> {
        if self.written.contains(digest) {
            return Ok(());
        }
        let at = self.layout.blob(digest);
        let file = File::open(&at).map_err(ImageError::io("cannot read", &at))?;
        let size = file.metadata().map_err(ImageError::io("cannot read", &at))?.len();
        self.written.push(digest.clone());
        self.entry(&path(digest), size, file)
    }
}
