//! Creating, describing, starting, stopping, deleting.

use aegis_api::duration;
use aegis_api::error::ErrorBody;
use aegis_api::instance::{ActionReply, CreateInstance, Instance, PruneReply, State as InstanceState};
use aegis_engine::create::Outcome;
use aegis_engine::error::EngineError;
use aegis_instances::error::InstanceError;
use aegis_instances::instances::Pruned;
use aegis_lifecycle::event::Request;
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::api_failure::{self, ApiFailure, no_such_method};
use crate::body::parse;
use crate::mapping;
use crate::state::ApiState;

/// Filter of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Only instances in this state.
    state: Option<String>,
}

/// Whether to reply at once or when it is done.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct WaitQuery {
    /// Reply when the command has been executed, or could not be.
    #[serde(default)]
    wait: bool,
}

/// All instances, oldest first.
#[utoipa::path(get, path = "/v1/instances", params(ListQuery),
    responses((status = 200, body = Vec<Instance>), (status = 400, body = ErrorBody)))]
pub(crate) async fn list(
    State(app): State<ApiState>,
    Query(filter): Query<ListQuery>,
) -> Result<Json<Vec<Instance>>, ApiFailure> {
    let states = [
        InstanceState::Stopped,
        InstanceState::Starting,
        InstanceState::Running,
        InstanceState::Paused,
        InstanceState::Hibernated,
    ];
    let wanted = match filter.state.as_deref() {
        None => None,
        Some(word) => {
            let known = states.into_iter().find(|state| state.as_str() == word);
            Some(known.ok_or_else(|| ApiFailure::invalid(format!("there is no state {word:?}")))?)
        }
    };
    let all = app.engine.instances().list();
    let shown = all.iter().map(|view| mapping::instance(&app, view));
    Ok(Json(shown.filter(|instance| wanted.is_none_or(|state| instance.state == state)).collect()))
}

/// Creates an instance and starts it; or starts an existing one, if the request names just its handle, or equals
/// what it was created with.
#[utoipa::path(post, path = "/v1/instances", request_body = CreateInstance, responses(
    (status = 201, description = "Created.", body = Instance),
    (status = 200, description = "An existing one was started.", body = Instance),
    (status = 400, body = ErrorBody), (status = 409, body = ErrorBody), (status = 422, body = ErrorBody),
    (status = 500, body = ErrorBody), (status = 503, body = ErrorBody), (status = 507, body = ErrorBody)))]
pub(crate) async fn create(
    State(app): State<ApiState>,
    body: Bytes,
) -> Result<(StatusCode, Json<Instance>), ApiFailure> {
    let request: CreateInstance = parse(&body)?;
    if let Some(from) = &request.from {
        return start_from(&app, from, &request).await;
    }
    let created = app.engine.create(mapping::new_instance(&request)?, request.wait).await;
    let (status, instance) = match created.map_err(|error| not_created(&app, error))? {
        Outcome::Created(instance) => (StatusCode::CREATED, instance),
        Outcome::Started(instance) => (StatusCode::OK, instance),
    };
    Ok((status, Json(mapping::instance(&app, &instance.view()))))
}

/// An instance that runs already is not to be started as it is.
fn not_created(app: &ApiState, error: EngineError) -> ApiFailure {
    let runs = |handle: &str| {
        let found = app.engine.instances().find(handle);
        found.is_ok_and(|found| {
            matches!(mapping::state(found.view().state), InstanceState::Running | InstanceState::Starting)
        })
    };
    match error {
        EngineError::Instance(InstanceError::HandleExists(handle)) if runs(&handle) => {
            api_failure::handle_runs(&handle)
        }
        other => other.into(),
    }
}

