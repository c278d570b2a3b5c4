//! What leaves the store: images that are removed, and what nobody needs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::{Images, LOADING, State, resolve};
use crate::digest::Digest;
use crate::error::ImageError;
use crate::image_record;
use crate::reference::{ImageName, familiar};

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that are no more.
    pub names: Vec<String>,
    /// Images that are no more.
    pub images: Vec<Digest>,
    /// Space that is free again, bytes.
    pub bytes: u64,
}

/// Images that instances need, with the instance's name. Asked for under the store's lock: an image that a new instance
/// takes is held until that instance is among them.
pub type InUse = BTreeMap<Digest, String>;

impl Images {
    /// Takes a name away, and the image with its last name. By its digest all its names go. Blocks.
    ///
    /// # Errors
    /// If there is none, or an instance needs it.
    pub fn remove(&self, name: &str, in_use: impl FnOnce() -> InUse) -> Result<Removed, ImageError> {
        let parsed: ImageName = name.parse()?;
        let mut state = self.0.lock();
        let in_use = in_use();
        let digest = resolve(&state, &parsed, name)?;
        let exact = match &parsed {
            ImageName::Reference(reference) => Some(reference.to_string()),
            ImageName::Digits(_, reference) => {
                reference.as_ref().map(ToString::to_string).filter(|name| state.names.contains_key(name))
            }
        };
        let mut going: Vec<String> =
            state.names.iter().filter(|(_, named)| **named == digest).map(|(name, _)| name.clone()).collect();
        let stays = exact.is_some() && going.len() > 1;
        if !stays && let Some(user) = in_use.get(&digest) {
            return Err(ImageError::InUse { name: name.to_owned(), by: user.clone() });
        }
        if let Some(exact) = exact.filter(|_| stays) {
            going = vec![exact];
        }
        for name in &going {
            image_record::remove(&self.layout().name(name))?;
            state.names.remove(name);
        }
        let mut removed = Removed::default();
        // Others without a name stay: nobody has spoken of them.
        if !stays && !state.held.contains_key(digest.hex()) {
            self.forget(&mut state, &digest)?;
            removed.images.push(digest);
        }
        removed.bytes = self.sweep_files(&state, false)?;
        removed.names = going.iter().map(|name| familiar(name)).collect();
        Ok(removed)
    }

    fn forget(&self, state: &mut State, digest: &Digest) -> Result<(), ImageError> {
        image_record::remove(&self.layout().record(digest))?;
        state.records.remove(digest);
        Ok(())
    }

    /// Removes images without a name that no instance needs; with `all` also those with names. Blocks.
    ///
    /// # Errors
    /// If files cannot be removed.
    pub fn prune(&self, all: bool, in_use: impl FnOnce() -> InUse) -> Result<Removed, ImageError> {
        let mut state = self.0.lock();
        let in_use = in_use();
        let mut names = Vec::new();
        if all {
            let unused = state.names.iter().filter(|(_, digest)| !in_use.contains_key(digest));
            names = unused.map(|(name, _)| name.clone()).collect();
            for name in &names {
                image_record::remove(&self.layout().name(name))?;
                state.names.remove(name);
            }
        }
        let mut removed = self.sweep(&mut state, &in_use)?;
        removed.names = names.iter().map(|name| familiar(name)).collect();
        Ok(removed)
    }

    /// Removes what no name and no instance needs if the store takes more than its budget. Blocks.
    ///
    /// # Errors
    /// If files cannot be removed.
    pub fn keep_budget(&self, in_use: impl FnOnce() -> InUse) -> Result<Removed, ImageError> {
        let budget = self.0.workshop.settings.disk_budget;
        if self.usage() <= budget {
            return Ok(Removed::default());
        }
        let removed = self.prune(false, in_use)?;
        let left = self.usage();
        if left > budget {
            tracing::warn!(
                bytes = left,
                budget,
                "images take more than their budget, and all have names or users"
            );
        }
        Ok(removed)
    }

    /// What the store takes on disk, bytes. Blocks.
    fn usage(&self) -> u64 {
        let files = self.layout().dirs().into_iter().filter_map(|dir| fs::read_dir(dir).ok());
        files.flat_map(|entries| entries.flatten()).map(|entry| on_disk(&entry.path())).sum()
    }

    /// Removes records that nobody needs, then files that no record needs. All under the lock: whoever needs something
    /// says so under it before he looks.
    fn sweep(&self, state: &mut State, in_use: &InUse) -> Result<Removed, ImageError> {
        let named: BTreeSet<&Digest> = state.names.values().collect();
        let needed = |digest: &Digest| {
            named.contains(digest) || in_use.contains_key(digest) || state.held.contains_key(digest.hex())
        };
        let gone: Vec<Digest> = state.records.keys().filter(|digest| !needed(digest)).cloned().collect();
        let mut images = Vec::new();
        for digest in gone {
            self.forget(state, &digest)?;
            images.push(digest);
        }
        let bytes = self.sweep_files(state, true)?;
        Ok(Removed { names: Vec::new(), images, bytes })
    }

    /// Removes files that no record needs, and returns the space that they took. Downloads that were broken off stay
    /// unless `partial` ones go too.
    pub(super) fn sweep_files(&self, state: &State, partial: bool) -> Result<u64, ImageError> {
        let loading = state.held.contains_key(LOADING);
        let mut bytes = 0;
        let mut keep: BTreeSet<&str> = state.held.keys().map(String::as_str).collect();
        for record in state.records.values() {
            keep.extend([record.digest.hex(), record.config.hex()]);
            keep.extend(record.layers.iter().flat_map(|layer| [layer.blob.hex(), layer.diff_id.hex()]));
        }
        let dirs = ["layers", "disks", "blobs"].into_iter().filter(|name| *name != "blobs" || !loading);
        for dir in dirs.map(|name| self.layout().0.join(name)) {
            for entry in fs::read_dir(&dir).map_err(ImageError::io("cannot read", &dir))?.flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let (digits, suffix) = name.split_once('.').unwrap_or((&name, ""));
                let ours = Digest::from_hex(digits).is_some();
                if ours && !keep.contains(digits) && (partial || suffix != "partial") {
                    bytes += on_disk(&entry.path());
                    image_record::remove(&entry.path())?;
                }
            }
        }
        Ok(bytes)
    }
}

fn on_disk(path: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).map_or(0, |found| found.blocks() * 512)
}
