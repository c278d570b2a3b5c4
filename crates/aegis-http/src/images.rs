//! Images: pulled, loaded, saved, listed, removed.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use aegis_api::error::ErrorBody;
use aegis_api::image::{
    Image, ImageConfig, ImageLayer, ImagesRemoved, LayerProgress, LayerStage, PullProgress, PullRequest,
    TagRequest,
};
use aegis_images::chunk_reader::ChunkReader;
use aegis_images::{
    Digest, HeldImage, ImageError, ImageReference, Images, Listed, Progress, Removed, RunSettings, Stage,
};
use axum::Json;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::channel::{Channel, Sender};
use serde::Deserialize;
use tokio::sync::{mpsc, watch};
use utoipa::IntoParams;

use crate::api_failure::{ApiFailure, blocking};
use crate::body::{parse, timestamp};
use crate::state::ApiState;

/// Least time between two reports of progress.
const REPORT_PERIOD: Duration = Duration::from_millis(100);
/// Pieces of an archive on their way.
const PIECES: usize = 8;
/// Size of a piece of an archive that is saved, bytes.
const PIECE: usize = 256 << 10;

/// Where an answer says what else an archive had.
const LEFT_OUT: HeaderName = HeaderName::from_static("aegis-left-out");
/// Longest sentence there, characters.
const MOST_SENTENCE: usize = 400;

fn shown(listed: &Listed, users: &BTreeMap<Digest, Vec<String>>) -> Image {
    let record = &listed.record;
    let layer = |layer: &aegis_images::RecordedLayer| ImageLayer {
        digest: layer.blob.to_string(),
        diff_id: layer.diff_id.to_string(),
        size: layer.size,
    };
    Image {
        digest: record.digest.to_string(),
        names: listed.names.clone(),
        size: record.bytes(),
        architecture: record.architecture.clone(),
        created: record.created.clone(),
        prepared_at: timestamp(record.prepared_ms),
        env: record.env.clone(),
        config: None,
        layers: record.layers.iter().map(layer).collect(),
        used_by: users.get(&record.digest).cloned().unwrap_or_default(),
    }
}

fn image(app: &ApiState, digest: &Digest) -> Result<Image, ApiFailure> {
    let all = app.engine.images().list();
    let found = all.iter().find(|listed| listed.record.digest == *digest);
    Ok(shown(found.ok_or_else(|| ImageError::Absent(digest.to_string()))?, &app.engine.image_users()))
}

fn removed(removed: Removed) -> ImagesRemoved {
    let images = removed.images.iter().map(ToString::to_string).collect();
    ImagesRemoved { names: removed.names, images, bytes: removed.bytes }
}

/// All images on this host.
#[utoipa::path(get, path = "/v1/images", responses((status = 200, body = Vec<Image>)))]
pub(crate) async fn list(State(app): State<ApiState>) -> Json<Vec<Image>> {
    let users = app.engine.image_users();
    Json(app.engine.images().list().iter().map(|listed| shown(listed, &users)).collect())
}

/// Which image.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Named {
    /// A reference, or the first digits of the digest.
    name: String,
}