/// Creates an instance from a snapshot.
async fn start_from(
    app: &ApiState,
    from: &str,
    request: &CreateInstance,
) -> Result<(StatusCode, Json<Instance>), ApiFailure> {
    let alone = CreateInstance {
        from: request.from.clone(),
        handle: request.handle.clone(),
        exposes: request.exposes.clone(),
        share_workspace: request.share_workspace,
        wait: request.wait,
        ..CreateInstance::default()
    };
    if *request != alone {
        let text = "an instance from a snapshot has the settings of the one that it was taken of; only a name and \
                    ports can be given";
        return Err(ApiFailure::invalid(text));
    }
    if let Some(handle) = &request.handle {
        mapping::check_handle(handle)?;
    }
    let ports = request.exposes.iter().map(mapping::port_request).collect::<Result<Vec<_>, _>>()?;
    let started = app
        .engine
        .instances()
        .start_from(from, request.handle.clone(), ports, request.share_workspace)
        .await?;
    Ok((StatusCode::CREATED, Json(mapping::instance(app, &started.view()))))
}

/// One instance.
#[utoipa::path(get, path = "/v1/instances/{id}", params(("id" = String, description = "Id or handle.")),
    responses((status = 200, body = Instance), (status = 404, body = ErrorBody)))]
pub(crate) async fn describe(
    State(app): State<ApiState>,
    Path(id): Path<String>,
) -> Result<Json<Instance>, ApiFailure> {
    let instance = app.engine.instances().find(&id)?;
    let disk_usage = instance.disk_usage().await.map(mapping::disk_usage);
    Ok(Json(Instance { disk_usage, ..mapping::instance(&app, &instance.view()) }))
}

async fn act(
    app: &ApiState,
    id: &str,
    request: Request,
    outcome: &str,
) -> Result<Json<ActionReply>, ApiFailure> {
    let instance = app.engine.instances().find(id)?;
    let id = instance.view().id.clone();
    instance.request(request).await?;
    Ok(Json(ActionReply { id, status: outcome.to_owned() }))
}

/// Deletes an instance in any state, with everything that is stored of it.
#[utoipa::path(delete, path = "/v1/instances/{id}", params(("id" = String, description = "Id or handle.")),
    responses((status = 200, body = ActionReply), (status = 404, body = ErrorBody)))]
pub(crate) async fn delete(
    State(app): State<ApiState>,
    Path(id): Path<String>,
) -> Result<Json<ActionReply>, ApiFailure> {
    act(&app, &id, Request::Delete, "deleted").await
}

/// Which instances are old enough.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PruneQuery {
    /// How long they have been stopped at least, e.g. `12h` or `7d`. Required.
    older_than: Option<String>,
    /// Also those that are enabled and have ports, which a connection would wake.
    #[serde(default)]
    all: bool,
}

/// `POST /v1/instances/prune`: deletes the instances that have been stopped for long; those that a connection
/// would wake only if all are wanted. The path is
/// shared with the instance of that handle, which has no use for this method.
#[utoipa::path(post, path = "/v1/instances/{id}", params(("id" = String, description = "The word `prune`."), PruneQuery),
    responses((status = 200, body = PruneReply), (status = 400, body = ErrorBody), (status = 405, body = ErrorBody)))]
pub(crate) async fn prune(
    State(app): State<ApiState>,
    Path(word): Path<String>,
    Query(age): Query<PruneQuery>,
) -> Result<Response, ApiFailure> {
    if word != "prune" {
        return Ok(no_such_method().await);
    }
    let text =
        age.older_than.ok_or_else(|| ApiFailure::invalid("older_than is missing, e.g. older_than=7d"))?;
    let older_than = duration::parse_ms(&text)
        .map_err(|error| ApiFailure::invalid(format!("older_than={text:?}: {error}")))?;
    let Pruned { deleted: ids, skipped } = app.engine.instances().prune(older_than, age.all).await;
    Ok(Json(PruneReply { pruned: ids.len(), ids, skipped }).into_response())
}

