//! Creating, describing, starting, stopping, deleting.

use std::collections::{BTreeMap, BTreeSet};

use aegis_api::duration;
use aegis_api::error::{ApiError, ErrorBody, ErrorCode};
use aegis_api::instance::{ActionReply, CreateInstance, Instance, PruneReply, State as InstanceState};
use aegis_images::{Held, familiar};
use aegis_instances::View;
use aegis_instances::kit::KitUse;
use aegis_instances::lifecycle::Request;
use aegis_instances::manager::{InstanceHandle, Pruned};
use aegis_instances::mounts::Mount;
use aegis_instances::network::groups::Membership;
use aegis_instances::ports::additions;
use aegis_instances::root::PinnedImage;
use aegis_instances::secret::SecretValues;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use utoipa::IntoParams;

use super::convert::{self, names_directories, names_disk, names_only, new_spec, parse};
use super::failure::{Failure, no_such_method};
use super::{images, kits, workspaces};
use crate::App;
use crate::config::NetworkDefaults;

/// Filter of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListFilter {
    /// Only instances in this state.
    state: Option<String>,
}

/// Whether to reply at once or when it is done.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Patience {
    /// Reply when the command has been executed, or could not be.
    #[serde(default)]
    wait: bool,
}

/// All instances, oldest first.
#[utoipa::path(get, path = "/v1/instances", params(ListFilter),
    responses((status = 200, body = Vec<Instance>), (status = 400, body = ErrorBody)))]
pub(super) async fn list(
    State(app): State<App>,
    Query(filter): Query<ListFilter>,
) -> Result<Json<Vec<Instance>>, Failure> {
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
            Some(known.ok_or_else(|| Failure::invalid(format!("there is no state {word:?}")))?)
        }
    };
    let all = app.instances.list();
    let shown = all.iter().map(|view| convert::instance(&app, view));
    Ok(Json(shown.filter(|instance| wanted.is_none_or(|state| instance.state == state)).collect()))
}

/// Creates an instance and starts it; or starts an existing one, if the request names just its handle, or equals
/// what it was created with.
#[utoipa::path(post, path = "/v1/instances", request_body = CreateInstance, responses(
    (status = 201, description = "Created.", body = Instance),
    (status = 200, description = "An existing one was started.", body = Instance),
    (status = 400, body = ErrorBody), (status = 409, body = ErrorBody), (status = 422, body = ErrorBody),
    (status = 500, body = ErrorBody), (status = 503, body = ErrorBody), (status = 507, body = ErrorBody)))]
pub(super) async fn create(
    State(app): State<App>,
    body: Bytes,
) -> Result<(StatusCode, Json<Instance>), Failure> {
    let request: CreateInstance = parse(&body)?;
    if let Some(from) = &request.from {
        return start_from(&app, from, &request).await;
    }
    let (request, kit) = kits::applied(&app, request).await?;
    let existing = request.handle.as_deref().and_then(|handle| app.instances.find(handle).ok());
    if let Some(existing) = existing {
        let is_meant = is_meant(&app, &request, kit.clone(), &existing)?;
        if is_meant || !app.instances.give_way(&existing).await? {
            let started = start_existing(&app, &request, is_meant, &existing).await;
            return started.map(|instance| (StatusCode::OK, instance));
        }
    }
    let names_no_command = names_only(&request) || names_disk(&request).is_some();
    if let (true, Some(handle)) = (names_no_command, &request.handle) {
        let text = format!("there is no instance {handle:?} to start, and no command to create it with");
        return Err(Failure(ApiError::new(ErrorCode::NotFound, text).hint("give a command after --")));
    }
    if let Some(mebibytes) = request.disk_mb {
        app.instances.check_disk(mebibytes)?;
    }
    // Not removed as long as no record says that it is needed.
    let (_held, image) = match &request.image {
        None => (None, None),
        Some(name) => {
            let held = images::obtain(&app, name, request.pull.unwrap_or_default()).await?;
            let image = pin(name, &held, request.no_image_env);
            (Some(held), Some(image))
        }
    };
    let rootfs = if image.is_some() { String::new() } else { app.instances.default_rootfs()? };
    let mut spec = new_spec(&request, rootfs, image, kit, &app.network)?;
    // Better now than at the boot.
    app.secrets.values(&spec.secrets).map_err(aegis_instances::InstanceError::Secret)?;
    // Not removed either.
    let _claimed = workspaces::claim(&app, &mut spec.mounts, &request.followed)?;
    let ports = request.exposes.iter().map(convert::wanted).collect::<Result<Vec<_>, _>>()?;
    let groups = request.network.as_ref().map(|network| network.groups.clone()).unwrap_or_default();
    let created = app.instances.create(request.handle.clone(), spec, ports, groups).await?;
    begin(&created, request.wait).await?;
    Ok((StatusCode::CREATED, Json(convert::instance(&app, &created.view()))))
}

