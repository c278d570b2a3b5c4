//! Workspaces: made, listed, described, removed.

use aegis_api::error::ErrorBody;
use aegis_api::workspace::{CreateWorkspace, Workspace, WorkspaceReply};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use bytes::Bytes;

use crate::api_failure::{ApiFailure, blocking};
use crate::body::parse;
use crate::mapping::check_workspace;
use crate::state::ApiState;

fn shown(app: &ApiState, name: &str) -> Workspace {
    Workspace {
        name: name.to_owned(),
        path: app.engine.workspaces().path(name).display().to_string(),
        used_by: app.engine.workspace_users(name),
        entries: None,
        bytes: None,
    }
}

/// All workspaces.
#[utoipa::path(get, path = "/v1/workspaces", responses((status = 200, body = Vec<Workspace>)))]
pub(crate) async fn list(State(app): State<ApiState>) -> Json<Vec<Workspace>> {
    Json(app.engine.workspaces().names().iter().map(|name| shown(&app, name)).collect())
}

/// Makes an empty workspace. One that an instance names is made by itself.
#[utoipa::path(post, path = "/v1/workspaces", request_body = CreateWorkspace, responses(
    (status = 201, body = Workspace), (status = 400, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn create(
    State(app): State<ApiState>,
    body: Bytes,
) -> Result<(StatusCode, Json<Workspace>), ApiFailure> {
    let CreateWorkspace { name } = parse(&body)?;
    check_workspace(&name)?;
    app.engine.workspaces().create(&name)?;
    Ok((StatusCode::CREATED, Json(shown(&app, &name))))
}

/// One workspace, with what is in it.
#[utoipa::path(get, path = "/v1/workspaces/{name}", params(("name" = String, description = "Its name.")),
    responses((status = 200, body = Workspace), (status = 404, body = ErrorBody)))]
pub(crate) async fn describe(
    State(app): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<Workspace>, ApiFailure> {
    check_workspace(&name)?;
    let shown = shown(&app, &name);
    let contents = blocking(move || app.engine.workspaces().contents(&name)).await?;
    Ok(Json(Workspace { entries: Some(contents.entries), bytes: Some(contents.bytes), ..shown }))
}

/// Removes a workspace with all that is in it, unless an instance sees it, running or not.
#[utoipa::path(delete, path = "/v1/workspaces/{name}", params(("name" = String, description = "Its name.")),
    responses((status = 200, body = WorkspaceReply), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn remove(
    State(app): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<WorkspaceReply>, ApiFailure> {
    check_workspace(&name)?;
    let removed = name.clone();
    blocking(move || app.engine.remove_workspace(&removed)).await?;
    Ok(Json(WorkspaceReply { name, status: "removed".to_owned() }))
}
