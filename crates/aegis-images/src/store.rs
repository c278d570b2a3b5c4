//! The images of this host: found, pulled, listed, removed.

use std::collections::{BTreeMap, HashMap};
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

mod naming;
pub(crate) mod removal;
#[cfg(test)]
mod tests;

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

/// What is held while an archive is read: nobody knows yet which blobs come of it.
const LOADING: &str = "loading";

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
            let outcome = this.fetch(&wanted, &progress).await.map_err(|error| this.not_here(&wanted, error));
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

/// The image that a name means.
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
