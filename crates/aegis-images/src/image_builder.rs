//! From a manifest to an image that is ready: layers side by side, then the disk that binds them together.

use std::sync::Arc;

use aegis_erofs::{FileTree, ImageOptions, Spool};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use crate::digest::Digest;
use crate::error::ImageError;
use crate::image_record::{FORMAT, Layout, Record, RecordedLayer};
use crate::layer;
use crate::manifest::{self, Config, LayerPart, Part};
use crate::progress::{LayerProgress, Progress, Stage};
use crate::registry::Repository;
use crate::settings::Settings;
use crate::single_flight::SingleFlight;

/// Layers that are fetched at the same time, as Docker does.
const DOWNLOADS: usize = 3;
/// Most layers that are unpacked at the same time: each takes memory.
const MOST_UNPACKED: usize = 4;

/// How far one layer has come.
#[derive(Clone, Debug)]
struct LayerState {
    done: u64,
    stage: Stage,
    outcome: Option<Result<(), ImageError>>,
}

/// Brings layers here, each once however many images want it.
#[derive(Debug)]
pub(crate) struct ImageBuilder {
    pub(crate) layout: Layout,
    pub(crate) settings: Settings,
    pub(crate) tasks: TaskTracker,
    /// By blob: two who claim that it unpacks to different things must not write to one file at a time.
    layers: SingleFlight<Digest, LayerState>,
    downloads: Arc<Semaphore>,
    unpacking: Arc<Semaphore>,
}

/// An image's parts, checked.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) digest: Digest,
    pub(crate) config_part: Part,
    pub(crate) config: Config,
    pub(crate) layers: Vec<LayerPart>,
}

impl Plan {
    /// What a manifest and its configuration ask for, if the image, which is called `name`, is for Linux on that
    /// processor.
    pub(crate) fn new(
        manifest: &[u8],
        config_part: Part,
        config: &[u8],
        layers: Vec<LayerPart>,
        (name, architecture): (&str, &str),
    ) -> Result<Plan, ImageError> {
        let mut config = manifest::parse_config(config, layers.len())?;
        manifest::check_platform(&mut config, architecture, name)?;
        Ok(Plan { digest: Digest::of(manifest), config_part, config, layers })
    }
}

impl ImageBuilder {
    pub(crate) fn new(layout: Layout, settings: Settings) -> ImageBuilder {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        ImageBuilder {
            layout,
            settings,
            tasks: TaskTracker::new(),
            layers: SingleFlight::default(),
            downloads: Arc::new(Semaphore::new(DOWNLOADS)),
            unpacking: Arc::new(Semaphore::new(processors.min(MOST_UNPACKED))),
        }
    }

    /// Makes an image ready. Blobs that are not here come from the registry; without one they are an error.
    pub(crate) async fn prepare(
        self: &Arc<Self>,
        plan: Plan,
        from: Option<Repository>,
        progress: &watch::Sender<Progress>,
    ) -> Result<Record, ImageError> {
        let layers = plan.layers.iter().zip(&plan.config.diff_ids);
        progress.send_modify(|progress| progress.layers = plan.layers.iter().map(waiting).collect());
        let mut watches = JoinSet::new();
        for (at, (part, diff_id)) in layers.enumerate() {
            let mut state = self.layer(part.clone(), diff_id.clone(), from.clone());
            let (progress, diff_id, index) =
                (progress.clone(), diff_id.clone(), self.layout.layer_index(diff_id));
            watches.spawn(async move {
                loop {
                    let now = state.borrow_and_update().clone();
                    progress.send_modify(|progress| {
                        if let Some(layer) = progress.layers.get_mut(at) {
                            (layer.done, layer.stage) = (now.done, now.stage);
                        }
                    });
                    match now.outcome {
                        // Whoever came first has unpacked it to what he claimed.
                        Some(Ok(())) if !index.exists() => {
                            let text = format!("a layer does not unpack to {diff_id}");
                            return Err(ImageError::Invalid(text));
                        }
                        Some(outcome) => return outcome,
                        None => {}
                    }
                    state.changed().await.map_err(|_| ImageError::BrokenOff)?;
                }
            });
        }
        while let Some(done) = watches.join_next().await {
            // The others go on: they are of use to the next attempt.
            done.map_err(|_| ImageError::BrokenOff)??;
        }
        let (layout, limits) = (self.layout.clone(), self.settings.limits.clone());
        let assembled = tokio::task::spawn_blocking(move || assemble(&layout, &limits, &plan)).await;
        assembled.map_err(|_| ImageError::BrokenOff)?
    }

