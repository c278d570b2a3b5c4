//! Secrets: set, named, deleted. No handler gives a value.

use aegis_api::error::{ApiError, ErrorBody, ErrorCode};
use aegis_api::secret::{RekeyReply, SecretReply, SecretValue};
use aegis_store::secrets::SecretError;
use axum::Json;
use axum::extract::{Path, State};
use bytes::Bytes;

use super::failure::{Failure, blocking};
use crate::App;

impl From<SecretError> for Failure {
    fn from(error: SecretError) -> Failure {
        let text = error.to_string();
        Failure(match error {
            SecretError::Invalid(_) | SecretError::TooMany => ApiError::new(ErrorCode::InvalidArgument, text),
            SecretError::NotFound(_) => ApiError::new(ErrorCode::SecretNotFound, text)
                .hint("see what there is with: aegis secret list"),
            SecretError::Locked { .. } => {
                ApiError::new(ErrorCode::SecretNotFound, text).hint("unlock the keyring, and try again")
            }
            SecretError::Unreadable { .. } | SecretError::Io { .. } | SecretError::NoRandom => {
                ApiError::new(ErrorCode::Internal, text).hint("see docs/SECRETS.md")
            }
        })
    }
}

/// Names of all secrets.
#[utoipa::path(get, path = "/v1/secrets", responses((status = 200, body = Vec<String>)))]
pub(super) async fn list(State(app): State<App>) -> Json<Vec<String>> {
    Json(app.secrets.0.names())
}

/// Sets a secret. Instances that have it get the new value at their next boot or exec.
#[utoipa::path(put, path = "/v1/secrets/{key}", request_body = SecretValue,
    params(("key" = String, description = "Its name, which is that of the environment variable.")),
    responses((status = 200, body = SecretReply), (status = 400, body = ErrorBody)))]
pub(super) async fn set(
    State(app): State<App>,
    Path(key): Path<String>,
    body: Bytes,
) -> Result<Json<SecretReply>, Failure> {
    // What is wrong with the body is not told in its own words: they may have the value in them.
    let parsed = serde_json::from_slice::<SecretValue>(&body);
    let SecretValue { value } = parsed.map_err(|_| Failure::invalid("the body is no {\"value\": \"…\"}"))?;
    let name = key.clone();
    blocking(move || app.secrets.0.set(&name, &value)).await?;
    Ok(Json(SecretReply { key, status: "set".to_owned() }))
}

/// Deletes a secret. Instances that name it cannot boot without it.
#[utoipa::path(delete, path = "/v1/secrets/{key}", params(("key" = String, description = "Its name.")),
    responses((status = 200, body = SecretReply), (status = 404, body = ErrorBody)))]
pub(super) async fn delete(
    State(app): State<App>,
    Path(key): Path<String>,
) -> Result<Json<SecretReply>, Failure> {
    let name = key.clone();
    blocking(move || app.secrets.0.delete(&name)).await?;
    Ok(Json(SecretReply { key, status: "deleted".to_owned() }))
}

/// Seals all secrets anew, with a new master key.
#[utoipa::path(post, path = "/v1/secrets/rekey", responses((status = 200, body = RekeyReply)))]
pub(super) async fn rekey(State(app): State<App>) -> Result<Json<RekeyReply>, Failure> {
    Ok(Json(RekeyReply { secrets: blocking(move || app.secrets.0.rekey()).await? }))
}