/// Creates an instance from a snapshot.
async fn start_from(
    app: &App,
    from: &str,
    request: &CreateInstance,
) -> Result<(StatusCode, Json<Instance>), Failure> {
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
        return Err(Failure::invalid(text));
    }
    if let Some(handle) = &request.handle {
        convert::check_handle(handle)?;
    }
    let ports = request.exposes.iter().map(convert::wanted).collect::<Result<Vec<_>, _>>()?;
    let started =
        app.instances.start_from(from, request.handle.clone(), ports, request.share_workspace).await?;
    Ok((StatusCode::CREATED, Json(convert::instance(app, &started.view()))))
}

/// Whether a request names an instance's directories of the host and nothing else: to have it see what is there now.
fn sees_the_same(request: &CreateInstance, view: &View) -> Result<bool, Failure> {
    let unnoted = |mount: &Mount| Mount { identity: None, ..mount.clone() };
    let known: Vec<Mount> = view.spec.mounts.iter().map(unnoted).collect();
    Ok(names_directories(request) && workspaces::mounts(request)? == known)
}

/// Whether a request asks for what an instance is. What it may reach may have changed since, unless that is asked for; and
/// the size of its disk may change with it.
fn same_as(
    defaults: &NetworkDefaults,
    request: &CreateInstance,
    kit: Option<KitUse>,
    view: &View,
) -> Result<bool, Failure> {
    let mut wanted = new_spec(request, view.spec.rootfs.clone(), same_image(request, view), kit, defaults)?;
    for (mount, known) in wanted.mounts.iter_mut().zip(&view.spec.mounts) {
        // A request names directories; which they were is the instance's affair.
        mount.identity = known.identity;
    }
    wanted.disk_mib = view.spec.disk_mib;
    let network = &view.spec.network;
    match &request.network {
        None => wanted.network = network.clone(),
        Some(request) if is_in(&network.groups, &request.groups) => {
            wanted.network.groups = network.groups.clone();
        }
        Some(_) => {}
    }
    Ok(wanted == *view.spec)
}

/// Whether these are all groups that an instance is in.
fn is_in(places: &[Membership], groups: &[String]) -> bool {
    let places: BTreeSet<&String> = places.iter().map(|place| &place.group).collect();
    places == groups.iter().collect()
}

fn pin(name: &str, held: &Held, without_env: bool) -> PinnedImage {
    let env = if without_env { BTreeMap::new() } else { held.record.env.clone() };
    PinnedImage { reference: familiar(name), digest: held.record.digest.to_string(), env }
}

/// The image that an instance has already, if that is the one asked for.
fn same_image(request: &CreateInstance, view: &View) -> Option<PinnedImage> {
    let asked = request.image.as_deref().map(familiar);
    let pinned = view.spec.image.clone().filter(|image| asked.as_ref() == Some(&image.reference));
    let without_env = |image: PinnedImage| {
        if request.no_image_env { PinnedImage { env: BTreeMap::new(), ..image } } else { image }
    };
    pinned.map(without_env)
}