/// One image.
#[utoipa::path(get, path = "/v1/images/info", params(Named),
    responses((status = 200, body = Image), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(crate) async fn describe(
    State(app): State<ApiState>,
    Query(named): Query<Named>,
) -> Result<Json<Image>, ApiFailure> {
    let held = app.engine.images().find(&named.name)?;
    let (images, record) = (app.engine.images().clone(), held.record.clone());
    // Of an image that is damaged the rest is told all the same.
    let config = blocking(move || images.run_settings(&record)).await.ok().map(run_settings);
    Ok(Json(Image { config, ..image(&app, &held.record.digest)? }))
}

fn run_settings(settings: RunSettings) -> ImageConfig {
    let said = |text: String| Some(text).filter(|text| !text.is_empty());
    ImageConfig {
        entrypoint: settings.entrypoint,
        cmd: settings.cmd,
        user: said(settings.user),
        working_dir: said(settings.working_dir),
        exposed_ports: settings.exposed_ports,
    }
}

/// Takes a name away, and with the last one the image.
#[utoipa::path(delete, path = "/v1/images", params(Named),
    responses((status = 200, body = ImagesRemoved), (status = 400, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn remove(
    State(app): State<ApiState>,
    Query(named): Query<Named>,
) -> Result<Json<ImagesRemoved>, ApiFailure> {
    Ok(Json(removed(
        blocking(move || app.engine.images().remove(&named.name, || app.engine.images_in_use())).await?,
    )))
}

/// Gives an image that is on this host a name. One that another image has moves.
#[utoipa::path(post, path = "/v1/images/tag", request_body = TagRequest,
    responses((status = 200, body = Image), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(crate) async fn tag(State(app): State<ApiState>, body: Bytes) -> Result<Json<Image>, ApiFailure> {
    let TagRequest { image: wanted, name } = parse(&body)?;
    let images = app.engine.images().clone();
    let digest = blocking(move || images.tag(&wanted, &name)).await?;
    Ok(Json(image(&app, &digest)?))
}

/// How much goes.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Extent {
    /// Also images that have names.
    #[serde(default)]
    all: bool,
}

/// Removes images without names that no instance needs; with `all` also those with names.
#[utoipa::path(post, path = "/v1/images/prune", params(Extent), responses((status = 200, body = ImagesRemoved)))]
pub(crate) async fn prune(
    State(app): State<ApiState>,
    Query(extent): Query<Extent>,
) -> Result<Json<ImagesRemoved>, ApiFailure> {
    Ok(Json(removed(
        blocking(move || app.engine.images().prune(extent.all, || app.engine.images_in_use())).await?,
    )))
}

/// Pulls an image, whatever is on this host. The reply tells how far it is, a JSON object a line, and last the image or
/// the error. The pull goes on if the client goes away.
#[utoipa::path(post, path = "/v1/images/pull", request_body = PullRequest,
    responses((status = 200, content_type = "application/x-ndjson", body = PullProgress),
        (status = 400, body = ErrorBody), (status = 507, body = ErrorBody)))]
pub(crate) async fn pull(State(app): State<ApiState>, body: Bytes) -> Result<Response, ApiFailure> {
    let request: PullRequest = parse(&body)?;
    let reference: ImageReference = request.reference.parse()?;
    app.engine.instances().check_room()?;
    let progress = app.engine.images().pull(&reference);
    let (sender, body) = Channel::<Bytes>::new(PIECES);
    let streams = app.streams.clone();
    streams.spawn(async move { tell(&app, progress, sender).await });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::new(body)).into_response())
}

async fn tell(app: &ApiState, mut progress: watch::Receiver<Progress>, mut sender: Sender<Bytes>) {
    let mut beat = tokio::time::interval(REPORT_PERIOD);
    loop {
        beat.tick().await;
        let now = progress.borrow_and_update().clone();
        let line = report(app, &now);
        let mut json = serde_json::to_vec(&line).unwrap_or_default();
        json.push(b'\n');
        if sender.send_data(json.into()).await.is_err() || now.outcome.is_some() {
            break;
        }
        tokio::select! {
            changed = progress.changed() => if changed.is_err() { break },
            () = app.shutdown.requested().cancelled() => break,
        }
    }
    app.engine.keep_image_budget();
}

fn report(app: &ApiState, progress: &Progress) -> PullProgress {
    let layer = |layer: &aegis_images::LayerProgress| LayerProgress {
        digest: layer.digest.to_string(),
        done: layer.done,
        total: layer.total,
        stage: match layer.stage {
            Stage::Waiting => LayerStage::Waiting,
            Stage::Downloading => LayerStage::Downloading,
            Stage::Unpacking => LayerStage::Unpacking,
            Stage::Ready => LayerStage::Ready,
        },
    };
    let outcome = progress.outcome.clone();
    let outcome =
        outcome.map(|outcome| outcome.map_err(ApiFailure::from).and_then(|digest| image(app, &digest)));
    let (image, error) = match outcome {
        None => (None, None),
        Some(Ok(image)) => (Some(image), None),
        Some(Err(ApiFailure(error))) => (None, Some(error)),
    };
    PullProgress { layers: progress.layers.iter().map(layer).collect(), image, error }
}

