//! Archives of images: what `docker save`, `skopeo`, `podman` and `buildah` write, and OCI layouts as tar.
//!
//! An archive is read into a [`FileTree`], as a layer would be: bounded, whatever is in it, and with its links in the tree
//! and nowhere else.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};

use aegis_erofs::{ArchiveError, Content, Extent, FileTree, IngestError, NodeId, Spool};
use aegis_store::free_space::SpaceCheckedReader;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::compression::{Compression, first_bytes};
use crate::decompression;
use crate::digest::{Digest, Hashing};
use crate::error::ImageError;
use crate::image_builder::Plan;
use crate::image_record::Layout;
use crate::manifest::{
    self, Choice, Document, LayerPart, MOST_DOCUMENT, MOST_IMAGES, MOST_LAYERS, MOST_LOOKED, Part,
};
use crate::progress::Progress;
use crate::settings::Settings;
use crate::store::Images;

mod names;
mod skipped;
#[cfg(test)]
mod tests;

use names::Names;
pub use skipped::Loaded;
use skipped::SkippedEntries;

/// Longest chain of symbolic links to a layer.
const MOST_LINKS: usize = 4;

/// An image found in an archive, with its blobs stored.
#[derive(Debug)]
struct FoundImage {
    plan: Plan,
    documents: [Vec<u8>; 2],
    names: Names,
}

/// An entry of `manifest.json`, as `docker save` writes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

impl Images {
    /// Takes over the images of an archive, plain or compressed: those for the guest's processor. What else is in it is
    /// left, and named.
    ///
    /// # Errors
    /// If the archive holds no image for the guest's processor, or is not valid.
    pub async fn load(&self, archive: impl Read + Send + 'static) -> Result<Loaded, ImageError> {
        self.while_loading(self.take_in(archive)).await
    }

    async fn take_in(&self, archive: impl Read + Send + 'static) -> Result<Loaded, ImageError> {
        let workshop = self.workshop();
        let (layout, settings) = (workshop.layout.clone(), workshop.settings.clone());
        let architecture = settings.architecture.clone();
        let read =
            tokio::task::spawn_blocking(move || Archive::read(archive, layout, &settings)?.images(&settings));
        let (found, mut left) = read.await.map_err(|_| ImageError::BrokenOff)??;
        let (mut images, mut unnamed) = (Vec::new(), Vec::new());
        for FoundImage { plan, documents, names } in found {
            let digest = plan.digest.clone();
            let progress = watch::Sender::new(Progress::default());
            match self.adopt(plan, documents, &names.taken, None, &progress).await {
                Ok(()) => {
                    unnamed.extend(names.told(&digest, self.has_name(&digest)));
                    images.push(digest);
                }
                Err(error) => left.add(names.taken.first().map_or(digest.short(), String::as_str), error)?,
            }
        }
        if images.is_empty() {
            return Err(left.whole(&architecture));
        }
        Ok(Loaded { images, left: left.told(unnamed) })
    }
}

struct Archive {
    tree: FileTree,
    layout: Layout,
    /// What has been stored already: an archive may name one layer in many images, and many times.
    stored: RefCell<HashMap<Extent, (Part, Compression)>>,
}

/// What a document of an archive turns out to be: its manifest, configuration and plan, or where else to look.
enum DocumentKind {
    FoundImage(Box<(Vec<u8>, Vec<u8>, Plan)>),
    Further(Vec<Digest>),
}

impl Archive {
    fn read(archive: impl Read, layout: Layout, settings: &Settings) -> Result<Archive, ImageError> {
        let mut buffered = BufReader::with_capacity(256 << 10, archive);
        let unreadable = |error: io::Error| ImageError::invalid(format!("the archive: {error}"));
        let start = first_bytes(&mut buffered).map_err(unreadable)?;
        let packing = Compression::of(&start);
        let whole = io::Cursor::new(start).chain(buffered);
        let plain = decompression::decoder(whole, packing).map_err(unreadable)?;
        let tmp = layout.tmp();
        let target = File::open(&tmp).map_err(ImageError::io("cannot read", tmp.clone()))?;
        let spool = Spool::in_dir(&tmp).map_err(ImageError::io("cannot write in", tmp))?;
        let mut tree = FileTree::new(settings.limits.clone(), spool);
        aegis_erofs::ingest_some(&mut tree, BufReader::new(SpaceCheckedReader::new(plain, target))).map_err(
            |error| {
                ImageError::for_want_of_room(&error, &layout.tmp())
                    .unwrap_or_else(|| unreadable_archive(&error))
            },
        )?;
        Ok(Archive { tree, layout, stored: RefCell::default() })
    }