    fn layer(
        self: &Arc<Self>,
        part: LayerPart,
        diff_id: Digest,
        from: Option<Repository>,
    ) -> watch::Receiver<LayerState> {
        let first = LayerState { done: 0, stage: Stage::Waiting, outcome: None };
        let this = Arc::clone(self);
        self.layers.join(&self.tasks, part.blob.digest.clone(), first, |state| async move {
            let outcome = this.bring(&part, diff_id, from, &state).await;
            state.send_modify(|state| {
                if outcome.is_ok() {
                    (state.done, state.stage) = (part.blob.size, Stage::Ready);
                }
                state.outcome = Some(outcome);
            });
        })
    }

    async fn bring(
        &self,
        part: &LayerPart,
        diff_id: Digest,
        from: Option<Repository>,
        state: &watch::Sender<LayerState>,
    ) -> Result<(), ImageError> {
        if !self.layout.blob(&part.blob.digest).exists() {
            let from = from.ok_or_else(|| ImageError::invalid(format!("{} is missing", part.blob.digest)))?;
            let _turn = self.downloads.acquire().await.map_err(|_| ImageError::BrokenOff)?;
            let told = |done| {
                state.send_modify(|state| (state.done, state.stage) = (done, Stage::Downloading));
            };
            layer::download(&self.layout, &from, &part.blob, &told).await?;
        }
        let _turn = self.unpacking.acquire().await.map_err(|_| ImageError::BrokenOff)?;
        state.send_modify(|state| (state.done, state.stage) = (part.blob.size, Stage::Unpacking));
        let (layout, limits, part) = (self.layout.clone(), self.settings.limits.clone(), part.clone());
        let unpacked =
            tokio::task::spawn_blocking(move || layer::unpack(&layout, &part, &diff_id, &limits)).await;
        unpacked.map_err(|_| ImageError::BrokenOff)?
    }
}

fn waiting(part: &LayerPart) -> LayerProgress {
    LayerProgress { digest: part.blob.digest.clone(), done: 0, total: part.blob.size, stage: Stage::Waiting }
}

/// Binds layers that are here together. Blocks.
fn assemble(layout: &Layout, limits: &aegis_erofs::Limits, plan: &Plan) -> Result<Record, ImageError> {
    let tmp = layout.tmp();
    let spool = Spool::in_dir(&tmp).map_err(ImageError::io("cannot write in", tmp))?;
    let mut tree = FileTree::new(limits.clone(), spool);
    let mut blocks = Vec::new();
    for (number, (part, diff_id)) in (0u32..).zip(plan.layers.iter().zip(&plan.config.diff_ids)) {
        let index = layer::read_index(layout, diff_id)?;
        blocks.push(index.blocks());
        index
            .stack(&mut tree, number)
            .map_err(|error| ImageError::layer(part.blob.digest.short())(&error))?;
    }
    let disk = layout.temporary()?;
    let written = aegis_erofs::write_over(&tree, disk.as_file(), &blocks, &ImageOptions::default());
    let own_bytes = written.map_err(|error| ImageError::invalid(error.to_string()))?.bytes;
    layout.place(disk, &layout.disk(&plan.digest))?;
    let recorded = plan.layers.iter().zip(&plan.config.diff_ids).zip(blocks);
    let record = Record {
        format: FORMAT,
        digest: plan.digest.clone(),
        config: plan.config_part.digest.clone(),
        layers: recorded
            .map(|((part, diff_id), blocks)| RecordedLayer {
                blob: part.blob.digest.clone(),
                size: part.blob.size,
                diff_id: diff_id.clone(),
                blocks,
            })
            .collect(),
        own_bytes,
        architecture: plan.config.architecture.clone(),
        created: plan.config.created.clone(),
        env: plan.config.env.clone(),
        prepared_ms: jiff::Timestamp::now().as_millisecond(),
    };
    layout.write_json(&layout.record(&plan.digest), &record)?;
    Ok(record)
}