/// Whether a request asks for this instance, and not for another one with its handle.
fn is_meant(
    app: &App,
    request: &CreateInstance,
    kit: Option<KitUse>,
    existing: &InstanceHandle,
) -> Result<bool, Failure> {
    let view = existing.view();
    Ok(!request.ephemeral
        && (names_only(request)
            || names_disk(request).is_some()
            || sees_the_same(request, &view)?
            || same_as(&app.network, request, kit, &view)?)
        && exposes_nothing_new(request, &view)?)
}

async fn start_existing(
    app: &App,
    request: &CreateInstance,
    is_meant: bool,
    existing: &InstanceHandle,
) -> Result<Json<Instance>, Failure> {
    let view = existing.view();
    if !is_meant {
        return Err(aegis_instances::InstanceError::HandleExists(view.name().to_owned()).into());
    }
    if let Some(mebibytes) = request.disk_mb {
        if mebibytes > view.spec.disk_mib {
            app.instances.check_disk(mebibytes)?;
        }
        existing.grow_disk(mebibytes).await?;
    }
    if !names_only(request) {
        // Whoever names its directories once more means those that are there now.
        let mut mounts = view.spec.mounts.clone();
        let _claimed = workspaces::claim(app, &mut mounts, &request.followed)?;
        existing.renew_directories(mounts.iter().map(|mount| mount.identity).collect()).await?;
    }
    begin(existing, request.wait).await?;
    Ok(Json(convert::instance(app, &existing.view())))
}

/// Ports of an existing instance change by `expose` and `unexpose` only.
fn exposes_nothing_new(request: &CreateInstance, view: &View) -> Result<bool, Failure> {
    let wanted = request.exposes.iter().map(convert::wanted).collect::<Result<Vec<_>, _>>()?;
    Ok(additions(&view.endpoints, &wanted).is_ok_and(|added| added.is_empty()))
}

async fn begin(instance: &InstanceHandle, wait: bool) -> Result<(), Failure> {
    if wait {
        instance.request(Request::Start).await?
    } else {
        instance.begin_start().await?
    }
    Ok(())
}

/// One instance.
#[utoipa::path(get, path = "/v1/instances/{id}", params(("id" = String, description = "Id or handle.")),
    responses((status = 200, body = Instance), (status = 404, body = ErrorBody)))]
pub(super) async fn describe(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<Instance>, Failure> {
    let instance = app.instances.find(&id)?;
    let disk_usage = instance.disk_usage().await.map(convert::disk_usage);
    Ok(Json(Instance { disk_usage, ..convert::instance(&app, &instance.view()) }))
}

async fn act(app: &App, id: &str, request: Request, outcome: &str) -> Result<Json<ActionReply>, Failure> {
    let instance = app.instances.find(id)?;
    let id = instance.view().id.clone();
    instance.request(request).await?;
    Ok(Json(ActionReply { id, status: outcome.to_owned() }))
}

/// Deletes an instance in any state, with everything that is stored of it.
#[utoipa::path(delete, path = "/v1/instances/{id}", params(("id" = String, description = "Id or handle.")),
    responses((status = 200, body = ActionReply), (status = 404, body = ErrorBody)))]
pub(super) async fn delete(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<ActionReply>, Failure> {
    act(&app, &id, Request::Delete, "deleted").await
}

/// Which instances are old enough.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Age {
    /// How long they have been stopped at least, e.g. `12h` or `7d`. Required.
    older_than: Option<String>,
    /// Also those that are enabled and have ports, which a connection would wake.
    #[serde(default)]
    all: bool,
}

/// `POST /v1/instances/prune`: deletes the instances that have been stopped for long; those that a connection
/// would wake only if all are wanted. The path is
/// shared with the instance of that handle, which has no use for this method.
#[utoipa::path(post, path = "/v1/instances/{id}", params(("id" = String, description = "The word `prune`."), Age),
    responses((status = 200, body = PruneReply), (status = 400, body = ErrorBody), (status = 405, body = ErrorBody)))]