    /// The images for this processor, and what else there is.
    fn images(&self, settings: &Settings) -> Result<(Vec<FoundImage>, SkippedEntries), ImageError> {
        let mut left = SkippedEntries::default();
        let saved = self.saved_images();
        let mut all = Vec::new();
        let indexed = self.tree.lookup(b"index.json").is_some();
        if indexed {
            let known = saved.as_deref().unwrap_or_default();
            all = self.indexed(known, settings, &mut left)?;
        }
        if all.is_empty() && (!indexed || saved.is_ok()) {
            for image in saved? {
                let name = image.repo_tags.iter().flatten().next().unwrap_or(&image.config).clone();
                match self.saved(&image, settings) {
                    Ok(found) => all.push(found),
                    Err(error) => left.add(&name, error)?,
                }
            }
        }
        if all.is_empty() { Err(left.whole(&settings.architecture)) } else { Ok((all, left)) }
    }

    /// What `manifest.json` says.
    fn saved_images(&self) -> Result<Vec<Saved>, ImageError> {
        if self.tree.lookup(b"manifest.json").is_none() {
            let files = [&b"etc"[..], b"bin", b"usr"].iter().any(|path| self.tree.lookup(path).is_some());
            let hint = if files {
                "; of files alone, as `docker export` writes them, `docker save` makes none"
            } else {
                ""
            };
            let text =
                format!("it is no archive of images: it has neither index.json nor manifest.json{hint}");
            return Err(ImageError::invalid(text));
        }
        let bytes = self.document("manifest.json")?;
        if bytes.trim_ascii_start().starts_with(b"{") && self.tree.lookup(b"version").is_some() {
            let text = "a skopeo dir: layout is not supported; use oci: or docker-archive:";
            return Err(ImageError::invalid(text));
        }
        let saved: Vec<Saved> = serde_json::from_slice(&bytes)
            .map_err(|error| ImageError::invalid(format!("manifest.json: {error}")))?;
        few(saved.len(), MOST_IMAGES, "images")?;
        Ok(saved)
    }

    /// The images of an OCI layout.
    fn indexed(
        &self,
        saved: &[Saved],
        settings: &Settings,
        left: &mut SkippedEntries,
    ) -> Result<Vec<FoundImage>, ImageError> {
        let bytes = self.document("index.json")?;
        let index =
            manifest::parse(&bytes).map_err(|error| ImageError::invalid(format!("index.json: {error}")))?;
        let Document::Index(choices) = index else {
            return Err(ImageError::invalid("index.json is no index"));
        };
        let mut all: Vec<FoundImage> = Vec::new();
        for choice in &choices {
            let mut names = Names::of_entry(&choice.annotations);
            let digits = format!("the archive's {}", choice.manifest.digest.short());
            let shown = names.taken.first().cloned().unwrap_or(digits);
            let (bytes, config_bytes, plan) = match self.look_for(choice, settings, &shown) {
                Ok(found) => found,
                Err(error) => {
                    left.add(&shown, error)?;
                    continue;
                }
            };
            // Several images may have one configuration: its tags count only where the image has no name of its own.
            if names.taken.is_empty() {
                let own = saved.iter().filter(|image| image.config.contains(plan.config_part.digest.hex()));
                let tags = Names::read(own.flat_map(|image| image.repo_tags.iter().flatten()));
                // What an entry calls an image may be the tag of a whole name that is there, too.
                names = if tags.taken.is_empty() { names } else { Names::default() };
                names.extend(tags);
            }
            match all.iter_mut().find(|found| found.plan.digest == plan.digest) {
                Some(found) => found.names.extend(names),
                None => all.push(FoundImage { plan, documents: [bytes, config_bytes], names }),
            }
        }
        Ok(all)
    }

