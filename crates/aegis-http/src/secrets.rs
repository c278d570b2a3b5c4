//! Secrets: set, named, deleted. No handler gives a value.

use aegis_api::error::ErrorBody;
use aegis_api::secret::{RekeyReply, SecretReply, SecretValue};
use axum::Json;
use axum::extract::{Path, State};
use bytes::Bytes;

use crate::api_failure::{ApiFailure, blocking};
use crate::state::ApiState;

/// Names of all secrets.
#[utoipa::path(get, path = "/v1/secrets", responses((status = 200, body = Vec<String>)))]
pub(crate) async fn list(State(app): State<ApiState>) -> Json<Vec<String>> {
    Json(app.engine.secrets().0.names())
}

/// Sets a secret. Instances that have it get the new value at their next boot or exec.
#[utoipa::path(put, path = "/v1/secrets/{key}", request_body = SecretValue,
    params(("key" = String, description = "Its name, which is that of the environment variable.")),
    responses((status = 200, body = SecretReply), (status = 400, body = ErrorBody)))]
pub(crate) async fn set(
    State(app): State<ApiState>,
    Path(key): Path<String>,
    body: Bytes,
) -> Result<Json<SecretReply>, ApiFailure> {
    // What is wrong with the body is not told in its own words: they may have the value in them.
    let parsed = serde_json::from_slice::<SecretValue>(&body);
    let SecretValue { value } =
        parsed.map_err(|_| ApiFailure::invalid("the body is no {\"value\": \"…\"}"))?;
    let name = key.clone();
    blocking(move || app.engine.secrets().0.set(&name, &value)).await?;
    Ok(Json(SecretReply { key, status: "set".to_owned() }))
}

/// Deletes a secret. Instances that name it cannot boot without it.
#[utoipa::path(delete, path = "/v1/secrets/{key}", params(("key" = String, description = "Its name.")),
    responses((status = 200, body = SecretReply), (status = 404, body = ErrorBody)))]
pub(crate) async fn delete(
    State(app): State<ApiState>,
    Path(key): Path<String>,
) -> Result<Json<SecretReply>, ApiFailure> {
    let name = key.clone();
    blocking(move || app.engine.secrets().0.delete(&name)).await?;
    Ok(Json(SecretReply { key, status: "deleted".to_owned() }))
}

/// Seals all secrets anew, with a new master key.
#[utoipa::path(post, path = "/v1/secrets/rekey", responses((status = 200, body = RekeyReply)))]
pub(crate) async fn rekey(State(app): State<ApiState>) -> Result<Json<RekeyReply>, ApiFailure> {
    Ok(Json(RekeyReply { secrets: blocking(move || app.engine.secrets().0.rekey()).await? }))
}
