//! Snapshots and forks.

use aegis_api::error::ErrorBody;
use aegis_api::instance::ActionReply;
use aegis_api::snapshot::{ForkReply, ForkRequest, MOST_CHILDREN, Snapshot, SnapshotRequest};
use aegis_instances::fork::Fork;
use aegis_instances::fork::Sharing;
use aegis_instances::snapshots::Take;
use aegis_machines::checkpoint::snapshot_store::Snapshot as Stored;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use bytes::Bytes;

use crate::api_failure::{ApiFailure, blocking};
use crate::body::{parse, timestamp};
use crate::mapping;
use crate::state::ApiState;

fn shown(stored: Stored) -> Snapshot {
    Snapshot {
        name: stored.name,
        instance: stored.instance,
        handle: stored.handle,
        created_at: timestamp(stored.created_ms),
        disk_bytes: stored.disk_bytes,
        memory_bytes: stored.memory_bytes,
        running: stored.running,
        stood_ms: None,
    }
}

fn milliseconds(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Checks the name of a snapshot, or the beginning of handles.
fn named(name: Option<&String>) -> Result<(), ApiFailure> {
    name.map_or(Ok(()), |name| mapping::check_handle(name))
}

/// Forks a running instance: children that go on where it stands, and share its memory until they write to it. All of
/// them run when this is answered, or there is none.
#[utoipa::path(post, path = "/v1/instances/{id}/fork", request_body = ForkRequest,
    params(("id" = String, description = "Id or handle.")),
    responses((status = 201, body = ForkReply), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody)))]
pub(crate) async fn fork(
    State(app): State<ApiState>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<(StatusCode, Json<ForkReply>), ApiFailure> {
    let request: ForkRequest = parse(&body)?;
    let count = request.count.unwrap_or(1);
    if !(1..=MOST_CHILDREN).contains(&count) {
        return Err(ApiFailure::invalid(format!("{count} children; 1 to {MOST_CHILDREN} are possible")));
    }
    named(request.prefix.as_ref())?;
    let parent = app.engine.instances().find(&id)?;
    let ports = request.exposes.iter().map(mapping::port_request).collect::<Result<Vec<_>, _>>()?;
    let sharing = Sharing { workspace: request.share_workspace, secrets: request.with_secrets };
    let forked =
        app.engine.instances().fork(&parent, Fork { count, prefix: request.prefix, ports, sharing }).await?;
    let instances = forked.children.iter().map(|child| mapping::instance(&app, &child.view())).collect();
    Ok((StatusCode::CREATED, Json(ForkReply { instances, stood_ms: milliseconds(forked.stood) })))
}

/// Takes a snapshot of an instance.
#[utoipa::path(post, path = "/v1/snapshots", request_body = SnapshotRequest,
    responses((status = 201, body = Snapshot), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody)))]
pub(crate) async fn create(
    State(app): State<ApiState>,
    body: Bytes,
) -> Result<(StatusCode, Json<Snapshot>), ApiFailure> {
    let request: SnapshotRequest = parse(&body)?;
    named(request.name.as_ref())?;
    let instance = app.engine.instances().find(&request.instance)?;
    let take = Take { name: request.name, disk_only: request.disk_only, secrets: request.with_secrets };
    let (taken, stood) = app.engine.instances().take_snapshot(&instance, take).await?;
    Ok((StatusCode::CREATED, Json(Snapshot { stood_ms: stood.map(milliseconds), ..shown(taken) })))
}

/// All snapshots, by name.
#[utoipa::path(get, path = "/v1/snapshots", responses((status = 200, body = Vec<Snapshot>)))]
pub(crate) async fn list(State(app): State<ApiState>) -> Result<Json<Vec<Snapshot>>, ApiFailure> {
    let all =
        blocking(move || Ok::<_, ApiFailure>(app.engine.instances().machines().snapshots().list())).await?;
    Ok(Json(all.into_iter().map(shown).collect()))
}

/// One snapshot.
#[utoipa::path(get, path = "/v1/snapshots/{name}", params(("name" = String, description = "Its name.")),
    responses((status = 200, body = Snapshot), (status = 404, body = ErrorBody)))]
pub(crate) async fn describe(
    State(app): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<Snapshot>, ApiFailure> {
    Ok(Json(shown(blocking(move || app.engine.instances().machines().snapshots().get(&name)).await?)))
}

/// Deletes a snapshot. What was started from it goes on.
#[utoipa::path(delete, path = "/v1/snapshots/{name}", params(("name" = String, description = "Its name.")),
    responses((status = 200, body = ActionReply), (status = 404, body = ErrorBody)))]
pub(crate) async fn delete(
    State(app): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<ActionReply>, ApiFailure> {
    let id = name.clone();
    let deleting = move || app.engine.instances().machines().snapshots().delete(&name);
    blocking(deleting).await?;
    Ok(Json(ActionReply { id, status: "deleted".to_owned() }))
}

/// Puts the instance that a snapshot was taken of back to where it was then; what it has done since is lost. It runs
/// afterwards if it did then, and is stopped otherwise.
#[utoipa::path(post, path = "/v1/snapshots/{name}/restore", params(("name" = String, description = "Its name.")),
    responses((status = 200, body = ActionReply), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn restore(
    State(app): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<ActionReply>, ApiFailure> {
    let instance = app.engine.instances().restore_snapshot(&name).await?;
    let view = instance.view();
    let status = mapping::state(view.state).as_str().to_owned();
    Ok(Json(ActionReply { id: view.id.clone(), status }))
}