/// Boots a stopped instance, enabling it; resumes a paused one.
#[utoipa::path(post, path = "/v1/instances/{id}/start",
    params(("id" = String, description = "Id or handle."), WaitQuery),
    responses((status = 200, body = ActionReply), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn start(
    State(app): State<ApiState>,
    Path(id): Path<String>,
    Query(query): Query<WaitQuery>,
) -> Result<Json<ActionReply>, ApiFailure> {
    power(&app, &id, Request::Start, query.wait, "starting").await
}

/// Stops an instance if it runs, and boots it.
#[utoipa::path(post, path = "/v1/instances/{id}/restart",
    params(("id" = String, description = "Id or handle."), WaitQuery),
    responses((status = 200, body = ActionReply), (status = 404, body = ErrorBody)))]
pub(crate) async fn restart(
    State(app): State<ApiState>,
    Path(id): Path<String>,
    Query(query): Query<WaitQuery>,
) -> Result<Json<ActionReply>, ApiFailure> {
    power(&app, &id, Request::Restart, query.wait, "restarting").await
}

async fn power(
    app: &ApiState,
    id: &str,
    request: Request,
    wait: bool,
    meanwhile: &str,
) -> Result<Json<ActionReply>, ApiFailure> {
    if wait {
        return act(app, id, request, "running").await;
    }
    let instance = app.engine.instances().find(id)?;
    let view = instance.view();
    // Without patience, what can be refused at once still is.
    if request == Request::Start
        && matches!(mapping::state(view.state), InstanceState::Running | InstanceState::Starting)
    {
        return Err(InstanceError::AlreadyRunning(mapping::state(view.state).as_str()).into());
    }
    let id = view.id.clone();
    // Owned by the instance: ends with the boot.
    tokio::spawn(async move { instance.request(request).await });
    Ok(Json(ActionReply { id, status: meanwhile.to_owned() }))
}

/// Ends an instance's machine: SIGTERM to its processes, grace, SIGKILL. It stays enabled.
#[utoipa::path(post, path = "/v1/instances/{id}/stop", params(("id" = String, description = "Id or handle.")),
    responses((status = 200, body = ActionReply), (status = 404, body = ErrorBody)))]
pub(crate) async fn stop(
    State(app): State<ApiState>,
    Path(id): Path<String>,
) -> Result<Json<ActionReply>, ApiFailure> {
    act(&app, &id, Request::Stop, "stopped").await
}

/// Like stop; from then on only an explicit start boots it.
#[utoipa::path(post, path = "/v1/instances/{id}/disable", params(("id" = String, description = "Id or handle.")),
    responses((status = 200, body = ActionReply), (status = 404, body = ErrorBody)))]
pub(crate) async fn disable(
    State(app): State<ApiState>,
    Path(id): Path<String>,
) -> Result<Json<ActionReply>, ApiFailure> {
    act(&app, &id, Request::Disable, "disabled").await
}

/// Makes an instance's machine stand still, keeping its memory.
#[utoipa::path(post, path = "/v1/instances/{id}/pause", params(("id" = String, description = "Id or handle.")),
    responses((status = 200, body = ActionReply), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn pause(
    State(app): State<ApiState>,
    Path(id): Path<String>,
) -> Result<Json<ActionReply>, ApiFailure> {
    act(&app, &id, Request::Pause, "paused").await
}

/// Puts an instance's machine on disk, with its memory, from where it goes on.
#[utoipa::path(post, path = "/v1/instances/{id}/hibernate", params(("id" = String, description = "Id or handle.")),
    responses((status = 200, body = ActionReply), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn hibernate(
    State(app): State<ApiState>,
    Path(id): Path<String>,
) -> Result<Json<ActionReply>, ApiFailure> {
    act(&app, &id, Request::Hibernate, "hibernated").await
}

/// Lets a paused or hibernated instance go on.
#[utoipa::path(post, path = "/v1/instances/{id}/resume", params(("id" = String, description = "Id or handle.")),
    responses((status = 200, body = ActionReply), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn resume(
    State(app): State<ApiState>,
    Path(id): Path<String>,
) -> Result<Json<ActionReply>, ApiFailure> {
    act(&app, &id, Request::Resume, "running").await
}
