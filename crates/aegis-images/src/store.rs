//! The images of this host: found, pulled, listed, removed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::archive::Loaded;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::image_builder::{ImageBuilder, Plan};
use crate::image_record::{self, FORMAT, Layout, NameRecord, Record};
use crate::manifest::{self, Document};
use crate::progress::Progress;
use crate::reference::{ImageName, ImageReference, familiar};
use crate::registry::Repository;
use crate::settings::Settings;
use crate::single_flight::SingleFlight;

/// What is here, as a file for each says too.
#[derive(Debug, Default)]
struct State {
    records: BTreeMap<Digest, Arc<Record>>,
    names: BTreeMap<String, Digest>,
    /// Files that must not go now, by the digits of their names: how many need each.
    held: HashMap<String, usize>,
}

#[derive(Debug)]
struct Inner {
    workshop: Arc<ImageBuilder>,
    pulls: SingleFlight<String, Progress>,
    state: Mutex<State>,
}

/// The images of this host. Clones are the same store.
#[derive(Clone, Debug)]
pub struct Images(Arc<Inner>);

/// An image that cannot be removed as long as this lives.
#[derive(Debug)]
pub struct HeldImage {
    /// The image.
    pub record: Arc<Record>,
    _hold: ImageLock,
}

/// Keeps files from being removed.
#[derive(Debug)]
struct ImageLock {
    inner: Arc<Inner>,
    digits: Vec<String>,
}

impl Drop for ImageLock {
    fn drop(&mut self) {
        let mut state = self.inner.lock();
        for digits in &self.digits {
            if let Some(count) = state.held.get_mut(digits) {
                *count -= 1;
                if *count == 0 {
                    state.held.remove(digits);
                }
            }
        }
    }
}

/// An image as lists show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The image.
    pub record: Arc<Record>,
    /// Its names, without what Docker Hub's users leave out.
    pub names: Vec<String>,
}

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

/// What is held while an archive is read: nobody knows yet which blobs come of it.
const LOADING: &str = "loading";