    /// The image for this processor that an entry of the index leads to, over however many indices, with its layers
    /// stored.
    fn look_for(
        &self,
        choice: &Choice,
        settings: &Settings,
        shown: &str,
    ) -> Result<(Vec<u8>, Vec<u8>, Plan), ImageError> {
        // What says that it is for something else is not looked into: it may not be in the archive.
        let first = manifest::candidates(std::slice::from_ref(choice), &settings.architecture, shown)?;
        let mut ahead: Vec<Digest> = first.iter().map(|choice| choice.manifest.digest.clone()).collect();
        let mut refused = None;
        for _ in 0..MOST_LOOKED {
            let Some(digest) = ahead.pop() else { break };
            match self.look(&digest, settings, shown) {
                Ok(DocumentKind::FoundImage(found)) => return Ok(*found),
                Ok(DocumentKind::Further(further)) => ahead.extend(further.into_iter().rev()),
                Err(error) if !error.is_of_the_image() => return Err(error),
                // The best one's reason is told.
                Err(error) => drop(refused.get_or_insert(error)),
            }
        }
        Err(refused.unwrap_or_else(|| ImageError::invalid("its indices lead to no image")))
    }

    fn look(&self, digest: &Digest, settings: &Settings, shown: &str) -> Result<DocumentKind, ImageError> {
        let bytes = self.blob_document(digest)?;
        let (config, layers) = match manifest::parse(&bytes)? {
            Document::Image { config, layers } => (config, layers),
            Document::Index(choices) => {
                let fitting = manifest::candidates(&choices, &settings.architecture, shown)?;
                let further = fitting.iter().map(|choice| choice.manifest.digest.clone());
                return Ok(DocumentKind::Further(further.collect()));
            }
        };
        let config_bytes = self.blob_document(&config.digest)?;
        let plan = Plan::new(&bytes, config, &config_bytes, layers.clone(), (shown, &settings.architecture))?;
        for part in &layers {
            self.store(&blob_path(&part.blob.digest), Some(&part.blob.digest))?;
        }
        Ok(DocumentKind::FoundImage(Box::new((bytes, config_bytes, plan))))
    }

    /// An image as `docker save` wrote it before it knew of OCI layouts: it has no manifest, so it gets one.
    fn saved(&self, image: &Saved, settings: &Settings) -> Result<FoundImage, ImageError> {
        let names = Names::read(image.repo_tags.iter().flatten());
        let shown = names.taken.first().cloned().unwrap_or_else(|| "the archive's image".to_owned());
        let config = self.document(&image.config)?;
        let config_part = Part { digest: Digest::of(&config), size: config.len() as u64 };
        let paths = image.layers.as_deref().unwrap_or_default();
        few(paths.len(), MOST_LAYERS, "layers")?;
        // Before anything is stored.
        let mut wanted = manifest::parse_config(&config, paths.len())?;
        manifest::check_platform(&mut wanted, &settings.architecture, &shown)?;
        let layers = paths.iter().map(|path| self.store(path, None)).collect::<Result<Vec<_>, _>>()?;
        let descriptor = |kind: &str, part: &Part| Descriptor {
            media_type: format!("application/vnd.oci.image.{kind}"),
            digest: part.digest.clone(),
            size: part.size,
        };
        let kind = |packing| match packing {
            Compression::Gzip => "layer.v1.tar+gzip",
            Compression::Zstd => "layer.v1.tar+zstd",
            Compression::Plain | Compression::Other(_) => "layer.v1.tar",
        };
        let manifest = Manifest {
            schema_version: 2,
            media_type: "application/vnd.oci.image.manifest.v1+json",
            config: descriptor("config.v1+json", &config_part),
            layers: layers.iter().map(|(part, packing)| descriptor(kind(*packing), part)).collect(),
        };
        let manifest =
            serde_json::to_vec(&manifest).map_err(|error| ImageError::invalid(error.to_string()))?;
        let layers = layers.into_iter().map(|(blob, _)| LayerPart { blob, unknown: None }).collect();
        let plan = Plan::new(&manifest, config_part, &config, layers, (&shown, &settings.architecture))?;
        Ok(FoundImage { plan, documents: [manifest, config], names })
    }

