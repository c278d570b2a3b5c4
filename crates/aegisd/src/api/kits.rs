//! Kits: listed, described, checked.

use std::path::PathBuf;

use aegis_api::error::{ApiError, ErrorBody, ErrorCode};
use aegis_api::instance::CreateInstance;
use aegis_api::kit::{Kit, ValidateKit};
use aegis_instances::kit::KitUse;
use axum::Json;
use axum::extract::{Path, State};
use bytes::Bytes;

use super::convert::parse;
use super::failure::{Failure, blocking};
use crate::{App, kits};

fn shown(app: &App, kit: &aegis_kits::Kit, whole: bool) -> Kit {
    let manifest = kit.manifest.as_ref().ok();
    let uses = |name: &str| {
        let views = app.instances.list();
        let using = views.iter().filter(|view| view.spec.kit.as_ref().is_some_and(|kit| kit.name == name));
        using.map(|view| view.name().to_owned()).collect()
    };
    Kit {
        name: kit.name.clone(),
        version: manifest.map(|manifest| manifest.version.clone()).unwrap_or_default(),
        description: manifest.map(|manifest| manifest.description.clone()).unwrap_or_default(),
        status: if manifest.is_some() { "ok" } else { "broken" }.to_owned(),
        problem: kit.manifest.as_ref().err().map(ToString::to_string),
        source: kit.source.display().to_string(),
        used_by: uses(&kit.name),
        manifest: manifest.filter(|_| whole).and_then(|manifest| serde_json::to_value(manifest).ok()),
    }
}

fn absent(name: &str) -> Failure {
    let text = format!("there is no kit {name:?}");
    Failure(ApiError::new(ErrorCode::KitNotFound, text).hint("see what there is with: aegis kit list"))
}

/// All kits, broken ones included.
#[utoipa::path(get, path = "/v1/kits", responses((status = 200, body = Vec<Kit>)))]
pub(super) async fn list(State(app): State<App>) -> Result<Json<Vec<Kit>>, Failure> {
    let found = app.kits.clone();
    let all = blocking(move || Ok::<_, Failure>(found.all())).await?;
    Ok(Json(all.values().map(|kit| shown(&app, kit, false)).collect()))
}

/// One kit, with its manifest.
#[utoipa::path(get, path = "/v1/kits/{name}", params(("name" = String, description = "Its name.")),
    responses((status = 200, body = Kit), (status = 404, body = ErrorBody)))]
pub(super) async fn describe(State(app): State<App>, Path(name): Path<String>) -> Result<Json<Kit>, Failure> {
    let (found, wanted) = (app.kits.clone(), name.clone());
    let kit = blocking(move || Ok::<_, Failure>(found.find(&wanted))).await?;
    Ok(Json(shown(&app, &kit.ok_or_else(|| absent(&name))?, true)))
}

/// Checks a manifest that need not be where kits are found. What is wrong with it is part of the reply.
#[utoipa::path(post, path = "/v1/kits/validate", request_body = ValidateKit,
    responses((status = 200, body = Kit), (status = 400, body = ErrorBody)))]
pub(super) async fn validate(State(app): State<App>, body: Bytes) -> Result<Json<Kit>, Failure> {
    let ValidateKit { path } = parse(&body)?;
    let path = PathBuf::from(path);
    if !path.is_absolute() {
        return Err(Failure::invalid("the path is not absolute"));
    }
    let kit = blocking(move || Ok::<_, Failure>(kits::load(&path))).await?;
    Ok(Json(shown(&app, &kit, true)))
}

/// A request with what it leaves to its kit.
pub(super) async fn applied(
    app: &App,
    request: CreateInstance,
) -> Result<(CreateInstance, Option<KitUse>), Failure> {
    let Some(name) = request.kit.clone() else { return Ok((request, None)) };
    let (found, wanted) = (app.kits.clone(), name.clone());
    let kit = blocking(move || Ok::<_, Failure>(found.find(&wanted))).await?;
    let manifest = kit.ok_or_else(|| absent(&name))?.manifest.map_err(|broken| {
        let error = ApiError::new(ErrorCode::KitInvalid, format!("kit {name:?} is broken: {broken}"));
        Failure(error.hint(format!("see: aegis kit info {name}")))
    })?;
    let (request, used) = kits::apply(&manifest, request).map_err(|text| {
        Failure(ApiError::new(ErrorCode::InvalidArgument, text).hint("give it with: --secret NAME"))
    })?;
    Ok((request, Some(used)))
}