/// Images that instances need, with the instance's name. Asked for under the store's lock: an image that a new instance
/// takes is held until that instance is among them.
pub type InUse = BTreeMap<Digest, String>;

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Images {
    /// Opens the store in a directory, which it makes if need be, and removes files that have no name yet. Blocks.
    ///
    /// # Errors
    /// If the directory cannot be used.
    pub fn open(dir: PathBuf, settings: Settings) -> Result<Images, ImageError> {
        if !manifest::known_architecture(&settings.architecture) {
            return Err(ImageError::Settings(format!("{} is no processor", settings.architecture)));
        }
        let layout = Layout(dir);
        let _none = fs::remove_dir_all(layout.tmp());
        for dir in layout.dirs() {
            fs::create_dir_all(&dir).map_err(ImageError::io("cannot make", dir))?;
        }
        let mut state = State::default();
        for record in image_record::read_all::<Record>(&layout.0.join("records"))? {
            state.records.insert(record.digest.clone(), Arc::new(record));
        }
        for NameRecord { name, digest } in image_record::read_all(&layout.0.join("names"))? {
            state.names.insert(name, digest);
        }
        let workshop = Arc::new(ImageBuilder::new(layout, settings));
        let images =
            Images(Arc::new(Inner { workshop, pulls: SingleFlight::default(), state: Mutex::new(state) }));
        Ok(images)
    }

    pub(crate) fn workshop(&self) -> &ImageBuilder {
        &self.0.workshop
    }

    fn layout(&self) -> &Layout {
        &self.0.workshop.layout
    }

    fn hold(&self, state: &mut State, digits: Vec<String>) -> ImageLock {
        for one in &digits {
            *state.held.entry(one.clone()).or_default() += 1;
        }
        ImageLock { inner: Arc::clone(&self.0), digits }
    }

    /// The image that somebody means, if it is here and ready.
    ///
    /// # Errors
    /// If the name makes no sense, or there is no such image.
    pub fn find(&self, name: &str) -> Result<HeldImage, ImageError> {
        let parsed: ImageName = name.parse()?;
        let mut state = self.0.lock();
        let digest = resolve(&state, &parsed, name)?;
        let record = state.records.get(&digest).filter(|record| record.format == FORMAT);
        let record = Arc::clone(record.ok_or_else(|| ImageError::Absent(name.to_owned()))?);
        let hold = self.hold(&mut state, vec![digest.hex().to_owned()]);
        Ok(HeldImage { record, _hold: hold })
    }

    /// Files that make up an image's root disk, one after the other.
    ///
    /// # Errors
    /// If the image is not here, or not whole.
    pub fn parts(&self, digest: &Digest) -> Result<Vec<PathBuf>, ImageError> {
        let record = self.0.lock().records.get(digest).cloned();
        let record = record.ok_or_else(|| ImageError::Absent(digest.to_string()))?;
        let layers = record.layers.iter().filter(|layer| layer.blocks > 0);
        let parts: Vec<PathBuf> = std::iter::once(self.layout().disk(digest))
            .chain(layers.map(|layer| self.layout().layer_data(&layer.diff_id)))
            .collect();
        match parts.iter().find(|part| !part.exists()) {
            None => Ok(parts),
            Some(lost) => {
                let text = format!("{} is missing", lost.display());
                Err(ImageError::Damaged(digest.short().to_owned(), text))
            }
        }
    }

    /// Pulls an image, or joins who does so already. It goes on if nobody watches.
    #[must_use]
    pub fn pull(&self, reference: &ImageReference) -> watch::Receiver<Progress> {
        let (this, wanted) = (self.clone(), reference.clone());
        let tasks = &self.0.workshop.tasks;
        self.0.pulls.join(tasks, reference.to_string(), Progress::default(), |progress| async move {
            let outcome = this.fetch(&wanted, &progress).await;
            progress.send_modify(|progress| progress.outcome = Some(outcome));
        })
    }

    /// The image of this name, pulled if it is not here.
    ///
    /// # Errors
    /// If the name makes no sense, or the image cannot be had.
    pub async fn ensure(&self, name: &str) -> Result<HeldImage, ImageError> {
        match self.find(name) {
            Err(ImageError::Absent(_)) => {}
            other => return other,
        }
        let reference = match name.parse()? {
            ImageName::Reference(reference) | ImageName::Digits(_, Some(reference)) => reference,
            ImageName::Digits(_, None) => return Err(ImageError::Absent(name.to_owned())),
        };
        pulled(self.pull(&reference)).await?;
        self.find(&reference.to_string())
    }

    async fn fetch(
        &self,
        reference: &ImageReference,
        progress: &watch::Sender<Progress>,
    ) -> Result<Digest, ImageError> {
        let workshop = &self.0.workshop;
        let repository = Repository::open(reference, &workshop.settings).await?;
        let (plan, documents) = self.look_for(reference, &repository).await?;
        let digest = plan.digest.clone();
        self.adopt(plan, documents, &[reference.to_string()], Some(repository), progress).await?;
        Ok(digest)
    }

    /// The image for the guest's processor that a name leads to, over however many indices.
    async fn look_for(
        &self,
        reference: &ImageReference,
        repository: &Repository,
    ) -> Result<(Plan, [Vec<u8>; 2]), ImageError> {
        let architecture = &self.0.workshop.settings.architecture;
        let name = reference.familiar();
        let (mut ahead, mut refused) = (vec![reference.version().to_owned()], None);
        for _ in 0..manifest::MOST_LOOKED {
            let Some(version) = ahead.pop() else { break };
            let looked = async {
                let bytes = repository.manifest(&version).await?;
                match manifest::parse(&bytes)? {
                    Document::Index(choices) => {
                        let fitting = manifest::candidates(&choices, architecture, &name)?;
                        Ok(Err(fitting.iter().map(|choice| choice.manifest.digest.to_string()).collect()))
                    }
                    Document::Image { config, layers } => {
                        let config_bytes = repository.small_blob(&config.digest).await?;
                        let plan = Plan::new(&bytes, config, &config_bytes, layers, (&name, architecture))?;
                        Ok(Ok((plan, [bytes, config_bytes])))
                    }
                }
            };
            let looked: Result<Result<_, Vec<String>>, ImageError> = looked.await;
            match looked {
                Ok(Ok(found)) => return Ok(found),
                Ok(Err(further)) => ahead.extend(further.into_iter().rev()),
                Err(error) if !error.is_of_the_image() => return Err(error),
                // The best one's reason is told.
                Err(error) => drop(refused.get_or_insert(error)),
            }
        }
        Err(refused.unwrap_or_else(|| ImageError::invalid("its indices lead to no image")))
    }

    /// Takes archives in without what it stores being removed; of what is not taken nothing stays.
    pub(crate) async fn while_loading(
        &self,
        work: impl Future<Output = Result<Loaded, ImageError>>,
    ) -> Result<Loaded, ImageError> {
        let hold = self.hold(&mut self.0.lock(), vec![LOADING.to_owned()]);
        let outcome = work.await;
        drop(hold);
        if outcome.as_ref().map_or(true, |loaded| !loaded.left.is_empty()) {
            let this = self.clone();
            let swept = tokio::task::spawn_blocking(move || this.sweep_files(&this.0.lock(), false)).await;
            if let Ok(Err(error)) = swept {
                tracing::warn!(%error, "what an archive left was not removed");
            }
        }
        outcome
    }

    /// Makes an image ready and gives it names. The small documents are stored with it.
    pub(crate) async fn adopt(
        &self,
        plan: Plan,
        documents: [Vec<u8>; 2],
        names: &[String],
        from: Option<Repository>,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), ImageError> {
        let digest = plan.digest.clone();
        let _hold = self.hold(&mut self.0.lock(), digits_of(&plan));
        let there = self.0.lock().records.get(&digest).filter(|record| record.format == FORMAT).cloned();
        let whole = there.is_some() && self.parts(&digest).is_ok();
        if !whole {
            let layout = self.layout().clone();
            let stored = tokio::task::spawn_blocking(move || {
                documents.iter().try_for_each(|bytes| layout.write(&layout.blob(&Digest::of(bytes)), bytes))
            });
            stored.await.map_err(|_| ImageError::BrokenOff)??;
            let record = self.0.workshop.prepare(plan, from, progress).await?;
            self.0.lock().records.insert(digest.clone(), Arc::new(record));
        }
        let (this, names) = (self.clone(), names.to_vec());
        let named = tokio::task::spawn_blocking(move || {
            names.into_iter().try_for_each(|name| this.give_name(name, digest.clone()))
        });
        named.await.map_err(|_| ImageError::BrokenOff)?
    }

    fn give_name(&self, name: String, digest: Digest) -> Result<(), ImageError> {
        let at = self.layout().name(&name);
        self.layout().write_json(&at, &NameRecord { name: name.clone(), digest: digest.clone() })?;
        self.0.lock().names.insert(name, digest);
        Ok(())
    }

    /// All images, by the first of their names; those without one last.
    #[must_use]
    pub fn list(&self) -> Vec<Listed> {
        let state = self.0.lock();
        let names_of = |digest: &Digest| {
            let own = state.names.iter().filter(|(_, named)| *named == digest);
            own.map(|(name, _)| familiar(name)).collect::<Vec<_>>()
        };
        let mut all: Vec<Listed> = state
            .records
            .values()
            .map(|record| Listed { record: Arc::clone(record), names: names_of(&record.digest) })
            .collect();
        all.sort_by(|a, b| (a.names.is_empty(), &a.names).cmp(&(b.names.is_empty(), &b.names)));
        all
    }

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
        let mut removed = self.sweep(&mut state, &in_use, false)?;
        removed.names = going.iter().map(|name| familiar(name)).collect();
        Ok(removed)
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
        let mut removed = self.sweep(&mut state, &in_use, true)?;
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

    /// Removes records that nobody needs, then files that no record needs. Downloads that were broken off stay
    /// unless `partial` ones go too. All under the lock: whoever needs something says so under it before he looks.
    fn sweep(&self, state: &mut State, in_use: &InUse, partial: bool) -> Result<Removed, ImageError> {
        let named: BTreeSet<&Digest> = state.names.values().collect();
        let needed = |digest: &Digest| {
            named.contains(digest) || in_use.contains_key(digest) || state.held.contains_key(digest.hex())
        };
        let gone: Vec<Digest> = state.records.keys().filter(|digest| !needed(digest)).cloned().collect();
        let mut images = Vec::new();
        for digest in gone {
            image_record::remove(&self.layout().record(&digest))?;
            state.records.remove(&digest);
            images.push(digest);
        }
        let bytes = self.sweep_files(state, partial)?;
        Ok(Removed { names: Vec::new(), images, bytes })
    }

    /// Removes files that no record needs, and returns the space that they took.
    fn sweep_files(&self, state: &State, partial: bool) -> Result<u64, ImageError> {
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

/// Waits for the end of a pull.
///
/// # Errors
/// If it failed.
pub async fn pulled(mut pull: watch::Receiver<Progress>) -> Result<Digest, ImageError> {
    loop {
        if let Some(outcome) = pull.borrow_and_update().outcome.clone() {
            return outcome;
        }
        pull.changed().await.map_err(|_| ImageError::BrokenOff)?;
    }
}

fn digits_of(plan: &Plan) -> Vec<String> {
    let parts = [&plan.digest, &plan.config_part.digest].into_iter();
    let layers = plan.layers.iter().map(|part| &part.blob.digest);
    parts.chain(layers).chain(&plan.config.diff_ids).map(|digest| digest.hex().to_owned()).collect()
}

fn on_disk(path: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).map_or(0, |found| found.blocks() * 512)
}

fn resolve(state: &State, name: &ImageName, shown: &str) -> Result<Digest, ImageError> {
    let absent = || ImageError::Absent(shown.to_owned());
    let by_name = |reference: &ImageReference| {
        let by_digest = reference.digest().filter(|digest| state.records.contains_key(digest));
        state.names.get(&reference.to_string()).cloned().or(by_digest)
    };
    match name {
        ImageName::Reference(reference) => by_name(reference).ok_or_else(absent),
        ImageName::Digits(digits, reference) => {
            if let Some(found) = reference.as_ref().and_then(by_name) {
                return Ok(found);
            }
            let mut found = state.records.keys().filter(|digest| digest.hex().starts_with(digits.as_str()));
            match (found.next(), found.next()) {
                (Some(one), None) => Ok(one.clone()),
                (None, _) => Err(absent()),
                (Some(_), Some(_)) => Err(ImageError::Ambiguous(shown.to_owned())),
            }
        }
    }
}