/// Takes over the images of an archive: of `docker save`, or an OCI layout as tar, plain or compressed.
#[utoipa::path(post, path = "/v1/images/load",
    request_body(content = inline(Vec<u8>), content_type = "application/x-tar"),
    responses((status = 200, body = Vec<Image>), (status = 422, body = ErrorBody), (status = 507, body = ErrorBody)))]
pub(crate) async fn load(State(app): State<ApiState>, mut body: Body) -> Result<Response, ApiFailure> {
    app.engine.instances().check_room()?;
    let (pieces, receiver) = mpsc::channel::<io::Result<Bytes>>(PIECES);
    let feed = async move {
        while let Some(frame) = body.frame().await {
            let piece = frame.map_err(io::Error::other).map(|frame| frame.into_data().unwrap_or_default());
            if pieces.send(piece).await.is_err() {
                // What follows the end of an archive is of no interest, but its sender waits until somebody takes it.
                while let Some(Ok(_)) = body.frame().await {}
                return;
            }
        }
    };
    let work = app.engine.images().load(ChunkReader::new(receiver));
    let (loaded, ()) = tokio::join!(work, feed);
    let loaded = loaded?;
    let images: Result<Vec<Image>, ApiFailure> =
        loaded.images.iter().map(|digest| image(&app, digest)).collect();
    app.engine.keep_image_budget();
    let mut response = Json(images?).into_response();
    if let Some(left) = left_out(&loaded.left) {
        response.headers_mut().insert(LEFT_OUT, left);
    }
    Ok(response)
}

/// What else is in an archive, and why it was left: a JSON array of sentences.
fn left_out(left: &[String]) -> Option<HeaderValue> {
    let short = |text: &String| text.chars().take(MOST_SENTENCE).collect::<String>();
    let text = serde_json::to_vec(&left.iter().map(short).collect::<Vec<_>>()).ok()?;
    HeaderValue::from_bytes(&text).ok().filter(|_| !left.is_empty())
}

/// Which images.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Several {
    /// References or first digits of digests, with commas between them.
    names: String,
}

/// Images as an archive that `docker load` and `aegis image load` take.
#[utoipa::path(get, path = "/v1/images/save", params(Several),
    responses((status = 200, content_type = "application/x-tar", body = inline(Vec<u8>)),
        (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(crate) async fn save(
    State(app): State<ApiState>,
    Query(several): Query<Several>,
) -> Result<Response, ApiFailure> {
    let names = several.names.split(',').map(str::to_owned);
    let images: Vec<(String, HeldImage)> = names
        .map(|name| Ok((name.clone(), app.engine.images().find(&name)?)))
        .collect::<Result<_, ImageError>>()?;
    let (sender, body) = Channel::<Bytes, io::Error>::new(PIECES);
    let (store, runtime) = (app.engine.images().clone(), tokio::runtime::Handle::current());
    app.streams.spawn_blocking(move || write_archive(&store, &images, sender, &runtime));
    Ok(([(header::CONTENT_TYPE, "application/x-tar")], Body::new(body)).into_response())
}

fn write_archive(
    store: &Images,
    images: &[(String, HeldImage)],
    sender: Sender<Bytes, io::Error>,
    runtime: &tokio::runtime::Handle,
) {
    let mut outlet = io::BufWriter::with_capacity(PIECE, Outlet { sender, runtime });
    let saved = store.save(images, &mut outlet).map_err(|error| error.to_string());
    let saved = saved.and_then(|()| outlet.flush().map_err(|error| error.to_string()));
    if let (Err(error), Ok(outlet)) = (saved, outlet.into_inner()) {
        tracing::warn!(error, "an image was not saved");
        // The client sees that the archive is not whole.
        outlet.sender.abort(io::Error::other(error));
    }
}

/// A body, as whoever blocks writes it.
struct Outlet<'r> {
    sender: Sender<Bytes, io::Error>,
    runtime: &'r tokio::runtime::Handle,
}

impl Write for Outlet<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.runtime.block_on(self.sender.send_data(Bytes::copy_from_slice(bytes)));
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