    fn file(&self, path: &str) -> Result<Extent, ImageError> {
        let missing = || ImageError::invalid(format!("the archive has no file {path:?}"));
        let mut at = path.as_bytes().to_vec();
        for _ in 0..MOST_LINKS {
            let node: NodeId = self.tree.lookup(&at).ok_or_else(missing)?;
            match &self.tree.node(node).content {
                Content::File(extent) => return Ok(*extent),
                Content::Symlink(target) => at = beside(&at, target),
                _ => return Err(missing()),
            }
        }
        Err(missing())
    }

    fn document(&self, path: &str) -> Result<Vec<u8>, ImageError> {
        let extent = self.file(path)?;
        if extent.len() > MOST_DOCUMENT {
            return Err(ImageError::invalid(format!("{path} has more than {MOST_DOCUMENT} bytes")));
        }
        let mut bytes = Vec::new();
        let read = Contents { tree: &self.tree, extent, at: 0 }.read_to_end(&mut bytes);
        read.map_err(ImageError::io("cannot read", self.layout.tmp()))?;
        Ok(bytes)
    }

    fn blob_document(&self, digest: &Digest) -> Result<Vec<u8>, ImageError> {
        let bytes = self.document(&blob_path(digest))?;
        digest.check(&Digest::of(&bytes))?;
        Ok(bytes)
    }

    /// Stores a file of the archive as a blob, which has the promised digest if one was promised.
    fn store(&self, path: &str, promised: Option<&Digest>) -> Result<(Part, Compression), ImageError> {
        let extent = self.file(path)?;
        let check = |digest: &Digest| promised.map_or(Ok(()), |promised| promised.check(digest));
        if let Some(known) = self.stored.borrow().get(&extent) {
            check(&known.0.digest)?;
            return Ok(known.clone());
        }
        let mut contents = Contents { tree: &self.tree, extent, at: 0 };
        let failed = |error| ImageError::io("cannot write in", self.layout.tmp())(error);
        let packing = Compression::of(&first_bytes(&mut contents).map_err(failed)?);
        contents.at = 0;
        let mut file = Hashing::new(self.layout.temporary()?);
        io::copy(&mut contents, &mut file).map_err(failed)?;
        file.flush().map_err(failed)?;
        let (size, digest) = (file.bytes, file.hasher.finish());
        check(&digest)?;
        self.layout.place(file.to, &self.layout.blob(&digest))?;
        let part = Part { digest, size };
        self.stored.borrow_mut().insert(extent, (part.clone(), packing));
        Ok((part, packing))
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: Digest,
    size: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    media_type: &'static str,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// The contents of one file of an archive.
struct Contents<'t> {
    tree: &'t FileTree,
    extent: Extent,
    at: u64,
}

impl Read for Contents<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.extent.len() - self.at).unwrap_or(usize::MAX);
        let count = buf.len().min(left);
        self.tree.read(self.extent, self.at, buf.get_mut(..count).unwrap_or_default())?;
        self.at += count as u64;
        Ok(count)
    }
}

fn unreadable_archive(error: &IngestError) -> ImageError {
    let text = match error {
        // As of any other file.
        IngestError::Archive(ArchiveError::Checksum | ArchiveError::Field("checksum")) => {
            "it is no archive of images, or a damaged one".to_owned()
        }
        _ => format!("the archive: {error}"),
    };
    ImageError::invalid(text)
}

fn few(count: usize, most: usize, what: &str) -> Result<(), ImageError> {
    if count > most {
        return Err(ImageError::invalid(format!("it has more than {most} {what}")));
    }
    Ok(())
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Where a symbolic link leads, as a path of the archive; `..` is taken by the letter.
fn beside(link: &[u8], target: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> =
        if target.starts_with(b"/") { Vec::new() } else { link.split(|b| *b == b'/').collect() };
    parts.pop();
    for part in target.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    parts.join(&b'/')
}

/// Takes in an archive, as [`crate::fuzz`] has it; whether it has an image.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn fuzz(bytes: &[u8], layout: Layout, settings: &Settings) -> bool {
    let bytes = io::Cursor::new(bytes.to_vec());
    Archive::read(bytes, layout, settings).and_then(|archive| archive.images(settings)).is_ok()
}