pub(super) async fn prune(
    State(app): State<App>,
    Path(word): Path<String>,
    Query(age): Query<Age>,
) -> Result<Response, Failure> {
    if word != "prune" {
        return Ok(no_such_method().await);
    }
    let text = age.older_than.ok_or_else(|| Failure::invalid("older_than is missing, e.g. older_than=7d"))?;
    let older_than = duration::parse_ms(&text)
        .map_err(|error| Failure::invalid(format!("older_than={text:?}: {error}")))?;
    let Pruned { deleted: ids, skipped } = app.instances.prune(older_than, age.all).await;
    Ok(Json(PruneReply { pruned: ids.len(), ids, skipped }).into_response())
}

/// Boots a stopped instance, enabling it; resumes a paused one.
#[utoipa::path(post, path = "/v1/instances/{id}/start",
    params(("id" = String, description = "Id or handle."), Patience),
    responses((status = 200, body = ActionReply), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(super) async fn start(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(patience): Query<Patience>,
) -> Result<Json<ActionReply>, Failure> {
    power(&app, &id, Request::Start, patience.wait, "starting").await
}

/// Stops an instance if it runs, and boots it.
#[utoipa::path(post, path = "/v1/instances/{id}/restart",
    params(("id" = String, description = "Id or handle."), Patience),
    responses((status = 200, body = ActionReply), (status = 404, body = ErrorBody)))]
pub(super) async fn restart(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(patience): Query<Patience>,
) -> Result<Json<ActionReply>, Failure> {
    power(&app, &id, Request::Restart, patience.wait, "restarting").await
}

async fn power(
    app: &App,
    id: &str,
    request: Request,
    wait: bool,
    meanwhile: &str,
) -> Result<Json<ActionReply>, Failure> {
    if wait {
        return act(app, id, request, "running").await;
    }
    let instance = app.instances.find(id)?;
    let view = instance.view();
    // Without patience, what can be refused at once still is.
    if request == Request::Start
        && matches!(convert::state(view.state), InstanceState::Running | InstanceState::Starting)
    {
        return Err(
            aegis_instances::InstanceError::AlreadyRunning(convert::state(view.state).as_str()).into()
        );
    }
    let id = view.id.clone();
    // Owned by the instance: ends with the boot.
    tokio::spawn(async move { instance.request(request).await });
    Ok(Json(ActionReply { id, status: meanwhile.to_owned() }))
}

/// Ends an instance's machine: SIGTERM to its processes, grace, SIGKILL. It stays enabled.
#[utoipa::path(post, path = "/v1/instances/{id}/stop", params(("id" = String, description = "Id or handle.")),
    responses((status = 200, body = ActionReply), (status = 404, body = ErrorBody)))]
pub(super) async fn stop(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<ActionReply>, Failure> {
    act(&app, &id, Request::Stop, "stopped").await
}

/// Like stop; from then on only an explicit start boots it.
#[utoipa::path(post, path = "/v1/instances/{id}/disable", params(("id" = String, description = "Id or handle.")),
    responses((status = 200, body = ActionReply), (status = 404, body = ErrorBody)))]
pub(super) async fn disable(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<ActionReply>, Failure> {
    act(&app, &id, Request::Disable, "disabled").await
}

/// Makes an instance's machine stand still, keeping its memory.
#[utoipa::path(post, path = "/v1/instances/{id}/pause", params(("id" = String, description = "Id or handle.")),
    responses((status = 200, body = ActionReply), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(super) async fn pause(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<ActionReply>, Failure> {
    act(&app, &id, Request::Pause, "paused").await
}

/// Puts an instance's machine on disk, with its memory, from where it goes on.
#[utoipa::path(post, path = "/v1/instances/{id}/hibernate", params(("id" = String, description = "Id or handle.")),
    responses((status = 200, body = ActionReply), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(super) async fn hibernate(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<ActionReply>, Failure> {
    act(&app, &id, Request::Hibernate, "hibernated").await
}

/// Lets a paused or hibernated instance go on.
#[utoipa::path(post, path = "/v1/instances/{id}/resume", params(("id" = String, description = "Id or handle.")),
    responses((status = 200, body = ActionReply), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(super) async fn resume(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<ActionReply>, Failure> {
    act(&app, &id, Request::Resume, "running").await
}
