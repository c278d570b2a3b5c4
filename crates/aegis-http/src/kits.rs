//! Kits: listed, described, checked.

use std::path::PathBuf;

use aegis_api::error::ErrorBody;
use aegis_api::kit::{Kit, ValidateKit};
use aegis_engine::error::EngineError;
use aegis_engine::kits::host_kits;
use axum::Json;
use axum::extract::{Path, State};
use bytes::Bytes;

use crate::api_failure::{ApiFailure, blocking};
use crate::body::parse;
use crate::state::ApiState;

fn shown(app: &ApiState, kit: &aegis_kits::Kit, whole: bool) -> Kit {
    let manifest = kit.manifest.as_ref().ok();
    Kit {
        name: kit.name.clone(),
        version: manifest.map(|manifest| manifest.version.clone()).unwrap_or_default(),
        description: manifest.map(|manifest| manifest.description.clone()).unwrap_or_default(),
        status: if manifest.is_some() { "ok" } else { "broken" }.to_owned(),
        problem: kit.manifest.as_ref().err().map(ToString::to_string),
        source: kit.source.display().to_string(),
        used_by: app.engine.kit_users(&kit.name),
        manifest: manifest.filter(|_| whole).and_then(|manifest| serde_json::to_value(manifest).ok()),
    }
}

/// All kits, broken ones included.
#[utoipa::path(get, path = "/v1/kits", responses((status = 200, body = Vec<Kit>)))]
pub(crate) async fn list(State(app): State<ApiState>) -> Result<Json<Vec<Kit>>, ApiFailure> {
    let found = app.engine.kits().clone();
    let all = blocking(move || Ok::<_, ApiFailure>(found.all())).await?;
    Ok(Json(all.values().map(|kit| shown(&app, kit, false)).collect()))
}

/// One kit, with its manifest.
#[utoipa::path(get, path = "/v1/kits/{name}", params(("name" = String, description = "Its name.")),
    responses((status = 200, body = Kit), (status = 404, body = ErrorBody)))]
pub(crate) async fn describe(
    State(app): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<Kit>, ApiFailure> {
    let (found, wanted) = (app.engine.kits().clone(), name.clone());
    let kit = blocking(move || Ok::<_, ApiFailure>(found.find(&wanted))).await?;
    Ok(Json(shown(&app, &kit.ok_or(EngineError::KitMissing(name))?, true)))
}

/// Checks a manifest that need not be where kits are found. What is wrong with it is part of the reply.
#[utoipa::path(post, path = "/v1/kits/validate", request_body = ValidateKit,
    responses((status = 200, body = Kit), (status = 400, body = ErrorBody)))]
pub(crate) async fn validate(State(app): State<ApiState>, body: Bytes) -> Result<Json<Kit>, ApiFailure> {
    let ValidateKit { path } = parse(&body)?;
    let path = PathBuf::from(path);
    if !path.is_absolute() {
        return Err(ApiFailure::invalid("the path is not absolute"));
    }
    let kit = blocking(move || Ok::<_, ApiFailure>(host_kits::load(&path))).await?;
    Ok(Json(shown(&app, &kit, true)))
}
